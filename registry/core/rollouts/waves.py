"""Which device is in which wave: decided once, at planning, by the hash of (rollout, device); nothing is random.

Percent and count are cumulative over the fleet. The first wave (the canary) gets at least one device of every
hardware class, even where that makes it larger than asked; in it, devices that are online come first. Who joins or
comes back after planning is in the tail wave, which has no index in the spec: it is `len(spec.waves)`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b
from itertools import islice
from math import ceil
from typing import NamedTuple

from registry.contracts.rollout.spec import RolloutSpec, WaveSpec
from registry.contracts.texts import how_many
from registry.core.selectors import Selector, parse


class Member(NamedTuple):
    """A device that will get the version."""

    device: str
    hardware: str
    """Its class: devices that get the same variant on the same kind of host."""
    online: bool = True
    labels: Mapping[str, str] = {}


def position(rollout: str, device: str) -> int:
    """Where a device stands in a rollout's order: 63 bits, the same on every machine and at any time."""
    return int.from_bytes(blake2b(f"{rollout}\0{device}".encode(), digest_size=8).digest(), "big") >> 1


def tail(spec: RolloutSpec) -> int:
    """The index of the tail wave."""
    return len(spec.waves)


def assign(rollout: str, waves: Sequence[WaveSpec], members: Iterable[Member]) -> dict[str, int]:
    """Device to wave, in the order in which devices are offered it.

    Args:
        rollout: Its id: another rollout has other canaries.
        waves: Of the spec; the last takes all that are left.
        members: In any order.
    """
    ordered = sorted((not member.online, position(rollout, member.device), member) for member in members)
    online_first = [member for _, _, member in ordered]
    by_hash = [member for _, _, member in sorted(ordered, key=lambda entry: entry[1])]
    placed: dict[str, int] = {}
    for index, wave in enumerate(waves):
        for member in _members_of(wave, online_first if index == 0 else by_hash, placed, len(ordered)):
            placed[member.device] = index
        if index == 0:
            placed.update(dict.fromkeys(_one_per_class(online_first, placed), 0))
    return placed


def _members_of(wave: WaveSpec, members: Sequence[Member], placed: Mapping[str, int], total: int) -> list[Member]:
    """The devices of one wave: those that match, or as many as are still due."""
    left = (member for member in members if member.device not in placed)
    if wave.selector is not None:
        selector = parse(wave.selector)
        return [member for member in left if selector.matches(member.labels)]
    target = wave.count if wave.count is not None else ceil(total * (wave.percent or 0) / 100 - 1e-9)
    return list(islice(left, max(0, min(target, total) - len(placed))))


def _one_per_class(members: Sequence[Member], placed: Mapping[str, int]) -> list[str]:
    """The first device of each class that has none in the canary yet."""
    covered = {member.hardware for member in members if member.device in placed}
    found = []
    for member in members:
        if member.hardware not in covered:
            covered.add(member.hardware)
            found.append(member.device)
    return found


def label(wave: WaveSpec) -> str:
    """A wave as it was asked for."""
    if wave.selector is not None:
        return wave.selector
    return how_many(wave.count, "device") if wave.count is not None else f"{wave.percent:g}%"


def selectors(spec: RolloutSpec) -> tuple[Selector, ...]:
    """Every selector of a spec, parsed.

    Raises:
        SelectorError: one of them is none.
    """
    texts = [spec.fleet.selector, *(wave.selector or "" for wave in spec.waves)]
    return tuple(parse(text) for text in texts if text.strip())
