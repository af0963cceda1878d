"""May requests to a model be joined into one run, and why? Pure.

The manifest permits; deployment, host and a numerical probe can only take away. What is not said means one at a time.
"""

from __future__ import annotations

from typing import NamedTuple

from registry.contracts.catalogue.batching import Batching, BatchingMode, batching_text

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
