"""Notes at a start that the registry listens again, before anything asks who is there."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime

from starlette.concurrency import run_in_threadpool

from registry.errors import TemporaryError
from registry.services.fleet.presence import PresenceTracker

log = logging.getLogger(__name__)


@asynccontextmanager
async def attending(presence: PresenceTracker, clock: Callable[[], datetime]) -> AsyncIterator[None]:
    """The first of the scheduler's notes."""
    try:
        await run_in_threadpool(presence.listen, clock())
    except TemporaryError:
        pass  # the database has said it; the scheduler tries again
    except Exception:
        log.exception("presence: that the registry listens cannot be noted; the scheduler tries again")
    yield
