"""What goes wrong on which simulated device: chosen by the device's name and a seed, so that a run can be repeated.

Rates are shares of the fleet, 0 to 1. A device has at most one fault: the first that its dice say, in the order of
`Faults`. `bad` makes one version bad on every device, whatever its own fault is.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, fields
from enum import Enum


class Fault(str, Enum):
    """What is the matter with a device."""

    NONE = "none"
    SLOW = "slow"
    """Downloads and loads take twenty times as long."""
    SILENT = "silent"
    """Takes its desired state and never reports again."""
    FAILING = "failing"
    """The new version does not load."""
    ROLLING_BACK = "rolling_back"
    """The new version fails its probation; it goes back by itself."""
    FLAPPING = "flapping"
    """Loses its connection every few seconds."""
    OFFLINE = "offline"
    """Away from the beginning, for `offline_s`."""


class Bad(str, Enum):
    """How a version is bad."""

    CRASH = "crash"
    """Its worker dies at load."""
    WRONG = "wrong"
    """It does not answer the golden vectors."""
    NAN = "nan"
    """Its answers hold NaN."""
    SLOW = "slow"
    """A run takes ten times as long."""
    ERRORS = "errors"
    """A third of its requests fail."""


@dataclass(frozen=True)
class Faults:
    """Shares of the fleet."""

    slow: float = 0.0
    silent: float = 0.0
    failing: float = 0.0
    rolling_back: float = 0.0
    flapping: float = 0.0
    offline: float = 0.0
    offline_s: float = 86400.0
    """Simulated seconds."""
    bad: dict[str, Bad] = field(default_factory=dict)
    """Version to how it is bad, on every device."""

    def of(self, device: str, seed: int) -> Fault:
        """The device's fault."""
        dice = chance(seed, device, "fault")
        for each in fields(self)[:6]:
            share: float = getattr(self, each.name)
            if dice < share:
                return Fault(each.name)
            dice -= share
        return Fault.NONE


def chance(seed: int, *what: str) -> float:
    """0 to 1, the same for the same words."""
    digest = hashlib.blake2b("/".join((str(seed), *what)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64
