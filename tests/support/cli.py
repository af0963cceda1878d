"""Runs `registry` as a person's shell would: a process of its own, in a home without tokens unless given one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Ran:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """stdout as JSON."""
        return json.loads(self.out)

    @property
    def error(self) -> Any:
        """The error that --json prints on stderr, its last line."""
        return json.loads(self.err.strip().splitlines()[-1])["error"]


class Cli:
    """Commands against one registry.

    Args:
        folder: Working directory and home.
        url: The registry.
        token: Given in the environment; None: none.
    """

    def __init__(self, folder: Path, url: str, token: str | None) -> None:
        self.folder = folder
        self.url = url
        clean = {key: value for key, value in os.environ.items() if not key.startswith(("MODELFLEET_", "XDG_"))}
        self.environment = clean | {"MODELFLEET_REGISTRY": url, "HOME": str(folder)}
        if token is not None:
            self.environment["MODELFLEET_TOKEN"] = token

    def __call__(self, *arguments: object, code: int | None = 0, **environment: str) -> Ran:
        """Run to the end (60 s at most); `code` is the exit status that is expected, None: any."""
        with self.start(*arguments, **environment) as process:
            out, err = process.communicate(timeout=60)
        ran = Ran(process.returncode, out, err)
        assert code is None or ran.code == code, ran
        return ran

    def start(self, *arguments: object, **environment: str) -> subprocess.Popen[str]:
        """Start it, for tests that interrupt."""
        return subprocess.Popen(
            [sys.executable, "-m", "registry", *(str(argument) for argument in arguments)],
            cwd=self.folder,
            env=self.environment | environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
