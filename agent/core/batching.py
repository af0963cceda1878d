"""Which waiting requests go to which runner of a worker now. Pure.

A batch is whatever has queued; nothing is ever held back in the hope of more. A runner is given work ahead of its run,
so that it never idles for a doorbell, but no further ahead than `AHEAD` batches: what still waits in the agent can be
dropped when its deadline passes, goes to whichever runner is free first, and dies with no worker.
"""

from __future__ import annotations

from collections.abc import Sequence

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
