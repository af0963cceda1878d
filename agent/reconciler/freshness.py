"""Keeps what is signed fresh, and says how fresh it is. See `agent.core.trust` for what follows from it.

The registry is asked when the agent starts, long before anything expires, after a failure again and again, and when a
document came whose signature nobody here knows: the director may have a new key. However many such documents come, it
is asked once in SOONEST_S.
"""

from __future__ import annotations

import logging

from agent.core.trust import SOONEST_S, Freshness, TrustStanding, freshness, refresh_pause_s
from agent.errors import AgentError
from agent.reconciler.context import Context, Task
from agent.reconciler.ports import Pool, SignedMetadata
from registry.contracts.device.messages import DeviceTrust, TrustState

log = logging.getLogger(__name__)


class FreshnessLook:
    """Control thread only; a refresh runs in `pool`."""

    def __init__(self, context: Context, metadata: SignedMetadata | None, pool: Pool) -> None:
        """`metadata`: None: this host checks no signatures, and nothing here ever stops anything."""
        self._context = context
        self._metadata = metadata
        self._pool = pool
        self._due = float("-inf")
        self._began = float("-inf")
        self._task: Task[None] | None = None
        self._failures = 0
        self._fault = ""
        self._director_root = metadata.standing().director_root if metadata is not None else 0

    def next_due(self) -> float | None:
        """Monotonic time at which `tend` has something to do; None: nothing by itself."""
        return None if self._metadata is None or self._task is not None else self._due

    def tend(self) -> None:
        """Looks how fresh all is, and asks the registry when it is time."""
        metadata, context = self._metadata, self._context
        if metadata is None:
            return
        self.judge()
        now = context.clock.monotonic()
        if context.refresh:
            context.refresh = False
            self._due = min(self._due, self._began + SOONEST_S)
        if self._task is None and now >= self._due:
            self._began = now
            self._task = Task(lambda _: metadata.refresh(), self._done, self._failed).start(self._pool, context.put)

    def report(self) -> DeviceTrust:
        """For the report."""
        if self._metadata is None:
            return DeviceTrust(state=TrustState.UNSIGNED)
        found, standing = self._context.freshness, self._metadata.standing()
        why = found.why_stale
        if why and self._fault:
            why += f"; the registry was asked {self._failures} times since: {self._fault}"
        return DeviceTrust(
            state=TrustState.STALE if found.why_stale else TrustState.SIGNED,
            stale_since=found.since,
            why=why[:600],
            expires=found.expires,
            image_root=standing.image_root,
            director_root=standing.director_root,
            refused=dict(self._context.refusals.counts),
        )

    def cancel(self) -> None:
        """The agent ends."""
        if self._task is not None:
            self._task.cancel()

    def judge(self) -> None:
        """How fresh it all is now."""
        metadata, context = self._metadata, self._context
        if metadata is None:
            return
        document = context.desired.current
        expires = document.expires if document is not None else None
        found = freshness(context.clock.now(), metadata.standing(), expires)
        before, context.freshness = context.freshness, found
        if (before.why_stale, before.expires) != (found.why_stale, found.expires):
            context.changed = True
        if bool(before.stops) != bool(found.stops):
            log.log(logging.WARNING if found.stops else logging.INFO, "%s", _told(found))

    def _done(self, _: None) -> None:
        self._task, self._failures, self._fault = None, 0, ""
        self._plan()

    def _failed(self, error: AgentError) -> None:
        self._task = None
        self._failures += 1
        text = f"{error.code}: {error.message}"
        if text != self._fault:
            log.warning("signed metadata cannot be had: %s", text)
            self._context.changed = True
        self._fault = text
        self._plan()

    def _plan(self) -> None:
        metadata, context = self._metadata, self._context
        standing = metadata.standing() if metadata is not None else TrustStanding(context.clock.now())
        pause = refresh_pause_s(context.clock.now(), standing, self._failures, context.clock.chance())
        self._due = context.clock.monotonic() + pause
        if standing.director_root != self._director_root:
            self._director_root = standing.director_root
            context.ask = context.changed = True  # What was refused may be right by the director's newest root.


def _told(found: Freshness) -> str:
    return f"nothing new is installed: {found.stops}" if found.stops else "what is signed is fresh"
