"""The registry's HTTP API, for administrators: what takes its disk's room, and what works and what does not."""

from __future__ import annotations

from pydantic import AwareDatetime

from registry.contracts.enums import StrEnum
from registry.contracts.wire import Integer, Name, VersionName, Wire

MAX_VERSIONS = 200


class VersionRoom(Wire):
    """Bytes of one version's blobs, its variants and golden vectors."""

    model: Name
    """The model."""
    version: VersionName
    """Its name."""
    bytes: Integer
    """Of all its blobs, each once."""
    own: Integer
    """Of those that no other version and no validation set has: so many bytes its deletion gives back, later."""
    yanked: bool = False
    """Nothing new gets it."""


class UnneededRoom(Wire):
    """Blobs that no version and no validation set has: what collecting garbage frees."""

    blobs: Integer
    """So many."""
    bytes: Integer
    """Of all of them."""
    due_blobs: Integer = 0
    """Those that the next collection removes: nobody has used them for the grace time."""
    due_bytes: Integer = 0
    """Of those."""
    last_due: AwareDatetime | None = None
    """When the grace time of the last of them is over. None: there are none."""


class DiskView(Wire):
    """What takes the room. It is counted at most once in a while; `at` says when."""

    at: AwareDatetime
    """When it was counted, UTC."""
    free_bytes: Integer | None = None
    """Of the file system of the blobs. None: the store does not know."""
    reserve_bytes: Integer = 0
    """Uploads leave so many free."""
    blobs: Integer
    """All of them."""
    bytes: Integer
    """Of all of them, each once."""
    shared_bytes: Integer
    """Of blobs that several versions have."""
    dataset_bytes: Integer
    """Of validation sets."""
    unneeded: UnneededRoom
    """What collecting garbage frees."""
    collects_every_s: float
    """Seconds from one collection to the next."""
    grace_s: float
    """A blob that nobody needs is kept for so many seconds after it was last used."""
    uploads: Integer
    """Upload sessions that are not complete."""
    upload_bytes: Integer
    """That these have received."""
    damaged: Integer
    """Blobs whose copy is lost or wrong; publishing the version again replaces it."""
    database_bytes: Integer | None = None
    """Of the database. None: it does not say."""
    versions: tuple[VersionRoom, ...] = ()
    """Those with the most bytes of their own, MAX_VERSIONS at most."""
    more_versions: Integer = 0
    """Further versions."""


class CheckState(StrEnum):
    """What a check found."""

    OK = "ok"
    """It works."""
    WARNING = "warning"
    """It works, and somebody should look at it."""
    FAILED = "failed"
    """It does not work."""
    OFF = "off"
    """It is not configured."""


class CheckView(Wire):
    """One check."""

    name: str
    """What was looked at: `database`, `store`, `broker`, ..."""
    state: CheckState
    """What was found."""
    text: str
    """In words."""
    advice: str = ""
    """What to do. Empty: nothing."""


class DiagnosisView(Wire):
    """Every check of this registry's process, made for this answer."""

    at: AwareDatetime
    """Its clock, UTC."""
    checks: tuple[CheckView, ...]
    """In their order."""
