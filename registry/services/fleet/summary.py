"""The fleet in figures: read together, kept for a moment, so that any number of readers cost one read.

The database keeps the numbers (`registry.services.tallies`), so that a read follows how many versions, states and codes
there are, and not how many devices. A copy serves until it is SHARE times as old as its reading took.
"""

from __future__ import annotations

import threading
import time
from datetime import datetime

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from registry.contracts.api.fleet import (
    MAX_VERSION_COUNTS,
    ConnectionState,
    FleetStorage,
    FleetSummary,
    SlotState,
    VersionCount,
)
from registry.contracts.rollout.states import RolloutState
from registry.db.catalog_rows import BlobRow
from registry.db.engine import Database
from registry.db.rollout_rows import RolloutRow
from registry.services.fleet.device_index import require_index
from registry.services.tallies import tallied

SHARE = 20.0
"""A copy serves so many times as long as its reading took,"""
MAX_AGE_S = 10.0
"""and at most so long."""
MAX_CODES = 500


class FleetFigures:
    """Thread-safe."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = threading.Lock()
        self._copy: FleetSummary | None = None
        self._good_until = 0.0

    def summary(self, now: datetime) -> FleetSummary:
        """The newest copy, counted again where it is too old; one reader counts, the others wait for it.

        Raises:
            BusyError: the index is not made yet.
        """
        with self._lock:
            if self._copy is None or time.monotonic() >= self._good_until:
                began = time.monotonic()
                with self._database.read() as session:
                    self._copy = count_fleet(session, now)
                took = time.monotonic() - began
                self._good_until = time.monotonic() + min(SHARE * took, MAX_AGE_S)
            return self._copy


def count_fleet(session: Session, now: datetime) -> FleetSummary:
    """Count now. Raises BusyError while the index is not made."""
    require_index(session)
    connection = {state: number for (state,), number in tallied(session, "connection").items()}
    state = {state: number for (state,), number in tallied(session, "state").items()}
    codes = sorted(tallied(session, "code").items(), key=lambda each: (-each[1], each[0]))
    versions, left_out = _versions(session)
    rollouts = session.execute(select(RolloutRow.state, func.count()).group_by(RolloutRow.state))
    return FleetSummary(
        as_of=now,
        devices=sum(connection.values()),
        connection={each: connection.get(each.value, 0) for each in ConnectionState},
        serving={each: state.get(each.value, 0) for each in SlotState},
        behind=sum(number for (behind,), number in tallied(session, "behind").items() if behind),
        failing={code: number for (code,), number in codes[:MAX_CODES]},
        versions=versions,
        versions_left_out=left_out,
        rollouts={RolloutState(each): number for each, number in rollouts},
        storage=_storage(session),
    )


def _versions(session: Session) -> tuple[tuple[VersionCount, ...], int]:
    found = sorted(tallied(session, "slots").items(), key=lambda each: (-each[1], each[0]))
    counts = (
        VersionCount(model=model, version=version or None, desired=desired or None, state=SlotState(state),
                     hardware=hardware, devices=devices)
        for (model, version, desired, state, hardware), devices in found[:MAX_VERSION_COUNTS]
    )  # fmt: skip
    return tuple(counts), max(0, len(found) - MAX_VERSION_COUNTS)


def _storage(session: Session) -> FleetStorage:
    size = func.coalesce(func.sum(BlobRow.size), 0)
    blobs, total, damaged = session.execute(select(func.count(), size, func.count(BlobRow.damaged_at))).one()
    return FleetStorage(blobs=blobs, bytes=int(total), damaged=damaged)
