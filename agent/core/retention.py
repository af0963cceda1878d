"""Which artifacts may leave the cache. Pure: the caller lists, asks, deletes.

Rule: what serves, what is being installed and what served before are never evicted, whatever the limit says.
"""

from __future__ import annotations

from collections.abc import Iterable, Set
from dataclasses import dataclass

from registry.contracts.digest import Digest


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
