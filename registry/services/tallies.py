"""Reads what the database counts (`registry/db/tally_rows.py`), adds parts up, and compares with a count of all rows.

The work of a read follows how many different keys there are, not how many devices. Counting everything grows with the
fleet: a job does it once an hour, some tenths of a second for 100,000 devices. It mends what is wrong and says so,
since a counter that is wrong once would stay wrong.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Text, cast, delete, func, insert, inspect, literal, select, text, true
from sqlalchemy.orm import Session

from registry.db.base import Base, put_rows
from registry.db.engine import Database
from registry.db.fleet_rows import DeviceLabelRow, DeviceRow
from registry.db.index_rows import DeviceIndexRow, DeviceSlotRow
from registry.db.rollout_rows import ActionRow
from registry.db.tally_rows import LabelKeyRow, LabelValueRow, TallyRow
from registry.errors import InTheWayError

log = logging.getLogger(__name__)
Key = tuple[Any, ...]
FLEET = 0
"""The owner of what is counted of the whole fleet."""
_T: Any = inspect(TallyRow).local_table.c


@dataclass(frozen=True)
class TallySource:
    """Which rows are counted, by which columns: as the triggers do, which migrations make."""

    table: type[Base]
    columns: tuple[str, ...]
    owner: str = ""
    """The column that names the owner; empty: FLEET."""
    where: ColumnElement[bool] | None = None


SOURCES: dict[str, TallySource] = {
    "hosts": TallySource(DeviceRow, ("facts_digest",)),
    "connection": TallySource(DeviceIndexRow, ("connection",)),
    "state": TallySource(DeviceIndexRow, ("state",)),
    "code": TallySource(DeviceIndexRow, ("code",), where=DeviceIndexRow.code != ""),
    "behind": TallySource(DeviceIndexRow, ("behind",)),
    "slots": TallySource(DeviceSlotRow, ("model", "version", "desired", "state", "hardware")),
    "rollout": TallySource(
        ActionRow,
        ("wave", "state", "goes_back", "left_wave", "left_state", "code", "left_code", "spoke"),
        owner="rollout_id",
    ),
}
"""By kind."""


def tallied(session: Session, kind: str, owner: int = FLEET) -> dict[Key, int]:
    """How many rows have each key, in the order of the source's columns. What no row has is left out."""
    return _tallied(session, kind, _T.owner == owner)


def tallied_of(session: Session, kind: str, owners: Any) -> dict[Key, int]:
    """The same of all owners that the query names, together."""
    return _tallied(session, kind, _T.owner.in_(owners))


def _tallied(session: Session, kind: str, whose: ColumnElement[bool]) -> dict[Key, int]:
    number = func.sum(_T.number)
    query = select(_T.key, number).where(_T.kind == kind, whose).group_by(_T.key).having(number != 0)
    return {tuple(json.loads(key)): int(found) for key, found in session.execute(query)}


def fold_tallies(database: Database) -> int:
    """Add the parts of all transactions up; how many there were. Another process may do the same: then nothing."""
    if database.is_sqlite:
        return 0
    with database.read() as session:
        if session.scalar(select(_T.part).where(_T.part != 0).limit(1)) is None:
            return 0
    with suppress(InTheWayError), database.write() as session:
        return int(session.execute(text(_FOLD)).scalar() or 0)
    return 0


_FOLD = """
WITH parts AS (DELETE FROM tallies WHERE part <> 0 RETURNING kind, owner, key, number),
sums AS (SELECT kind, owner, key, sum(number) AS number FROM parts GROUP BY kind, owner, key),
gone AS (
    DELETE FROM tallies AS t USING sums AS s
    WHERE t.kind = s.kind AND t.owner = s.owner AND t.key = s.key AND t.part = 0 AND t.number + s.number = 0
    RETURNING t.kind, t.owner, t.key
),
put AS (
    INSERT INTO tallies AS t (kind, owner, key, part, number)
    SELECT kind, owner, key, 0, number FROM sums AS s WHERE number <> 0 AND NOT EXISTS
    (SELECT FROM gone AS g WHERE g.kind = s.kind AND g.owner = s.owner AND g.key = s.key)
    ON CONFLICT (kind, owner, key, part) DO UPDATE SET number = t.number + excluded.number
)
SELECT count(*) FROM parts
"""


