"""Writes a credential to a file that only its owner can read."""

from __future__ import annotations

import os
from pathlib import Path

from registry.cli.failures import CliError


def require_new_file(path: Path | None) -> None:
    """Before a credential is made: nothing lies where it is to be written.

    Raises:
        CliError: something does; it may be a credential that is in use.
    """
    if path is not None and (path.exists() or path.is_symlink()):
        raise CliError(
            f"{path} exists already and is not overwritten; no credential was made",
            code="conflict",
            hint="Remove that file, or name another.",
        )


AGAIN = "Create a new one with another file: registry devices rotate, or registry token revoke and create."


def write_secret(path: Path, secret: str, hint: str = AGAIN) -> None:
    """Create `path` with mode 600 and the secret in it; on disk when this returns.

    Raises:
        CliError: it cannot be written, and nothing else has the secret, so it has to be recreated as `hint` says.
    """
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w", encoding="ascii") as file:
            file.write(secret + "\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise CliError(
            f"The credential was made but {path} cannot be written: {error.strerror}",
            code="disk_error",
            hint=hint,
        ) from error
