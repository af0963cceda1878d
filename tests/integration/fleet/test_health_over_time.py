"""The fleet over time: sums of what devices answered and samples of connections, on each database."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select, update

from registry.contracts.api.fleet import ConnectionState
from registry.contracts.api.over_time import HealthSeries, HealthSpan
from registry.contracts.device.messages import Health
from registry.core.intake import checked
from registry.core.retention import RetentionLimits
from registry.db.catalog_rows import ModelRow
from registry.db.engine import Database
from registry.db.index_rows import DeviceIndexRow, DeviceSlotRow
from registry.db.over_time_rows import AnswerSumRow, ConnectionSampleRow, VersionSampleRow
from registry.services.fleet.device_index import rebuild_index
from registry.services.fleet.devices import Devices
from registry.services.fleet.health_series import HealthOverTime
from registry.services.fleet.over_time import AnswerSums, ConnectionSamples, VersionSamples
from registry.services.fleet.summary import FleetFigures
from registry.services.telemetry import Telemetry
from tests.support.host.postgres import Databases

NOW = datetime(2030, 5, 1, 10, 0, 30, tzinfo=timezone.utc)
HOUR = timedelta(hours=1)
LIMITS = RetentionLimits()


@dataclass
class Process:
    """What one registry process counts and writes; another one begins at 0 with the same database."""

    database: Database
    telemetry: Telemetry = field(init=False)
    sums: AnswerSums = field(init=False)

    def __post_init__(self) -> None:
        self.telemetry = Telemetry(self.database)
        self.sums = AnswerSums(self.database, self.telemetry.totals, LIMITS)

    def reports(self, at: datetime, session: str, seq: int, requests: int, **model: Any) -> None:
        """The device has answered so much since its agent's start, half a millisecond each; then it is written."""
        told = {"version": "1.0.0", "requests": requests, "latency": {"counts": [0, requests], "sum_s": 1.0}, **model}
        body = {"device": "d1", "session_id": session, "seq": seq, "at": at, "window_s": 1, "uptime_s": 1}
        self.telemetry.take([checked("d1", Health.model_validate({**body, "models": {"lenet": told}}), at)])
        self.sums.record(at)

    def view(self, span: HealthSpan, model: str | None, now: datetime) -> HealthSeries:
        return HealthOverTime(self.database).view(span, model, now)


@pytest.fixture
def process(tmp_path: Path, databases: Databases) -> Iterator[Process]:
    database = Database(databases.migrated(tmp_path))
    rebuild_index(database, NOW)
    Devices(database).put("d1", {}, NOW)
    yield Process(database)
    database.close()


def test_requests_errors_and_latencies_stand_in_the_minute_in_which_they_were_reported(process: Process) -> None:
    process.reports(NOW, "a", 1, 10)
    process.reports(NOW + timedelta(minutes=2), "a", 2, 30, errors={"overloaded": 2})
    seen = process.view(HealthSpan.HOUR, None, NOW + timedelta(minutes=2))
    assert (len(seen.starts), seen.step_s) == (60, 60)
    assert seen.starts[-1] == NOW.replace(minute=2, second=0)
    assert [each.name for each in seen.by] == ["lenet"]
    assert seen.by[0].requests[-4:] == (None, 10, None, 20)
    assert seen.errors == {"overloaded": (*[None] * 57, 0, None, 2)}
    assert seen.total.figures.requests == 30
    assert seen.total.figures.codes == {"overloaded": 2}
    assert seen.total.p95_ms[-1] == pytest.approx(0.485)
    assert seen.total.figures.measured == 30


def test_versions_of_one_model_stand_apart_in_the_order_in_which_they_began(process: Process) -> None:
    process.reports(NOW, "a", 1, 10, version="2.0.0")
    process.reports(NOW + timedelta(minutes=5), "a", 2, 110, version="1.0.0")
    seen = process.view(HealthSpan.HOUR, "lenet", NOW + timedelta(minutes=5))
    assert [(each.name, each.figures.requests) for each in seen.by] == [("2.0.0", 10), ("1.0.0", 100)]
    assert process.view(HealthSpan.HOUR, "other", NOW).by == ()


def test_sums_only_rise_over_restarts_of_agents_and_of_the_registry(process: Process) -> None:
    process.reports(NOW, "a", 1, 10)
    process.reports(NOW, "b", 1, 4)  # the agent began again
    process.reports(NOW, "a", 1, 10)  # the same report again
    again = Process(process.database)
    again.sums.record(NOW)
    again.reports(NOW, "b", 2, 9)
    assert process.view(HealthSpan.HOUR, None, NOW).total.figures.requests == 19


def test_a_write_whose_outcome_is_not_known_counts_once(process: Process, monkeypatch: pytest.MonkeyPatch) -> None:
    process.reports(NOW, "a", 1, 10)
    process.sums._minute.unwritten = True  # as after a connection that broke while it was committed
    process.sums.record(NOW + timedelta(minutes=1))
    process.reports(NOW + timedelta(minutes=1), "a", 2, 15)
    seen = process.view(HealthSpan.HOUR, None, NOW + timedelta(minutes=1))
    assert seen.total.figures.requests == 15
    assert seen.total.requests[-2:] in ((10, 5), (15, None))


