"""A disk whose power can be cut: ext4 in a file, shut down by the kernel without writing anything more.

FS_IOC_SHUTDOWN with NOLOGFLUSH (fs/ext4/ioctl.c) stops the file system at once: what was not synced and not yet written
by chance is gone, as after a cut of power; the next mount replays the log. `data=writeback,noauto_da_alloc` takes away
what ext4 does by itself for programs that forget to sync.
"""

from __future__ import annotations

import fcntl
import os
import struct
import subprocess
from pathlib import Path

_SHUTDOWN, _NO_LOG_FLUSH = 0x8004587D, struct.pack("I", 2)
_OPTIONS = "loop,data=writeback,noauto_da_alloc"


class NoDiskError(Exception):
    """Why none can be made here."""


class Disk:
    """Mounted after construction."""

    def __init__(self, folder: Path, mebibytes: int = 192) -> None:
        self.folder = folder / "disk"
        self._image = folder / "image"
        self.folder.mkdir()
        with self._image.open("wb") as stream:
            stream.truncate(mebibytes << 20)
        if os.geteuid() != 0:
            raise NoDiskError("mounting needs root")
        try:
            subprocess.run(["mkfs.ext4", "-q", "-F", str(self._image)], check=True, capture_output=True)
            self._mount()
        except (OSError, subprocess.CalledProcessError) as error:
            raise NoDiskError(f"no ext4 on a loop device here: {error}") from None

    def cut(self) -> None:
        """The power goes. Whoever still has a file open there gets errors only."""
        descriptor = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.ioctl(descriptor, _SHUTDOWN, _NO_LOG_FLUSH)
        finally:
            os.close(descriptor)

    def come_back(self) -> None:
        """The power is back. Nobody may have a file open there."""
        subprocess.run(["umount", str(self.folder)], check=True, capture_output=True)
        self._mount()

    def close(self) -> None:
        """Gone for good."""
        subprocess.run(["umount", "-l", str(self.folder)], check=False, capture_output=True)

    def _mount(self) -> None:
        command = ["mount", "-o", _OPTIONS, str(self._image), str(self.folder)]
        subprocess.run(command, check=True, capture_output=True)
