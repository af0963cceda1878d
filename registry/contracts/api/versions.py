"""The registry's HTTP API: models, their published versions, the variants of those, and the aliases that name them."""

from __future__ import annotations

from typing import Annotated

from pydantic import AwareDatetime, Field

from registry.contracts.catalogue.golden import Parity
from registry.contracts.catalogue.manifest import FileRef, Format, Target, Variant
from registry.contracts.digest import Digest
from registry.contracts.names import Name, VersionName
from registry.contracts.wire import Wire


class VariantView(Wire):
    """One variant in a listing."""

    name: Name
    format: Format
    target: Target
    size: int
    digest: Digest


class VersionView(Wire):
    """A published version. The whole manifest is at `manifest_path(digest)`."""

    model: Name
    version: VersionName
    manifest: Digest
    created_at: AwareDatetime
    created_by: str = ""
    """The name of the token that published it."""
    size: int
    variants: tuple[VariantView, ...] = ()
    aliases: tuple[Name, ...] = ()
    revision: int = 0
    """How often variants were added since it was published."""


class ModelView(Wire):
    """A model, its settings and its newest version."""

    name: Name
    created_at: AwareDatetime
    versions: int
    latest: VersionView | None = None
    aliases: dict[Name, VersionName] = Field(default_factory=dict)
    record_results: bool = False
    result_retention_hours: int = 24


class ModelSettings(Wire):
    """PATCH body; an absent field stays as it is."""

    record_results: bool | None = None
    result_retention_hours: Annotated[int, Field(ge=1, le=24 * 365)] | None = None


class PublishAnswer(Wire):
    """201 when it is new, 200 when the same content was there already."""

    version: VersionView
    created: bool
    warnings: tuple[str, ...] = ()
    """What may surprise: a tie between variants, a variant that fits no device that the registry knows."""


class VariantOffer(Wire):
    """PUT body: a variant to add to a published version, made from one of its variants: `build.parent` says which."""

    variant: Variant


class VariantAnswer(Wire):
    """What became of an offer. While `missing` is not empty: upload these, then offer the same again."""

    missing: tuple[FileRef, ...] = ()
    manifest: Digest | None = None
    """The manifest that has the variant; None while files are missing."""


class ParityView(Wire):
    """How one variant of a version answered the golden vectors, somewhere."""

    variant: Name | None
    """None: a device whose deployment failed did not say which it was."""
    device: Name | None = None
    """None: on the publisher's machine."""
    backend: str
    parity: Parity
    at: AwareDatetime
    """When it was published, or reported by the device."""


class AliasView(Wire):
    """A movable name for a version. `revision` is the ETag to move it with If-Match."""

    model: Name
    alias: Name
    version: VersionName | None
    """None: removed; the history stays."""
    revision: int
    moved_at: AwareDatetime
    moved_by: str = ""


class AliasMove(Wire):
    """PUT body, with `If-Match: "<revision>"` or `If-None-Match: *`."""

    version: VersionName
