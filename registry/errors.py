"""What a use case can refuse, with a stable code. Knows nothing of HTTP; `server.middleware.problems` does."""

from __future__ import annotations

from registry.contracts.codes import ProblemCode


class RegistryError(Exception):
    """Base. `code` is stable; the message says what happened, why, what to do; `errors` lists single faults."""

    code: str = ProblemCode.INTERNAL
    hint: str = ""
    """What to do; empty: what the table of the code says."""

    def __init__(self, message: str, errors: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.errors = errors


class StartError(RegistryError):
    """The registry cannot start: a setting, a file, the database. `lasting`: somebody has to change something first."""

    def __init__(self, code: str, message: str, *, lasting: bool = True) -> None:
        super().__init__(message)
        self.code = code
        self.lasting = lasting


class TemporaryError(RegistryError):
    """Base of what lies not in the request but in the registry's own condition: the same request passes later, when
    whoever or whatever has to mend it has done so. Nothing was changed."""


class NotFoundError(RegistryError):
    """What was asked for is not there."""

    code = ProblemCode.NOT_FOUND


class ConflictError(RegistryError):
    """It exists with other content; `errors` names the differences."""

    code = ProblemCode.CONFLICT


class YankedError(RegistryError):
    """The version was yanked: nothing new gets it."""

    code = ProblemCode.YANKED


class InUseError(RegistryError):
    """A device serves it, or may return to it; `errors` names the users."""

    code = ProblemCode.IN_USE


class KeyOfflineError(RegistryError):
    """The private key that has to sign it is not in this registry."""

    code = ProblemCode.KEY_OFFLINE


class PreconditionError(RegistryError):
    """Somebody else changed it first: read it again and decide again."""

    code = ProblemCode.PRECONDITION_FAILED


class InvalidError(RegistryError):
    """The request breaks a rule; `errors` names each."""

    code = ProblemCode.INVALID


class DigestMismatchError(RegistryError):
    """The bytes that came are not the blob that was announced."""

    code = ProblemCode.DIGEST_MISMATCH


class OffsetMismatchError(RegistryError):
    """The next byte of an upload is another one; `offset` says which."""

    code = ProblemCode.OFFSET_MISMATCH

    def __init__(self, message: str, offset: int) -> None:
        super().__init__(message)
        self.offset = offset


class TooLargeError(RegistryError):
    """Over a limit that the message names."""

    code = ProblemCode.TOO_LARGE


class StorageFullError(TemporaryError):
    """The disk has no room."""

    code = ProblemCode.INSUFFICIENT_STORAGE


class ReadOnlyError(TemporaryError):
    """The database or the disk takes no writes at the moment; what only reads may work."""

    code = ProblemCode.READ_ONLY


class StorageFailedError(TemporaryError):
    """The database or the disk fails: an input or output error, damage, or no permission."""

    code = ProblemCode.STORAGE_FAILED


class UnauthorizedError(RegistryError):
    """No token, or one that is not known."""

    code = ProblemCode.UNAUTHORIZED


class ForbiddenError(RegistryError):
    """A token without the role that this needs, or limited to other models or devices."""

    code = ProblemCode.FORBIDDEN


class NeedsApprovalError(RegistryError):
    """The change waits for a second person."""

    code = ProblemCode.NEEDS_APPROVAL


class DamagedError(TemporaryError):
    """The registry's copy of a blob is lost or not what its name says; it works when it was published again."""

    code = ProblemCode.BLOB_DAMAGED


class BusyError(TemporaryError):
    """Too much at once, a lock was not to be had in time, or the database server is away: try a little later."""

    code = ProblemCode.BUSY


class ShareError(BusyError):
    """The caller has all that one caller may have; `wait_s`: when there is some of it again, if that is known."""

    code = ProblemCode.OVER_SHARE

    def __init__(self, message: str, wait_s: float = 0.0) -> None:
        super().__init__(message)
        self.wait_s = wait_s


class InTheWayError(BusyError):
    """Another transaction was faster, as happens where several write: what was meant is simply done again."""
