"""May requests to a model be joined into one run, and why? Which of those that wait go to which runner now? Pure.

The manifest permits; deployment, host and a numerical probe can only take away. What is not said means one at a time.

A batch is whatever has queued; nothing is ever held back in the hope of more. A runner is given work ahead of its run,
so that it never idles for a doorbell, but no further ahead than `AHEAD` batches: what still waits in the agent can be
dropped when its deadline passes, goes to whichever runner is free first, and dies with no worker.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from registry.contracts.catalogue.batching import Batching, BatchingMode, batching_text

AHEAD = 2
"""Batches that one runner may hold: one running, one waiting."""


def share_out(waiting: int, outstanding: Sequence[int], max_batch: int) -> list[tuple[int, int]]:
    """How many of `waiting` requests, in order, go to which runner.

    Args:
        waiting: Requests that can run now.
        outstanding: How many each runner holds already.
        max_batch: The most that one run may take together, at least 1.

    Returns:
        (runner, count) pairs; the counts are at least 1 and add up to at most `waiting`.
        Idle runners come first and share evenly; then the least loaded are filled up to AHEAD batches.
    """
    if len(outstanding) == 1:
        count = min(waiting, AHEAD * max_batch - outstanding[0])
        return [(0, count)] if count > 0 else []
    given = [0] * len(outstanding)
    idle = [runner for runner, held in enumerate(outstanding) if held == 0]
    for place, runner in enumerate(idle):
        given[runner] = min(max_batch, -(-waiting // (len(idle) - place)))
        waiting -= given[runner]
    while waiting:
        runner = min(range(len(outstanding)), key=lambda each: outstanding[each] + given[each])
        room = AHEAD * max_batch - outstanding[runner] - given[runner]
        if room <= 0:
            break
        count = min(waiting, max_batch, room)
        given[runner] += count
        waiting -= count
    return [(runner, count) for runner, count in enumerate(given) if count]


MAX_WHY = 600


class Joining(NamedTuple):
    """What is allowed before anything was measured."""

    cap: int
    """Most requests in one run; 1: one at a time."""
    why: str
    """In words, for reports."""


def joining(manifest: Batching | None, *, limit: int, mode: BatchingMode, off_here: bool) -> Joining:
    """How many requests may run together.

    Args:
        manifest: What the variant's manifest says; None: nothing.
        limit: The host's largest batch, at least 1.
        mode: The deployment's.
        off_here: This host's settings say one at a time for this model.
    """
    said = batching_text(manifest)
    if manifest is None or not manifest.allows:
        return Joining(1, said)
    if mode is not BatchingMode.AUTO:
        return Joining(1, "one request at a time: the deployment says so (batching off)")
    if off_here:
        return Joining(1, "one request at a time: this host's settings say so (worker.one_at_a_time)")
    cap = min(limit, manifest.max_size or limit)
    return Joining(cap, said if cap > 1 else "one request at a time: this host's largest batch is 1 (limits.max_batch)")


def outcome(allowed: Joining, max_batch: int, verdict: str) -> str:
    """What became of it on this host, for reports.

    Args:
        allowed: What `joining` said.
        max_batch: What measuring found.
        verdict: Why measuring found 1, in a few words; empty: it does not say.
    """
    if allowed.cap == 1:
        return allowed.why[:MAX_WHY]
    if max_batch > 1:
        return f"up to {max_batch} together: {allowed.why}"[:MAX_WHY]
    return f"one request at a time: {verdict or 'larger batches are no faster here'} ({allowed.why})"[:MAX_WHY]
