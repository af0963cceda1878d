"""The registry's HTTP API: models, their published versions, the variants of those, and the aliases that name them."""

from __future__ import annotations

from typing import Annotated

from pydantic import AwareDatetime, Field

from registry.contracts.catalogue.manifest import FileRef, Format, Parity, Target, Variant
from registry.contracts.wire import Digest, Name, VersionName, Wire


class VariantView(Wire):
    """One variant in a listing."""

    name: Name
    """Its name."""
    format: Format
    """What its files are."""
    target: Target
    """What it is for."""
    size: int
    """Bytes of its files."""
    digest: Digest
    """Canonical digest of the variant."""


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
    size: int
    """Bytes of all its files, each once."""
    variants: tuple[VariantView, ...] = ()
    """In the order of the manifest."""
    aliases: tuple[Name, ...] = ()
    """That name it now."""
    revision: int = 0
    """How often variants were added since it was published."""


class ModelView(Wire):
    """A model, its settings and its newest version."""

    name: Name
    """Its name."""
    created_at: AwareDatetime
    """When its first version was published, UTC."""
    versions: int
    """So many it has."""
    latest: VersionView | None = None
    """The newest. None: it has none."""
    aliases: dict[Name, VersionName] = Field(default_factory=dict)
    """Alias to version."""
    record_results: bool = False
    """The registry keeps the results of its requests."""
    result_retention_hours: int = 24
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


class AliasView(Wire):
    """A movable name for a version. `revision` is the ETag to move it with If-Match."""

    model: Name
    """The model."""
    alias: Name
    """Its name."""
    version: VersionName | None
    """None: removed; the history stays."""
    revision: int
    """Raised by each move."""
    moved_at: AwareDatetime
    """UTC."""
    moved_by: str = ""
    """Name of the token that moved it."""


class AliasMove(Wire):
    """PUT body, with `If-Match: "<revision>"` or `If-None-Match: *`."""

    version: VersionName
    """Where it is to point."""
