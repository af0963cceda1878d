"""Pages of what happened for whoever shows them: the page with the cursor of the next, and how far it looked."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from registry.contracts.api.answers import Page
from registry.contracts.api.events import EventQuery, FleetEvent
from registry.server.composition import Services
from registry.server.middleware.paging import Paging


def event_page(services: Services, paging: Paging, wanted: EventQuery) -> tuple[Page[FleetEvent], datetime | None]:
    """The page, and the time of the oldest row that was looked at for it. Raises NotFoundError, InvalidError."""
    reached: datetime | None = None

    def fetch(after: tuple[Any, ...] | None, limit: int) -> tuple[list[FleetEvent], tuple[int, ...] | None]:
        nonlocal reached
        found = services.fleet.events.page(wanted, after, limit)
        reached = found.reached
        return found.items, found.next

    return paging.keyed("events", fetch), reached
