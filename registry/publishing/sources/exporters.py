"""Runs the program that exports one model to ONNX: by the Python that has the vendor's packages, in a sandbox."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from registry.inspection.detect import detect
from registry.inspection.facts import InspectionError
from registry.publishing.sources.found import SourceError, SourceUsageError
from registry.sandbox.ends import has_ended, kill_group

TIMEOUT_S = 300.0
_MAX_ANSWER = 1 << 16
_WORDS = 500


@dataclass(frozen=True)
class Exporter:
    """Which program exports, and who runs it."""

    program: str
    """A file beside this one; `export_child` says what it is told and what it answers."""
    variable: str
    """Of the environment: the Python that has the packages. Not set: this one, where it has `module`."""
    module: str
    missing: str
    """What is said where no Python has it."""

    def run(self, order: dict[str, Any]) -> dict[str, Any]:
        """The program's answer. Raises SourceError: it cannot be started, ends early, takes too long, or refuses."""
        interpreter = os.environ.get(self.variable) or (sys.executable if find_spec(self.module) else "")
        if not interpreter:
            raise SourceError(f"{self.missing}, and name its Python in {self.variable}")
        child = Path(__file__).with_name(self.program)
        environment = {key: value for key, value in os.environ.items() if not key.startswith("MODELFLEET_")}
        # None of the three has to be short.
        with tempfile.TemporaryFile() as words, tempfile.TemporaryFile() as told, tempfile.TemporaryFile() as ordered:
            ordered.write(json.dumps(order).encode())
            ordered.seek(0)
            try:
                process = subprocess.Popen(
                    [interpreter, "-I", str(child)], stdin=ordered, stdout=told, stderr=words,
                    env=environment, start_new_session=True,
                )  # fmt: skip
            except OSError as error:
                raise SourceError(f"{interpreter} ({self.variable}) cannot be started: {error.strerror}") from None
            try:
                if not has_ended(process, TIMEOUT_S):
                    raise SourceError(f"the export took longer than {TIMEOUT_S:g} s")
            finally:
                kill_group(process)
                process.wait()
            try:
                told.seek(0)
                said = json.loads(told.read(_MAX_ANSWER))
            except ValueError:
                words.seek(max(0, words.seek(0, os.SEEK_END) - _WORDS))
                ended = " ".join(words.read().decode("utf-8", "replace").split())
                raise SourceError(f"the export ended with status {process.returncode}: {ended}") from None
        if not isinstance(said, dict):
            raise SourceError("the answer of the export cannot be read")
        if "error" in said:
            raise SourceError(f"{Path(order['file']).name} cannot be exported to ONNX: {said['error']}")
        return said


def require_none_to_publish(path: Path, whose: str) -> None:
    """Raises SourceUsageError: by its content the file is a model that is published as it is."""
    kind = None
    with suppress(InspectionError, OSError):  # a pickle is none of the formats
        kind = detect(path)
    if kind is not None:
        raise SourceUsageError(
            f"{path} is a file of the format {kind}, not a model of {whose}: import it as a plain file, "
            f"registry import {path}"
        )
