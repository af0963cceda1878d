"""What is kept of what devices say, and for how long: the services on a real SQLite file, with a clock of our own."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select, update

from registry.contracts.device.messages import Event, Health
from registry.core.intake import DeviceMessage, Recorded, checked, describe
from registry.core.retention import RetentionLimits
from registry.db.base import Base
from registry.db.catalog_rows import ModelRow
from registry.db.engine import Database
from registry.db.fleet_rows import CountRow, EventRow, HealthRow, ResultRow, SessionRow
from registry.services.fleet.desired import NEWEST, DesiredDocuments, Publication
from registry.services.fleet.devices import Devices
from registry.services.fleet.history import HealthHistory, Results
from registry.services.fleet.retention import RetentionSweep
from registry.services.telemetry import Telemetry
from tests.support.host.postgres import Databases
from tests.support.programs.fleet_registry import eventually

START = datetime(2030, 5, 1, 10, tzinfo=timezone.utc)


class Store:
    """The services on one database, and the device `d1`."""

    def __init__(self, url: str) -> None:
        self.database = Database(url)
        self.documents = DesiredDocuments(self.database)
        self.devices = Devices(self.database)
        self.telemetry = Telemetry(self.database)
        self.devices.put("d1", {}, START)

    def count(self, table: type[Base]) -> int:
        with self.database.read() as session:
            return session.scalar(select(func.count()).select_from(table)) or 0

    def retention(self, **limits: int) -> RetentionSweep:
        return RetentionSweep(self.database, RetentionLimits(**limits), batch=7)

    def record(self, model: str, hours: int = 24) -> None:
        with self.database.write() as session:
            row = ModelRow(name=model, created_at=START, record_results=True, result_retention_hours=hours)
            session.add(row)


@pytest.fixture
def store(tmp_path: Path, databases: Databases) -> Iterator[Store]:
    made = Store(databases.migrated(tmp_path))
    yield made
    made.database.close()


def report(seq: int, at: datetime, session: str = "s1", device: str = "d1", **values: Any) -> DeviceMessage:
    models = {"lenet": {"version": "1.0.0", "requests": seq}}
    base = {"device": device, "session_id": session, "seq": seq, "at": at, "window_s": 60, "uptime_s": 1}
    return checked(device, Health.model_validate({**base, "models": models, **values}), at)


def event(number: int, at: datetime) -> DeviceMessage:
    return checked("d1", Event(event_id=f"e{number}", seq=number, at=at, kind="agent"), at)


def result(number: int, at: datetime, model: str = "lenet") -> DeviceMessage:
    return DeviceMessage("d1", at, Recorded(model, describe(b'{"id":"%d"}' % number)))


def test_a_batch_that_comes_again_is_taken_once(store: Store) -> None:
    batch = [report(seq, START) for seq in range(1, 30)] + [event(n, START) for n in range(30)]
    assert store.telemetry.take(batch).repeated == 0
    assert store.telemetry.take(batch).repeated == 29
    assert (store.count(HealthRow), store.count(EventRow)) == (29, 30)
    (count,) = HealthHistory(store.database).counts(None, None, ("", "", ""), 10)
    assert count.requests == 29


def test_old_sessions_reports_that_come_again_after_a_restart_count_once(store: Store) -> None:
    batch = [report(1, START), report(2, START), report(1, START, session="s2")]
    store.telemetry.take(batch)
    store.telemetry.take(batch)
    (count,) = HealthHistory(store.database).counts(None, None, ("", "", ""), 10)
    assert count.requests == 3


def test_a_batch_that_fails_leaves_nothing_behind(store: Store) -> None:
    store.devices.put("d2", {}, START)
    store.telemetry.take([report(1, START, device="d2")])
    with store.database.write() as session:
        session.execute(update(CountRow).values(requests=(1 << 63) - 1))
    with pytest.raises(Exception, match=r"(?i)int"):
        store.telemetry.take([report(1, START), report(9, START, device="d2")])
    assert store.count(HealthRow) == 1
    assert store.telemetry.take([report(1, START)]).stored == 1


def test_old_health_becomes_one_row_an_hour_whatever_the_batches(store: Store) -> None:
    store.telemetry.take([report(n, START + timedelta(minutes=n), cpu_fraction=n / 100) for n in range(100)])
    swept = store.retention(health_hours=1).sweep(START + timedelta(hours=4))
    assert (swept.health, store.count(HealthRow)) == (100, 0)
    hours = HealthHistory(store.database).hours("d1", START + timedelta(days=1), 10)
    assert [(hour.hour.hour, hour.samples) for hour in hours] == [(11, 40), (10, 60)]
    assert sum(hour.models["lenet"]["requests"] for hour in hours) == 99
    assert hours[0].peaks["cpu_fraction"] == 0.99


def test_a_sweep_that_was_cut_off_is_finished_by_the_next(store: Store) -> None:
    store.telemetry.take([report(n, START) for n in range(40)])
    steps = iter([False, False, True])
    retention = store.retention(health_hours=1)
    assert retention.sweep(START + timedelta(hours=2), lambda: next(steps, True)).health == 14
    assert store.count(HealthRow) == 26
    retention.sweep(START + timedelta(hours=2))
    (hour,) = HealthHistory(store.database).hours("d1", START + timedelta(days=1), 10)
    assert hour.samples == 40


def test_young_health_stays(store: Store) -> None:
    store.telemetry.take([report(n, START) for n in range(10)])
    store.retention(health_hours=2).sweep(START + timedelta(hours=1))
    assert store.count(HealthRow) == 10


def test_events_and_sessions_are_forgotten_after_their_time(store: Store) -> None:
    store.telemetry.take([event(n, START) for n in range(20)])
    store.telemetry.take([event(20, START + timedelta(hours=2)), report(1, START)])
    store.retention(event_hours=1, session_hours=1).sweep(START + timedelta(hours=2))
    assert (store.count(EventRow), store.count(SessionRow)) == (1, 0)


def test_results_go_by_the_age_that_their_model_says(store: Store) -> None:
    store.record("lenet", hours=1)
    store.record("other", hours=10)
    store.telemetry.take([result(n, START) for n in range(20)] + [result(1, START, "other")])
    store.retention().sweep(START + timedelta(hours=2))
    assert [found.model for found in Results(store.database).page(None, None, 1 << 60, 100)] == ["other"]


def test_of_too_many_results_the_oldest_go(store: Store) -> None:
    store.record("lenet")
    store.telemetry.take([result(n, START) for n in range(50)])
    store.retention(max_results=10).sweep(START)
    kept = Results(store.database).page("d1", "lenet", 1 << 60, 100)
    assert [found.request_id for found in kept] == [str(n) for n in range(49, 39, -1)]


def test_results_of_other_models_are_not_kept(store: Store) -> None:
    store.record("lenet")
    taken = store.telemetry.take([result(1, START), result(1, START, "unrecorded"), result(1, START, "../x")])
    assert (taken.stored, taken.unrecorded, store.count(ResultRow)) == (1, 2, 1)


def test_a_hostile_result_is_still_listed(store: Store) -> None:
    store.record("lenet")
    deep, strange = b"[" * 5000 + b"]" * 5000, b'{"model_version": "no version!", "x": NaN}'
    for body in (deep, strange, b"\xff\x00"):
        store.telemetry.take([DeviceMessage("d1", START, Recorded("lenet", describe(body, "application/json")))])
    bodies = [found.body for found in Results(store.database).page(None, None, 1 << 60, 10)]
    assert [body for body in bodies if not isinstance(body, str)] == [{"model_version": "no version!", "x": "NaN"}]
    assert len(bodies) == 3


def test_a_device_takes_its_history_with_it(store: Store) -> None:
    store.record("lenet")
    store.telemetry.take([report(1, START), event(1, START), result(1, START)])
    store.devices.delete("d1", START)
    tables = (HealthRow, EventRow, ResultRow, SessionRow, CountRow)
    assert [store.count(table) for table in tables] == [0] * 5
    assert Publication(store.database).deleted(10) == ["d1"]


def test_another_process_changes_a_document_and_this_one_sees_it(store: Store) -> None:
    elsewhere = Database(store.database.engine.url.render_as_string(hide_password=False))
    before = store.documents.load("d1")
    Devices(elsewhere).delete("d1", START)
    Devices(elsewhere).put("d1", {}, START)
    elsewhere.close()
    assert eventually(lambda: store.documents.load("d1") != before and store.documents.load("d1")).generation == 2


def test_an_acknowledgement_of_an_old_document_does_not_hide_the_new_one(store: Store) -> None:
    publication = Publication(store.database)
    (old,) = publication.pending(NEWEST, 10)
    store.devices.delete("d1", START)
    store.devices.put("d1", {}, START)
    publication.acknowledged([old])
    assert [document.generation for document in publication.pending(NEWEST, 10)] == [2]
    publication.acknowledged(publication.pending(NEWEST, 10))
    assert publication.pending(NEWEST, 10) == []
    publication.forget()
    assert publication.count() == 1


def test_what_changed_last_is_published_first_and_nothing_is_left_out(store: Store) -> None:
    for name in ("d2", "d3", "d4"):
        store.devices.put(name, {}, START)
    store.devices.delete("d2", START)
    store.devices.put("d2", {}, START)
    publication = Publication(store.database)
    first = publication.pending(NEWEST, 3)
    rest = publication.pending(first[-1].place, 3)
    assert [document.device for document in (*first, *rest)] == ["d2", "d4", "d3", "d1"]