def test_a_clock_that_is_set_back_replaces_nothing(process: Process) -> None:
    process.reports(NOW, "a", 1, 10)
    process.reports(NOW + timedelta(minutes=1), "a", 2, 15)
    process.reports(NOW, "a", 3, 18)
    seen = process.view(HealthSpan.HOUR, None, NOW + timedelta(minutes=1))
    assert seen.total.requests[-2:] == (13, 5)


def test_old_sums_become_coarser_without_loss_and_are_forgotten_in_the_end(process: Process) -> None:
    for minute in range(10):
        process.reports(NOW + timedelta(minutes=minute), "a", minute, 10 * minute + 10, errors={"overloaded": minute})
    assert _rows(process.database) == {60: 19}
    process.sums.sweep(NOW + timedelta(hours=4))
    assert _rows(process.database) == {300: 4}
    process.sums.sweep(NOW + timedelta(hours=60))
    assert _rows(process.database) == {3600: 2}
    seen = process.view(HealthSpan.WEEK, "lenet", NOW + timedelta(hours=60))
    assert (seen.total.figures.requests, seen.total.figures.errors, seen.total.figures.measured) == (100, 9, 100)
    process.sums.sweep(NOW + timedelta(days=91))
    assert _rows(process.database) == {}


def test_more_models_than_are_shown_apart_are_summed(process: Process) -> None:
    for number in range(10):
        told = {f"m{each}": {"version": "1.0.0", "requests": 10 + each} for each in range(number + 1)}
        body = {"device": "d1", "session_id": "a", "seq": number, "at": NOW, "window_s": 1, "uptime_s": 1}
        process.telemetry.take([checked("d1", Health.model_validate({**body, "models": told}), NOW)])
    process.sums.record(NOW)
    seen = process.view(HealthSpan.HOUR, None, NOW)
    assert [each.name for each in seen.by] == [f"m{number}" for number in range(2, 10)] + [""]
    assert seen.by[-1].figures.requests == 10 + 11
    assert seen.total.figures.requests == sum(range(10, 20))
    assert seen.total.figures.p95_ms is None


def test_no_request_is_none_only_while_somebody_counted(process: Process) -> None:
    samples = ConnectionSamples(process.database, FleetFigures(process.database))
    samples.record(NOW)
    seen = process.view(HealthSpan.HOUR, None, NOW + timedelta(minutes=7))
    assert seen.total.requests[-8:] == (0, 0, 0, 0, 0, None, None, None)
    assert seen.devices[ConnectionState.NEVER_SEEN][-8:] == (1, 1, 1, 1, 1, None, None, None)
    with process.database.write() as session:
        session.execute(update(ConnectionSampleRow).values(online=3))
    assert process.view(HealthSpan.WEEK, None, NOW).devices[ConnectionState.ONLINE][-2:] == (None, 3)


def _rows(database: Database) -> dict[int, int]:
    with database.read() as session:
        query = select(AnswerSumRow.step, func.count()).group_by(AnswerSumRow.step)  # type: ignore[attr-defined]
        return {step: rows for step, rows in session.execute(query)}  # noqa: C416 - rows are no pairs


def _serves(process: Process, version: str) -> None:
    """The index says so of the only device."""
    slot = {"model": "lenet", "name": "d1", "version": version, "desired": version, "state": "serving", "code": ""}
    with process.database.write() as session:
        device = session.scalars(select(DeviceIndexRow.device_id)).one()
        if session.get(ModelRow, "lenet") is None:
            session.add(ModelRow(name="lenet", created_at=NOW))
        session.merge(DeviceSlotRow(device_id=device, **slot, behind=False, hardware="x86_64/cpu", changed_at=NOW))


def test_devices_by_version_are_known_for_each_hour_in_which_somebody_looked(process: Process) -> None:
    def samples() -> VersionSamples:
        return VersionSamples(process.database, FleetFigures(process.database))

    _serves(process, "1.0.0")
    samples().record(NOW)
    samples().record(NOW + timedelta(minutes=5))
    _serves(process, "1.1.0")
    samples().record(NOW + 2 * HOUR)
    seen = samples().adoption("lenet", 1, NOW + 2 * HOUR)
    assert len(seen.starts) == 24
    assert {each.version: each.devices[-4:] for each in seen.by} == {
        "1.0.0": (None, 1, None, 0), "1.1.0": (None, 0, None, 1),
    }  # fmt: skip


def test_old_samples_of_versions_are_forgotten(process: Process) -> None:
    _serves(process, "1.0.0")
    VersionSamples(process.database, FleetFigures(process.database)).record(NOW)
    process.sums.sweep(NOW + timedelta(hours=LIMITS.health_hourly_hours + 2))
    with process.database.read() as session:
        assert session.scalar(select(func.count()).select_from(VersionSampleRow)) == 0
