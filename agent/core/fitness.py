"""What this host can take: whether a variant fits it, memory for a candidate beside the active version, and which
artifacts make room in the cache. Pure: the caller measures, lists and deletes.

A driver upgrade can invalidate what ran yesterday. What serves, what is being installed and what served before are
never evicted, whatever the limit says.
"""

from __future__ import annotations

from collections.abc import Iterable, Set
from dataclasses import dataclass

from agent.core.slots import Choice
from registry.contracts.catalogue.manifest import Target, Variant
from registry.contracts.codes import DeploymentCode, ResolutionCode
from registry.contracts.device.deployments import Strategy
from registry.contracts.fit.platforms import Platform
from registry.contracts.fit.resolution import FitOutcome, Resolution, judge
from registry.contracts.wire import Digest

_SAID_AS = {
    ResolutionCode.ENTRY_POINT_DISABLED: DeploymentCode.ENTRY_POINT_DISABLED,
    ResolutionCode.ENTRY_POINT_UNTRUSTED: DeploymentCode.ENTRY_POINT_UNTRUSTED,
    ResolutionCode.REQUEST_TOO_LARGE: DeploymentCode.REQUEST_TOO_LARGE,
}
SIZE_FACTOR = 2
"""A loaded model takes about its files twice: weights, and what runs them. Used where nothing better is known."""


@dataclass(frozen=True)
class Room:
    """What this host has at the moment."""

    free: int | None
    """Bytes that a new process could have without swapping; None: not known, so not held against it."""
    active: int | None = None
    """Bytes that the active version's worker takes; None: no process of its own, or none at all."""


def need_of(variant: Variant, room: Room) -> int:
    """Bytes to load `variant`: what it asks for, else as the active worker takes or its files say, the larger."""
    if variant.requirements.memory_bytes is not None:
        return variant.requirements.memory_bytes
    return max(room.active or 0, SIZE_FACTOR * variant.size)


def choose(strategy: Strategy, variant: Variant, room: Room) -> Strategy | None:
    """BESIDE or STOP_FIRST; None when the strategy is BESIDE and there is no room."""
    if strategy is Strategy.STOP_FIRST:
        return Strategy.STOP_FIRST
    if room.free is None or room.free >= need_of(variant, room):
        return Strategy.BESIDE
    return Strategy.STOP_FIRST if strategy is Strategy.AUTO else None


@dataclass(frozen=True)
class CachedArtifact:
    """One artifact on disk."""

    digest: Digest
    """Of its variant."""
    size: int
    """Bytes of its files."""
    used_at: float
    """When it was last loaded; any clock, as long as it is one clock."""


def to_evict(cached: Iterable[CachedArtifact], keep: Set[Digest], limit: int, need: int = 0) -> list[Digest]:
    """The artifacts to delete, longest unused first.

    Args:
        cached: All artifacts in the cache.
        keep: Variants in some slot as active, candidate or previous.
        limit: Bytes that the cache may hold.
        need: Bytes that must come free below the limit, for one that is about to be pulled.
    """
    everything = sorted(cached, key=lambda artifact: (artifact.used_at, artifact.digest))
    excess = sum(artifact.size for artifact in everything) + need - limit
    chosen: list[Digest] = []
    for artifact in everything:
        if excess <= 0:
            break
        if artifact.digest not in keep:
            chosen.append(artifact.digest)
            excess -= artifact.size
    return chosen


def unfit(choice: Choice, facts: Platform) -> str:
    """Why the variant may not be loaded on this host; empty when it may, or when nobody knows."""
    verdict = judge(choice.variant, facts, pictures=choice.image is not None)
    if verdict.outcome is FitOutcome.UNKNOWN and facts.failed():
        return ""  # A look that failed forbids nothing: the load will tell.
    if verdict.outcome is not FitOutcome.PASS:
        return "; ".join(f"{r.code}: needs {r.need}, host has {r.have}" for r in verdict.reasons)
    backend = next((found for found in facts.backends if found.name == choice.backend), None)
    if backend is None or not (backend.usable or backend.unknown):
        why = backend.reason if backend else "this agent has none of that name"
        return f"the backend {choice.backend} does not work any more: {why}"
    return ""


def why_none(resolution: Resolution, *, pinned: bool) -> DeploymentCode:
    """The code of a version of which nothing fits: where only its code or its size keeps it from fitting, that
    says so."""
    codes = {reason.code for verdict in resolution.verdicts for reason in verdict.reasons}
    for only, told in _SAID_AS.items():
        if codes == {only}:
            return told
    return DeploymentCode.VARIANT_UNFIT if pinned else DeploymentCode.NO_FITTING_VARIANT


def is_undecided(resolution: Resolution, facts: Platform) -> bool:
    """Nothing was chosen, and one that was left out might fit: a look at the host failed that would tell."""
    undecided = any(verdict.outcome is FitOutcome.UNKNOWN for verdict in resolution.verdicts)
    return resolution.chosen is None and undecided and bool(facts.failed())


def points_at_host(code: str, target: Target) -> bool:
    """A load that failed so may have failed because the host is another than its facts say."""
    if code == DeploymentCode.BACKEND_UNAVAILABLE:
        return True
    points = (DeploymentCode.LOAD_FAILED, DeploymentCode.OUT_OF_MEMORY, DeploymentCode.WORKER_CRASHED)
    return code in points and target is not Target.CPU
