"""The registry's HTTP API: models, their published versions, the variants of those, and the aliases that name them."""

from __future__ import annotations

from typing import Annotated

from pydantic import AwareDatetime, Field

from registry.contracts.catalogue.manifest import FileRef, Format, Parity, Target, Variant
from registry.contracts.wire import Digest, Integer, Name, VersionName, Wire


class VariantView(Wire):
    """One variant in a listing."""

    name: Name
    """Its name."""
    format: Format
    """What its files are."""
    target: Target
    """What it is for."""
    size: Integer
    """Bytes of its files."""
    digest: Digest
    """Canonical digest of the variant."""


class Yank(Wire):
    """Who withdrew a version, and why: nothing new gets it, and devices that serve it go on."""

    at: AwareDatetime
    """When, UTC."""
    by: str = ""
    """The name of the token."""
    reason: str
    """For people."""


class TakenBack(Wire):
    """The rollout that took the version back last. The version may be deployed, and does not count as the newest."""

    at: AwareDatetime
    """When it began to go back, UTC."""
    rollout: str
    """Its id."""
    code: str
    """Why: a code of docs/codes.md."""
    text: str = ""
    """For a person."""


class VersionView(Wire):
    """A published version. The whole manifest is at `manifest_path(digest)`."""

    model: Name
    """The model."""
    version: VersionName
    """Its name."""
    manifest: Digest
    """Digest of the manifest."""
    created_at: AwareDatetime
    """When it was published, UTC."""
    created_by: str = ""
    """The name of the token that published it."""
    size: Integer
    """Bytes of all its files, each once."""
    variants: tuple[VariantView, ...] = ()
    """In the order of the manifest."""
    aliases: tuple[Name, ...] = ()
    """That name it now."""
    revision: Integer = 0
    """How often variants were added since it was published."""
    yanked: Yank | None = None
    """None: it may be deployed."""
    taken_back: TakenBack | None = None
    """None: no rollout took it back, or a later one of it ended well."""


class ModelView(Wire):
    """A model, its settings and its newest version."""

    name: Name
    """Its name."""
    created_at: AwareDatetime
    """When its first version was published, UTC."""
    versions: Integer
    """So many it has."""
    latest: VersionView | None = None
    """The newest that was neither yanked nor taken back by a rollout. None: it has none."""
    aliases: dict[Name, VersionName] = Field(default_factory=dict)
    """Alias to version."""
    record_results: bool = False
    """The registry keeps the results of its requests."""
    result_retention_hours: Integer = 24
    """So long they are kept."""


class ModelSettings(Wire):
    """PATCH body; an absent field stays as it is."""

    record_results: bool | None = None
    """Keep the results of its requests."""
    result_retention_hours: Annotated[int, Field(ge=1, le=24 * 365)] | None = None
    """So long they are kept."""


class PublishAnswer(Wire):
    """201 when it is new, 200 when the same content was there already."""

    version: VersionView
    """What was published."""
    created: bool
    """False: it was there already."""
    warnings: tuple[str, ...] = ()
    """What may surprise: a tie between variants, a variant that fits no device that the registry knows."""


class VariantOffer(Wire):
    """PUT body: a variant to add to a published version, made from one of its variants: `build.parent` says which."""

    variant: Variant
    """Its files need not be there yet."""


class VariantAnswer(Wire):
    """What became of an offer. While `missing` is not empty: upload these, then offer the same again."""

    missing: tuple[FileRef, ...] = ()
    """Files whose blobs the registry lacks."""
    manifest: Digest | None = None
    """The manifest that has the variant; None while files are missing."""


class ParityView(Wire):
    """How one variant of a version answered the golden vectors, somewhere."""

    variant: Name | None
    """None: a device whose deployment failed did not say which it was."""
    device: Name | None = None
    """None: on the publisher's machine."""
    backend: str
    """Backend and provider that ran it."""
    parity: Parity
    """What was measured."""
    at: AwareDatetime
    """When it was published, or reported by the device."""


class YankBody(Wire):
    """PUT body."""

    reason: Annotated[str, Field(min_length=1, max_length=1024, pattern=r"\S")]
    """Why, for people: it is shown wherever the version is."""


class YankAnswer(Wire):
    """The version as it is now, and who has it."""

    version: VersionView
    """With `yanked`, or without it."""
    devices: Integer = 0
    """So many should serve it, and go on."""
    rollouts: tuple[str, ...] = ()
    """Ids of rollouts of it that are not over: they offer it to no further device."""
    replaced: Yank | None = None
    """The yank that stood before, where this one gave another reason. Its reason stays in the events."""


class AliasView(Wire):
    """A movable name for a version. `revision` is the ETag to move it with If-Match."""

    model: Name
    """The model."""
    alias: Name
    """Its name."""
    version: VersionName | None
    """None: removed; the history stays."""
    revision: Integer
    """Raised by each move."""
    moved_at: AwareDatetime
    """UTC."""
    moved_by: str = ""
    """Name of the token that moved it."""


class AliasMove(Wire):
    """PUT body, with `If-Match: "<revision>"` or `If-None-Match: *`."""

    version: VersionName
    """Where it is to point."""
