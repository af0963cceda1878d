"""Requests per version from the totals that a device reports: what is new since the last report of the same session.

A device counts from zero at each start, so a session's totals only rise and a repeated or lost report changes
nothing: the next one carries the sum. Rules:

- What is new goes to the version that the report names. A switch in the middle of a window is attributed whole
  to the newer version: the error is at most one window.
- Totals without a version wait: they are not taken as seen until a report names one.
- A total that fell is a slot that was recreated: all of it is new.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from registry.contracts.device.messages import ModelHealth

MAX_MODELS = 256
"""Models of one report that are counted; a device's desired state cannot hold more."""
MAX_CODES = 64
"""Error codes kept per model; further ones are summed under `OTHER`."""
OTHER = "other"


@dataclass(frozen=True)
class Totals:
    """What a session had counted for one model when it was last heard."""

    requests: int = 0
    errors: Mapping[str, int] = field(default_factory=dict)
    not_finite: int | None = None
    """Results with a NaN or an infinity; None: not told."""


@dataclass(frozen=True)
class Increase:
    """What came new for one version of one model."""

    model: str
    version: str
    requests: int
    errors: Mapping[str, int]
    not_finite: int | None = None
    """Results with a NaN or an infinity; None: not told."""


def advance(
    seen: Mapping[str, Totals], models: Mapping[str, ModelHealth]
) -> tuple[tuple[Increase, ...], dict[str, Totals]]:
    """What `models` adds to what a session was `seen` at.

    Returns:
        The increases that are not zero, and the session's new totals.
    """
    increases = []
    totals = dict(seen)
    for model in sorted(models)[:MAX_MODELS]:
        health = models[model]
        if health.version is None:
            continue
        now = Totals(health.requests, bounded_errors(health.errors), health.not_finite)
        increase = _increase(model, health.version, seen.get(model, Totals()), now)
        if increase.requests or increase.errors:
            increases.append(increase)
        totals[model] = now
    return tuple(increases), totals


def add_errors(one: Mapping[str, int], other: Mapping[str, int]) -> dict[str, int]:
    """The sum by code, bounded like every error table."""
    merged = dict(one)
    for code, count in other.items():
        merged[code] = merged.get(code, 0) + count
    return bounded_errors(merged)


def bounded_errors(errors: Mapping[str, int]) -> dict[str, int]:
    """At most MAX_CODES codes of at most 64 characters, the most frequent kept, the rest summed under OTHER."""
    short: dict[str, int] = {}
    for code, count in errors.items():
        if count > 0:
            short[code[:64]] = short.get(code[:64], 0) + count
    if len(short) <= MAX_CODES:
        return short
    rest = short.pop(OTHER, 0)
    ranked = sorted(short.items(), key=lambda item: (-item[1], item[0]))
    kept = dict(ranked[: MAX_CODES - 1])
    kept[OTHER] = rest + sum(count for _, count in ranked[MAX_CODES - 1 :])
    return kept


def _increase(model: str, version: str, before: Totals, now: Totals) -> Increase:
    fell = now.requests < before.requests
    errors = {
        code: count if fell else count - before.errors.get(code, 0)
        for code, count in now.errors.items()
        if fell or count > before.errors.get(code, 0)
    }
    not_finite = now.not_finite
    if not_finite is not None and not fell:
        not_finite = max(0, not_finite - (before.not_finite or 0))
    return Increase(model, version, now.requests if fell else now.requests - before.requests, errors, not_finite)
