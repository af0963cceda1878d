"""The registry's HTTP API, for people: who signs what, and until when. The metadata themselves are TUF's."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, Field

from registry.contracts.enums import StrEnum
from registry.contracts.wire import Integer, Name, Wire

MAX_MODELS_NAMED = 200


class TrustKeyView(Wire):
    """One key that signs something."""

    keyid: str
    """Its id in the metadata."""
    kind: str
    """Algorithm: `ed25519`, `ecdsa-sha2-nistp256` and so on."""
    here: bool
    """The registry has the private key and signs with it by itself."""
    signs: tuple[str, ...] = ()
    """Roles: `image root`, `director targets`; of models `image model-NAME`, some of them."""


class TrustRoleView(Wire):
    """One role of a repository, and its newest metadata."""

    repository: Literal["image", "director"]
    """Which."""
    role: str
    """`root`, `targets`, `snapshot`, `timestamp`, `unclaimed`, `model-NAME`; `targets` of the director: documents."""
    keys: tuple[str, ...]
    """Ids of the keys that may sign it."""
    threshold: Integer = 1
    """So many of them have to."""
    here: Integer = 0
    """So many of the keys the registry has."""
    version: Integer | None = None
    """Of the newest metadata. None: there are none, as of the director's documents."""
    expires: AwareDatetime | None = None
    """When they expire, UTC."""
    days_left: float | None = None
    """Until then; negative: they have expired."""


class TrustView(Wire):
    """The signed metadata as a whole."""

    at: AwareDatetime
    """The registry's clock, UTC."""
    roles: tuple[TrustRoleView, ...] = ()
    """All but those of models that the registry signs itself."""
    keys: tuple[TrustKeyView, ...] = ()
    """All keys that the metadata name."""
    models: Integer = 0
    """Models with a role of their own."""
    models_elsewhere: Integer = 0
    """Of those, models whose versions only keys elsewhere can sign."""
    folder: str = ""
    """Where the registry keeps its private keys."""
    problem: str = ""
    """Why something cannot be signed now. Empty: all is well."""


class TrustChangeKind(StrEnum):
    """What is to be changed."""

    ROTATE = "rotate"
    """Other keys sign a role."""
    REVOKE = "revoke"
    """A key signs nothing any more."""
    DELEGATE = "delegate"
    """Other keys sign the versions of a model."""
    RENEW = "renew"
    """The same, signed again for a whole life."""


class SignedFile(Wire):
    """The metadata of one role, as TUF has them; perhaps with fewer signatures than are needed."""

    repository: Literal["image", "director"]
    """Which."""
    role: Annotated[str, Field(max_length=80)]
    """`root`, `targets` or `model-NAME`."""
    metadata: dict[str, Any]
    """`signed` and `signatures`."""


class SignedFiles(Wire):
    """The next metadata of some roles, taken all or none."""

    files: Annotated[tuple[SignedFile, ...], Field(min_length=1, max_length=4)]
    """A root comes before what it signs, `targets` before a model's role."""


class TrustChange(Wire):
    """A change of who signs what."""

    kind: TrustChangeKind
    """What is to be done."""
    repository: Literal["image", "director"] = "image"
    """For `rotate` and `renew`: which."""
    role: Annotated[str, Field(max_length=80)] = ""
    """For `rotate` and `renew`: `root`, `targets`, `online` (snapshot and timestamp) or `models` (the registry's own
    key of models); of the director `root` or `targets`, which are the keys of documents."""
    key: Annotated[str, Field(max_length=64)] = ""
    """For `revoke`: the id of the key, or how it begins."""
    model: Name | None = None
    """For `delegate`: which."""
    keys: Annotated[tuple[dict[str, Any], ...], Field(max_length=16)] = ()
    """Public keys as TUF's metadata have them, with `keyid` beside `keytype`, `scheme` and `keyval`. For `delegate`;
    none: the registry's own key. For `rotate`; none: the registry makes one."""
    threshold: Annotated[int, Field(ge=1, le=16)] = 1
    """So many of the keys have to sign."""
    files: Annotated[tuple[SignedFile, ...], Field(max_length=1)] = ()
    """For `delegate`: the model's role, signed by its new keys. Without it devices install none of the model's versions
    until the holder of the keys has signed it."""


class TrustChanged(Wire):
    """What became of it."""

    done: bool
    """True: it is so. False: nothing was changed, because keys that have to sign are elsewhere."""
    lines: tuple[str, ...] = ()
    """What changes, for a person: a sentence each."""
    unsigned: tuple[SignedFile, ...] = ()
    """What has to be signed by keys that are elsewhere, with the signatures that could be made here; to be sent to
    `/v1/trust/files` then."""
