"""How the vendors' version numbers compare. Pure.

CANN: an OM of an older CANN runs on a newer one for four version periods (ATC guide of CANN 8.5 to 9.1; one year in
that of 8.0). Huawei does not list the periods, so a period is counted as a change of the first two numbers, which
never counts too many. TensorRT: see `tensorrt_runs`.
"""

from __future__ import annotations

import re

CANN_LINES = (
    *((5, 0), (5, 1), (6, 0), (6, 2), (6, 3), (7, 0)),
    *((8, 0), (8, 1), (8, 2), (8, 3), (8, 5), (9, 0), (9, 1)),
)
"""Release lines of CANN in order. A newer one that is not here counts as one."""
CANN_PERIODS = 4
TENSORRT_MAJORS = frozenset({(8, 10), (10, 11)})
"""(built with, runs on): majors between which a version-compatible plan is documented to run (TensorRT 11 guide)."""
TENSORRT_NUMBERS = 4
"""TensorRT compares all of `10.13.3.9`."""

CannRelease = tuple[int, int, bool, int]


def cann_release(version: str) -> CannRelease | None:
    """Sorts as Huawei releases: `8.0.RC2` comes before `8.0.0`; None when it is written another way."""
    found = re.match(r"([0-9]{1,4})\.([0-9]{1,4})(?:\.?(RC)?([0-9]{1,4}))?(?![0-9])", version)
    if found is None:
        return None
    major, minor, candidate, number = found.groups()
    return int(major), int(minor), candidate is None, int(number or 0)


def cann_periods(built: CannRelease, host: CannRelease) -> int:
    """The release lines from `built` (not counted) to `host` (counted); 0 within one line."""
    between = sum(built[:2] < line <= host[:2] for line in CANN_LINES)
    return between + (host[:2] > CANN_LINES[-1] and host[:2] > built[:2])


def numbers(version: str) -> tuple[int, ...] | None:
    """`2.10.0rc1` as (2, 10, 0); None when it does not begin with a number."""
    found = re.match(r"[0-9]{1,6}(\.[0-9]{1,6}){0,3}", version)
    return tuple(int(part) for part in found[0].split(".")) if found else None


def release(version: str) -> tuple[int, ...] | None:
    """`numbers` with zeros for those that are not said: 2.10 is 2.10.0.0."""
    found = numbers(version)
    return (*found, *(0,) * (4 - len(found))) if found else None


def tensorrt_runs(built: str, host: str, *, compatible: bool) -> bool | None:
    """Does TensorRT `host` run a plan of TensorRT `built`? None when the numbers do not say.

    Args:
        built: The version that built the plan.
        host: The version of the runtime.
        compatible: It was built with VERSION_COMPATIBLE; otherwise only the very same version runs it.
    """
    need, have = numbers(built), numbers(host)
    if need is None or have is None:
        return None
    if compatible:
        if need[0] != have[0]:
            return (need[0], have[0]) in TENSORRT_MAJORS
        known = min(len(need), len(have))
        return None if need[:known] == have[:known] and len(have) < len(need) else have >= need
    known = min(len(need), len(have))
    if need[:known] != have[:known]:
        return False
    return True if known == TENSORRT_NUMBERS or len(need) == len(have) else None
