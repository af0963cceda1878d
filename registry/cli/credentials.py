"""Writes a credential to a file that only its owner can read."""

from __future__ import annotations

import os
from pathlib import Path

from registry.cli.failures import CliError, ExitCode


def write_secret(path: Path, secret: str) -> None:
    """Create `path` with mode 600 and the secret in it; on disk when this returns.

    Raises:
        CliError: it exists already (it may be in use) or cannot be written. The message has the secret's
            way out: the credential exists in the registry and can be made anew.
    """
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError as error:
        raise CliError(
            f"{path} exists already and is not overwritten. The credential was made but is lost with this message",
            code="conflict",
            hint="Remove that file or name another, then make the credential anew (rotate, or revoke and create).",
            exit_code=ExitCode.CONFLICT,
        ) from error
    except OSError as error:
        raise CliError(
            f"{path} cannot be written: {error.strerror}", hint="Make the credential anew elsewhere."
        ) from error
    with os.fdopen(handle, "w", encoding="ascii") as file:
        file.write(secret + "\n")
        file.flush()
        os.fsync(file.fileno())
