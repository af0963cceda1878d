"""Secrets in files, which may be replaced at any time: read when they are used, not once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pydantic import SecretStr

from agent.config.settings import ConfigError, read_secret

Reader = Callable[[], "str | None"]


def secret_reader(value: SecretStr | None, file: Path | None) -> Reader:
    """What reads the secret that the settings hold or name; it answers None when they do neither."""
    if value is not None or file is None:
        return lambda: read_secret(value, None)
    return SecretFile(file)


class SecretFile:
    """A secret in a file. Thread-safe."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._last: str | None = None

    def __call__(self) -> str | None:
        """The secret as the file holds it now, or the last one while it cannot be read: it is being replaced.

        Raises:
            ConfigError: it cannot be read, and never could.
        """
        try:
            self._last = read_secret(None, self._file)
        except ConfigError:
            if self._last is None:
                raise
        return self._last
