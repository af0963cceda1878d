"""What a client counts of its requests."""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from dataclasses import dataclass

KEPT = 4096
"""Latencies of so many answers, the newest, are looked at."""


@dataclass(frozen=True)
class Statistics:
    """Totals since the client was made, and what is true now."""

    requests: int
    """Calls."""
    sent: int
    """Publications of requests, repeats included."""
    answered: int
    errors: Mapping[str, int]
    """Requests that ended with an error, by code."""
    retries: int
    """Repeats: after a refusal for now, or after a lost connection."""
    cancelled: int
    """Requests that their caller did not wait for."""
    late: int
    """Answers that came when nobody waited for them any more; they were dropped."""
    bytes_sent: int
    bytes_received: int
    in_flight: int
    """Requests under way now."""
    bytes_in_flight: int
    p50_seconds: float | None
    """Of the newest 4,096 answers, from the call to the answer; None: there was none."""
    p99_seconds: float | None
    connected: bool
    slow_reason: str
    """Why requests go through paho's public interface, which costs several times the processor time; empty: they
    do not."""


class Latencies:
    """The newest ones. Adding is for one thread."""

    def __init__(self) -> None:
        self._seconds = array("d")
        self._next = 0

    def add(self, seconds: float) -> None:
        """Of one answer."""
        if len(self._seconds) < KEPT:
            self._seconds.append(seconds)
        else:
            self._seconds[self._next] = seconds
            self._next = (self._next + 1) % KEPT

    def quantile(self, share: float) -> float | None:
        """The latency that a share (0 to 1) of them does not exceed."""
        held = sorted(self._seconds)
        return held[min(len(held) - 1, int(share * len(held)))] if held else None
