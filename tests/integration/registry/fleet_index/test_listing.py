"""Pages of devices: every filter in every order finds exactly the devices that fit, page after page."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from sqlalchemy import insert, text

from registry.contracts.api.fleet import ConnectionState, DeviceSort, SlotState
from registry.core.selectors import parse
from registry.db.engine import Database
from registry.db.fleet_rows import DeviceLabelRow, DeviceRow, DeviceStateRow
from registry.db.index_rows import DeviceIndexRow, DeviceSlotRow
from registry.errors import BusyError, InvalidError
from registry.services.fleet import listing
from registry.services.fleet.device_index import rebuild_index
from registry.services.fleet.listing import Asked, DeviceFilter, find_page

NOW = datetime(2030, 1, 1, tzinfo=timezone.utc)


@dataclass
class Made:
    """A device as it lies in the tables."""

    id: int
    name: str
    connection: ConnectionState
    state: SlotState
    code: str
    seen: datetime
    changed: datetime
    labels: dict[str, str]
    slots: dict[str, str] = field(default_factory=dict)

    @property
    def behind(self) -> bool:
        return self.id % 7 == 0


def fill(database: Database, devices: int, rng: random.Random) -> list[Made]:
    """A random fleet, written past the rules: here only the reading is tested."""
    fleet = [
        Made(
            id=number + 1,
            name=f"{rng.choice(['edge', 'cam', 'line.a'])}-{number:04d}",
            connection=rng.choice(list(ConnectionState)),
            state=rng.choice([SlotState.SERVING] * 8 + list(SlotState)),
            code=rng.choice([""] * 5 + ["insufficient_disk", "golden_mismatch"]),
            seen=NOW - timedelta(seconds=rng.randrange(20)),
            changed=NOW - timedelta(seconds=rng.randrange(1000)),
            labels={"site": rng.choice(["paris", "rome", "oslo"]), **({"canary": "yes"} if rng.random() < 0.1 else {})},
            slots={m: rng.choice(["1.0.0", "2.0.0", ""]) for m in ("lenet", "iris") if rng.random() < 0.7},
        )
        for number in range(devices)
    ]
    rebuild_index(database, NOW)
    there = {ConnectionState.ONLINE, ConnectionState.HTTP_ONLY, ConnectionState.LATE}
    with database.write() as session:
        for row in fleet:
            until = NOW + timedelta(hours=1 if row.connection in there else -1)
            session.execute(insert(DeviceRow).values(id=row.id, name=row.name, created_at=NOW))
            session.execute(insert(DeviceStateRow).values(device_id=row.id, heard_until=until, online=False, returns=0))
            session.execute(
                insert(DeviceIndexRow).values(
                    device_id=row.id, name=row.name, connection=row.connection.value, seen_at=row.seen,
                    state=row.state.value, code=row.code, behind=row.behind, hardware="", changed_at=row.changed,
                )
            )  # fmt: skip
            for key, value in row.labels.items():
                session.execute(insert(DeviceLabelRow).values(device_id=row.id, key=key, value=value))
            for model, version in row.slots.items():
                session.execute(
                    insert(DeviceSlotRow).values(
                        device_id=row.id, model=model, name=row.name, version=version, desired="1.0.0",
                        state="serving", code="", behind=False, hardware="", changed_at=NOW,
                    )
                )  # fmt: skip
    return fleet


FILTERS: dict[str, tuple[DeviceFilter, Callable[[Made], bool]]] = {
    "all": (DeviceFilter(), lambda d: True),
    "one connection": (DeviceFilter(states=(ConnectionState.ONLINE,)), lambda d: d.connection == "online"),
    "two connections": (
        DeviceFilter(states=(ConnectionState.LATE, ConnectionState.SILENT)),
        lambda d: d.connection in ("late", "silent"),
    ),
    "one state": (DeviceFilter(states=(SlotState.DOWN,)), lambda d: d.state == "down"),
    "states of both kinds": (
        DeviceFilter(states=(SlotState.SERVING, SlotState.DOWN, ConnectionState.OFFLINE)),
        lambda d: d.state in ("serving", "down") and d.connection == "offline",
    ),
    "model": (DeviceFilter(model="iris"), lambda d: bool(d.slots.get("iris"))),
    "version": (DeviceFilter(model="lenet", version="2.0.0"), lambda d: d.slots.get("lenet") == "2.0.0"),
    "version that nobody serves": (DeviceFilter(model="lenet", version="9"), lambda d: False),
    "failing": (DeviceFilter(failing="any"), lambda d: bool(d.code)),
    "failing with a code": (
        DeviceFilter(failing="golden_mismatch", states=(ConnectionState.ONLINE,)),
        lambda d: d.code == "golden_mismatch" and d.connection == "online",
    ),
    "behind": (DeviceFilter(behind=True), lambda d: d.behind),
    "not behind": (DeviceFilter(behind=False), lambda d: not d.behind),
    "label": (DeviceFilter(labels={"site": "rome"}), lambda d: d.labels["site"] == "rome"),
    "selector": (
        DeviceFilter(selector="site in (rome,oslo),!canary"),
        lambda d: parse("site in (rome,oslo),!canary").matches(d.labels),
    ),
    "selector of few": (DeviceFilter(selector="canary=yes"), lambda d: "canary" in d.labels),
    "beginning of the name": (DeviceFilter(name="line.a*"), lambda d: d.name.startswith("line.a")),
    "part of the name": (DeviceFilter(name="-000"), lambda d: "-000" in d.name),
    "part with a wildcard of SQL": (DeviceFilter(name="_"), lambda d: "_" in d.name),
    "online": (DeviceFilter(online=True), lambda d: d.connection in ("online", "http_only", "late")),
    "not online": (DeviceFilter(online=False), lambda d: d.connection in ("never_seen", "silent", "offline")),
    "everything at once": (
        DeviceFilter(
            states=(SlotState.SERVING, ConnectionState.ONLINE), model="lenet", behind=False, selector="site!=oslo",
            labels={"site": "rome"}, name="edge*",
        ),
        lambda d: d.state == "serving" and d.connection == "online" and bool(d.slots.get("lenet")) and not d.behind
        and d.labels["site"] == "rome" and d.name.startswith("edge"),
    ),
}  # fmt: skip


def walk(database: Database, wanted: DeviceFilter, sort: DeviceSort, limit: int) -> list[int]:
    """All pages."""
    found: list[int] = []
    after = None
    for _ in range(10_000):
        with database.read() as session:
            ids, after = find_page(session, Asked(wanted, sort, after, limit), NOW)
        assert len(ids) <= limit
        found += ids
        if after is None:
            return found
    raise AssertionError("the list has no end")


def in_order(fleet: list[Made], sort: DeviceSort) -> list[int]:
    keys: dict[str, Callable[[Made], Any]] = {
        "name": lambda d: d.name,
        "last_seen": lambda d: (d.seen, d.id),
        "changed": lambda d: (d.changed, d.id),
    }
    return [d.id for d in sorted(fleet, key=keys[sort.lstrip("-")], reverse=sort.startswith("-"))]


@pytest.mark.parametrize(
    ("few", "step", "budget"), [(2000, 200, 20_000), (0, 200, 20_000), (10, 3, 30)], ids=["usual", "scan", "narrow"]
)
def test_every_filter_in_every_order_finds_what_fits_once(
    database: Database, monkeypatch: pytest.MonkeyPatch, few: int, step: int, budget: int
) -> None:
    for name, value in (("FEW", few), ("STEP", step), ("BUDGET", budget)):
        monkeypatch.setattr(listing, name, value)
    fleet = fill(database, 60, random.Random(1))
    orders = (DeviceSort.NAME, DeviceSort.NAME_BACKWARDS, DeviceSort.LAST_SEEN, DeviceSort.CHANGED_BACKWARDS)
    for (title, (wanted, fits)), sort in itertools.product(FILTERS.items(), orders):
        chosen = in_order([device for device in fleet if fits(device)], sort)
        for limit in (1, 200) if title == "two connections" else (13,):
            assert walk(database, wanted, sort, limit) == chosen, (title, sort, limit)


def test_a_selector_that_is_none_is_refused(database: Database) -> None:
    rebuild_index(database, NOW)
    with pytest.raises(InvalidError), database.read() as session:
        find_page(session, Asked(DeviceFilter(selector="site=("), DeviceSort.NAME, None, 10), NOW)


def test_no_list_is_answered_from_an_index_that_is_not_made(database: Database) -> None:
    with pytest.raises(BusyError), database.read() as session:
        find_page(session, Asked(DeviceFilter(), DeviceSort.NAME, None, 10), NOW)


PLANS = {
    "one connection": "ix_device_index_connection",
    "one state": "ix_device_index_state",
    "model": "ix_device_slots_model",
    "version": "ix_device_slots_serves",
    "failing with a code": "ix_device_index_code",
    "behind": "ix_device_index_behind",
    "beginning of the name": "uq_device_index_name",
    "all": "uq_device_index_name",
}


@pytest.mark.parametrize("title", PLANS)
def test_a_page_by_name_reads_an_index_in_its_order(database: Database, title: str) -> None:
    if not database.is_sqlite:
        pytest.skip("PostgreSQL reads a small table from end to end; benchmarks/fleet_pages.py looks at a large one")
    rebuild_index(database, NOW)
    with database.read() as session:
        statements = []
        connection = session.connection()
        real = connection.engine.dialect

        def explained(query: Any) -> str:
            compiled = query.compile(dialect=real, compile_kwargs={"literal_binds": True})
            rows = connection.execute(text(f"EXPLAIN QUERY PLAN {compiled}")).all()
            return "\n".join(str(row[-1]) for row in rows)

        order = listing._Order(DeviceSort.NAME)
        _, sources = listing._sources(FILTERS[title][0], order)
        for source in sources:
            columns = order.columns(source.table)
            where = (source.where, order.after(columns, ("edge-1",)))
            query = order.sorted(listing.select(source.table.device_id, *columns).where(*where), columns).limit(100)
            statements.append(explained(query))
    assert all(PLANS[title] in plan and "TEMP B-TREE" not in plan for plan in statements), statements
