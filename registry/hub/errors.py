"""The one error of the client."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from registry.client.errors import ClientError, action_of
from registry.errors import RegistryError


class HubError(Exception):
    """What could not be done, and why.

    Args:
        code: Stable, for programs: `not_found`, `unreachable`, `digest_mismatch`, `checkpoint_mismatch`, ...
        message: One sentence or a few.
        hint: What to do about it. Empty: what the table of the code says.
    """

    def __init__(self, code: str, message: str, hint: str = "") -> None:
        super().__init__(f"{message}. {hint}" if hint else message)
        self.code = code
        self.message = message
        self.hint = hint or action_of(code)


@contextmanager
def as_hub_errors() -> Iterator[None]:
    """What the registry's client raises becomes a HubError with the same code."""
    try:
        yield
    except ClientError as error:
        raise HubError(error.code, "; ".join((error.what, *error.errors)), error.hint) from error
    except RegistryError as error:
        raise HubError(error.code, "; ".join((error.message, *error.errors))) from error
    except OSError as error:
        hint = "Free space, or set XDG_CACHE_HOME or MODELFLEET_HUB_CACHE_BYTES"
        raise HubError("disk_error", f"{error.filename or 'the cache'}: {error.strerror}", hint) from error