def recount(database: Database) -> dict[tuple[str, int, str], int]:
    """Count all rows and mend what the numbers have wrong: by kind, owner and key, what was missing.

    A read sees one state of the database, so that what it finds wrong is wrong by so much whatever happens meanwhile.
    """
    wrong: dict[tuple[str, int, str], int] = {}
    with database.read() as session:
        for kind, source in SOURCES.items():
            wrong |= _differences(session, kind, source)
        labels = _labels_differ(session)
    if wrong:
        log.warning("%d counts of the fleet were wrong and are mended, %s among them", len(wrong), next(iter(wrong)))
        with database.write() as session:
            _add(session, wrong)
    if labels:
        log.warning("the counts of labels were wrong and are made again")
        with database.write() as session:
            _count_labels(session)
        wrong["labels", FLEET, ""] = labels
    return wrong


def _differences(session: Session, kind: str, source: TallySource) -> dict[tuple[str, int, str], int]:
    table: Any = inspect(source.table).local_table.c
    columns = [table[name] for name in source.columns]
    sqlite = session.get_bind().dialect.name == "sqlite"
    key = func.json_array(*columns) if sqlite else cast(func.json_build_array(*columns), Text)
    owner = table[source.owner] if source.owner else literal(FLEET)
    rows = (
        select(owner.label("owner"), key.label("key"))
        .select_from(source.table)
        .where(true() if source.where is None else source.where)
        .subquery()
    )
    counted = select(rows.c.owner, rows.c.key, func.count()).group_by(rows.c.owner, rows.c.key)
    kept = select(_T.owner, _T.key, func.sum(_T.number)).where(_T.kind == kind).group_by(_T.owner, _T.key)
    missing = {(kind, whose, what): int(number) for whose, what, number in session.execute(counted)}
    for whose, what, number in session.execute(kept):
        missing[kind, whose, what] = missing.get((kind, whose, what), 0) - int(number)
    return {which: number for which, number in missing.items() if number}


def _add(session: Session, missing: Mapping[tuple[str, int, str], int]) -> None:
    kept = {
        (kind, owner, key): number
        for kind, owner, key, number in session.execute(
            select(_T.kind, _T.owner, _T.key, _T.number).where(_T.part == 0)
        )
    }
    rows = [
        {"kind": kind, "owner": owner, "key": key, "part": 0, "number": kept.get((kind, owner, key), 0) + number}
        for (kind, owner, key), number in missing.items()
    ]
    put_rows(session, TallyRow, rows, ("kind", "owner", "key", "part"))
    session.execute(delete(TallyRow).where(TallyRow.part == 0, TallyRow.number == 0))


_VALUES = select(DeviceLabelRow.key, DeviceLabelRow.value, func.count()).group_by(
    DeviceLabelRow.key, DeviceLabelRow.value
)
_KEYS = select(DeviceLabelRow.key, func.count(), func.count(DeviceLabelRow.value.distinct())).group_by(
    DeviceLabelRow.key
)


def _labels_differ(session: Session) -> int:
    """Keys and values whose numbers are wrong."""
    found = 0
    for counted, row in (
        (_VALUES, (LabelValueRow.key, LabelValueRow.value, LabelValueRow.devices)),
        (_KEYS, (LabelKeyRow.key, LabelKeyRow.devices, LabelKeyRow.different)),
    ):
        kept = select(*row)
        for one, other in ((counted, kept), (kept, counted)):
            found += session.scalar(select(func.count()).select_from(one.except_(other).subquery())) or 0
    return found


def _count_labels(session: Session) -> None:
    session.execute(delete(LabelKeyRow))
    session.execute(delete(LabelValueRow))
    session.execute(insert(LabelKeyRow).from_select(["key", "devices", "different"], _KEYS))
    session.execute(insert(LabelValueRow).from_select(["key", "value", "devices"], _VALUES))
