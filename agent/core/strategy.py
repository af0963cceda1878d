"""Is there memory for a candidate beside the active version? Pure: the caller measures."""

from __future__ import annotations

from dataclasses import dataclass

from registry.contracts.catalogue.manifest import Variant
from registry.contracts.device.deployments import Strategy

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
