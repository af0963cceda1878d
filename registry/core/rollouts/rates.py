"""How many devices may be offered it now: a token bucket that lives in the database, so a restart forgets nothing.

The bucket holds ten seconds' worth (at least one device). Whoever offers writes the bucket that is left in the same
transaction, by compare-and-set: of two schedulers one loses and looks again. Bytes may be overdrawn by one artifact,
or a large one would never be sent; the debt is waited for.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from math import inf
from typing import NamedTuple

from registry.contracts.rollout.spec import Rate

BURST_S = 10.0
SET_BACK_S = 60.0
"""A bucket that was filled later than this from now tells of a clock that was set back: it begins again."""
MAX_BATCH = 1000
"""Devices offered in one decision: a pause waits for one transaction at most."""


class Bucket(NamedTuple):
    """Tokens left at a time. `at` None: nothing was ever offered, it is full."""

    devices: float = 0.0
    bytes: float = 0.0
    at: datetime | None = None


class Candidate(NamedTuple):
    """A device that may be offered it."""

    device: str
    bytes: int = 0
    """That it will download."""


def fill(bucket: Bucket, rate: Rate, now: datetime) -> Bucket:
    """The bucket at `now`. A clock that is a little behind adds nothing."""
    per_s = rate.devices_per_minute / 60 if rate.devices_per_minute is not None else inf
    bytes_per_s = rate.bytes_per_second if rate.bytes_per_second is not None else inf
    full = Bucket(max(1.0, per_s * BURST_S), bytes_per_s * BURST_S, now)
    if bucket.at is None or was_set_back(bucket.at, now):
        return full
    passed = max(0.0, (now - bucket.at).total_seconds())
    devices = full.devices if per_s == inf else min(full.devices, bucket.devices + per_s * passed)
    sent = full.bytes if bytes_per_s == inf else min(full.bytes, bucket.bytes + bytes_per_s * passed)
    return Bucket(devices, sent, max(now, bucket.at))


def was_set_back(filled: datetime, now: datetime) -> bool:
    """Whether the clock that filled the bucket was set back since; less may be another scheduler's clock."""
    return filled > now + timedelta(seconds=SET_BACK_S)


def release(
    bucket: Bucket, rate: Rate, candidates: Sequence[Candidate], room: int | None, now: datetime
) -> tuple[tuple[str, ...], Bucket]:
    """Who may be offered it now, and the bucket that is left; infinite tokens are stored as 0.

    Args:
        candidates: In the order of their turn.
        room: Free slots of `max_unavailable`; None: no limit.
    """
    filled = fill(bucket, rate, now)
    devices, sent = filled.devices, filled.bytes
    chosen: list[str] = []
    for candidate in candidates[: MAX_BATCH if room is None else max(0, min(room, MAX_BATCH))]:
        if devices < 1 - 1e-9 or sent <= 0:
            break
        chosen.append(candidate.device)
        devices -= 1
        sent -= candidate.bytes
    return tuple(chosen), Bucket(0.0 if devices == inf else devices, 0.0 if sent == inf else sent, filled.at)
