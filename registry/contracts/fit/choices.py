"""Bodies and answers about which variant runs where: explanations and coverage."""

from __future__ import annotations

from typing import Annotated

from pydantic import AwareDatetime, Field

from registry.contracts.catalogue.manifest import Target
from registry.contracts.digest import Digest
from registry.contracts.fit.platforms import Platform
from registry.contracts.fit.resolution import Resolution
from registry.contracts.fit.what_if import MAX_CHANGES, MAX_VALUE
from registry.contracts.names import Name, VersionName
from registry.contracts.wire import Wire

MAX_CLASSES = 500
"""Of hosts, in one coverage; the largest ones."""
NAMED = 20
"""Devices of a class that are named."""

Changes = Annotated[dict[str, Annotated[str, Field(max_length=MAX_VALUE)]], Field(max_length=MAX_CHANGES)]
"""Name of a fact to its imagined value; see `registry.contracts.fit.what_if`."""


class ResolveBody(Wire):
    """POST body: what would a host with these facts run? `device` or `facts` says which host it is."""

    model: Name
    """The model to look at."""
    version: VersionName
    """Or an alias."""
    device: Name | None = None
    """The facts that this device reported."""
    facts: Platform | None = None
    """A host that need not exist."""
    variant: Name | None = None
    """Only this one may be chosen."""
    what_if: Changes = Field(default_factory=dict)
    """Facts to change first, as `registry explain --what-if` takes them."""


class ResolutionView(Wire):
    """Which variant a host would run, why, and by which facts."""

    model: Name
    """The model."""
    version: VersionName
    """The version; an alias is resolved."""
    device: Name | None = None
    """Whose facts these are. None: facts that were given."""
    resolution: Resolution
    """What was chosen, and why."""
    facts: Platform
    """With what was imagined."""
    facts_digest: Digest
    """The class of hosts."""
    facts_at: AwareDatetime | None = None
    """When the registry got them."""
    what_if: Changes = Field(default_factory=dict)
    """What was imagined."""


class ClassCoverage(Wire):
    """Hosts with the same facts, and what they would run."""

    facts_digest: Digest
    """The class."""
    title: str
    """For people: `linux aarch64, Ascend310P3, CANN 8.0.RC1`."""
    devices: int
    """So many hosts are in it."""
    names: Annotated[tuple[Name, ...], Field(max_length=NAMED)] = ()
    """The first by name."""
    chosen: Name | None = None
    """The variant that they would run. None: none fits."""
    target: Target | None = None
    """What that variant is for."""
    degraded: bool = False
    """It would run on the CPU beside an idle accelerator."""
    why: tuple[str, ...] = ()
    """Where nothing fits: one line a variant."""
    nearest: Name | None = None
    """The variant for which the least would have to change. None: there is none."""
    remedy: str = ""
    """What would have to change for `nearest`."""


class CoverageView(Wire):
    """A version on a fleet: each class of hosts once."""

    model: Name
    """The model."""
    version: VersionName
    """The version."""
    selector: str = "*"
    """The devices that were looked at; `*`: all."""
    devices: int
    """That the selector matches."""
    without: int
    """Of them, those that can run no variant."""
    degraded: int
    """Those that would run it on the CPU beside an idle accelerator."""
    silent: int
    """Those that have not told what they are."""
    silent_names: Annotated[tuple[Name, ...], Field(max_length=NAMED)] = ()
    """Some of them, by name."""
    variants: dict[Name, int] = Field(default_factory=dict)
    """Devices by the variant that they would run; 0: it fits nowhere."""
    classes: Annotated[tuple[ClassCoverage, ...], Field(max_length=MAX_CLASSES)] = ()
    """The largest first."""
    more_classes: int = 0
    """That are not listed, nor counted in `without`, `degraded` and `variants`."""
