"""A service of an image without systemd: started as its unit says, in the image's root."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path
from typing import IO

from tests.support.host.debian_root import DebianRoot


class InstalledUnit:
    """What `systemctl start` would read: the program, its user, its environment and its folder for data."""

    def __init__(self, image: DebianRoot, name: str) -> None:
        """Raises KeyError: the unit does not say it."""
        self._image = image
        lines = (image.root / "etc/systemd/system" / f"{name}.service").read_text().splitlines()
        pairs = [(key, value) for key, equals, value in (line.partition("=") for line in lines) if equals]
        self._settings = dict(pairs)
        self._environment = dict(v.split("=", 1) for key, v in pairs if key == "Environment")
        self.user = self._settings["User"]
        self.data = Path("/var/lib", self._settings["StateDirectory"])

    @property
    def program(self) -> str:
        """The path of the program in the image."""
        return shlex.split(self._settings["ExecStart"])[0]

    def start(self, log: IO[bytes]) -> subprocess.Popen[bytes]:
        """The service as its user, with its settings; its folder for data is made as systemd would."""
        prepare = f"install -d -m {self._settings['StateDirectoryMode']} -o {self.user} -g {self.user} {self.data}"
        made = self._image.argv("sh", "-c", prepare)
        subprocess.run(made, check=True, timeout=60)
        argv = self._image.argv(*shlex.split(self._settings["ExecStart"]), user=self.user, **self._variables())
        return subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """A command as the service's user with the service's environment. stdout has both streams."""
        argv = self._image.argv(*command, user=self.user, **self._variables())
        return subprocess.run(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, errors="replace", timeout=300, check=False,
        )  # fmt: skip

    def _variables(self) -> dict[str, str]:
        file = self._image.root / self._settings["EnvironmentFile"].lstrip("-/")
        lines = (line.strip() for line in file.read_text().splitlines())
        said = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
        return {**self._environment, **said}
