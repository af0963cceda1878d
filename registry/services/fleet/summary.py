"""The fleet in figures: counted together in one read, kept for a moment, so that any number of readers cost one count.

Counting reads the index of the fleet once, so it grows with the fleet (tens of milliseconds for 100,000 devices). That
is why a copy serves until it is SHARE times as old as its counting took: all counting together takes at most one part
in SHARE of one processor, and small fleets are counted again almost every time. Counters that every transaction raises
would be exact, at the price of a row for which all writers of all processes wait.
"""

from __future__ import annotations

import threading
import time
from datetime import datetime
from typing import Any

from sqlalchemy import func, inspect, select, text, true
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
from registry.db.index_rows import DeviceIndexRow, DeviceSlotRow
from registry.db.rollout_rows import RolloutRow
from registry.services.fleet.device_index import require_index

SHARE = 20.0
"""A copy serves so many times as long as its counting took,"""
MAX_AGE_S = 10.0
"""and at most so long."""
MAX_CODES = 500
_I: Any = inspect(DeviceIndexRow).local_table.c
_S: Any = inspect(DeviceSlotRow).local_table.c


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
    connection = _by(session, _I.connection)
    state = _by(session, _I.state)
    failing = select(_I.code, func.count()).where(_FAILS).group_by(_I.code).order_by(func.count().desc(), _I.code)
    codes = {code: number for code, number in session.execute(failing.limit(MAX_CODES))}  # noqa: C416 - rows are no pairs
    behind = session.scalar(select(func.count()).where(_I.behind == true())) or 0
    versions, left_out = _versions(session)
    rollouts = {RolloutState(each): number for each, number in _by(session, RolloutRow.state).items()}
    return FleetSummary(
        as_of=now,
        devices=sum(connection.values()),
        connection={each: connection.get(each.value, 0) for each in ConnectionState},
        serving={each: state.get(each.value, 0) for each in SlotState},
        behind=behind,
        failing=codes,
        versions=versions,
        versions_left_out=left_out,
        rollouts=rollouts,
        storage=_storage(session),
    )


_FAILS = text("code <> ''")


def _by(session: Session, column: Any) -> dict[str, int]:
    query = select(column, func.count()).group_by(column)
    return {value: number for value, number in session.execute(query)}  # noqa: C416 - rows are no pairs


def _versions(session: Session) -> tuple[tuple[VersionCount, ...], int]:
    columns = (_S.model, _S.version, _S.desired, _S.state, _S.hardware)
    rows = session.execute(select(*columns, func.count()).group_by(*columns)).all()
    found = sorted(rows, key=lambda row: (-row[5], *row[:5]))
    counts = (
        VersionCount(model=model, version=version or None, desired=desired or None, state=SlotState(state),
                     hardware=hardware, devices=devices)
        for model, version, desired, state, hardware, devices in found[:MAX_VERSION_COUNTS]
    )  # fmt: skip
    return tuple(counts), max(0, len(found) - MAX_VERSION_COUNTS)


def _storage(session: Session) -> FleetStorage:
    size = func.coalesce(func.sum(BlobRow.size), 0)
    blobs, total, damaged = session.execute(select(func.count(), size, func.count(BlobRow.damaged_at))).one()
    return FleetStorage(blobs=blobs, bytes=int(total), damaged=damaged)
