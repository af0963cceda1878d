"""What the registry tells Prometheus: sums that only rise, what waits and since when, when certificates end."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from registry.certificates import expires_at, not_after
from registry.contracts.device.messages import Health, Presence
from registry.contracts.rollout.states import RolloutState
from registry.core.intake import DeviceMessage, checked
from registry.db.catalog_rows import UploadRow
from registry.db.engine import Database
from registry.db.fleet_rows import CountRow, DesiredRow
from registry.db.rollout_rows import FleetLogRow, RolloutRow, WebhookRow
from registry.services.fleet.devices import Devices
from registry.services.fleet.fleet_totals import MAX_SERIES
from registry.services.fleet.queues import Waiting, queues
from registry.services.telemetry import Telemetry
from tests.support.host.postgres import Databases
from tests.support.network.certificates import Authority

NOW = datetime(2030, 5, 1, 10, tzinfo=timezone.utc)


@pytest.fixture
def database(tmp_path: Path, databases: Databases) -> Iterator[Database]:
    made = Database(databases.migrated(tmp_path))
    for name in ("d1", "d2"):
        Devices(made).put(name, {}, NOW)
    yield made
    made.close()


def report(device: str, session: str, seq: int, requests: int, **model: Any) -> DeviceMessage:
    told = {"version": "1.0.0", "requests": requests, "target": "cpu", **model}
    told["latency"] = {"counts": [0, requests], "sum_s": requests * 0.0004}
    body = {"device": device, "session_id": session, "seq": seq, "at": NOW, "window_s": 1, "uptime_s": 1}
    return checked(device, Health.model_validate({**body, "models": {"lenet": told}}), NOW)


def test_requests_of_all_devices_are_summed_once_over_repeats_restarts_of_agents_and_of_the_registry(
    database: Database,
) -> None:
    telemetry = Telemetry(database)
    telemetry.take([report("d1", "a", 1, 5), report("d2", "b", 1, 7, errors={"overloaded": 2, "made_up": 1})])
    telemetry.take([report("d1", "a", 1, 5)])  # again
    telemetry.take([report("d1", "c", 1, 2), report("gone", "x", 1, 100)])  # started again; not registered
    served = ("lenet", "1.0.0", "cpu")
    totals = telemetry.totals
    assert totals.requests() == {served: 14}
    assert totals.errors() == {(*served, "overloaded"): 2, (*served, "other"): 1}
    counts, sum_s = totals.latency()[served]
    assert (counts[1], sum(counts), sum_s) == (14, 14, pytest.approx(14 * 0.0004))
    assert telemetry.received()["health", "mqtt"] == 4
    again = Telemetry(database)
    again.take([report("d1", "c", 2, 6)])
    assert again.totals.requests() == {served: 4}
    assert again.totals.latency()[served][0][1] == 4


def test_agents_are_counted_by_the_version_of_their_last_birth(database: Database) -> None:
    telemetry = Telemetry(database)

    def birth(device: str, version: str, *, online: bool = True) -> DeviceMessage:
        said = {"device": device, "online": online, "session_id": f"{device}-{version}", "agent_version": version}
        return checked(device, Presence.model_validate(said), NOW, retained=True)

    telemetry.take([birth("d1", "0.1.0"), birth("d2", "0.1.0"), birth("gone", "9.9.9")])
    assert telemetry.agents() == {("0.1.0",): 2}
    telemetry.take([birth("d1", "0.2.0"), birth("d2", "0.1.0", online=False)])
    assert telemetry.agents() == {("0.2.0",): 1, ("0.1.0",): 1}


def test_of_the_devices_certificates_the_first_that_ends_is_told_until_its_device_falls_silent(
    database: Database,
) -> None:
    telemetry = Telemetry(database)

    def said(device: str, seq: int, at: datetime, **ends: datetime) -> DeviceMessage:
        body = {"device": device, "session_id": "s", "seq": seq, "at": at, "window_s": 1, "uptime_s": 1}
        return checked(device, Health.model_validate({**body, "certificates": ends}), at)

    soon, later = NOW + timedelta(days=3), NOW + timedelta(days=300)
    telemetry.take([said("d1", 1, NOW, broker_client=soon, made_up=soon), said("d2", 1, NOW, broker_client=later)])
    told = telemetry.certificates.soonest
    assert told(NOW) == {("broker_client",): soon.timestamp()}
    hour = NOW + timedelta(hours=1)
    telemetry.take([said("d1", 2, hour, broker_client=later + timedelta(days=1)), said("d2", 2, hour)])
    assert told(hour) == {("broker_client",): (later + timedelta(days=1)).timestamp()}
    assert told(hour + timedelta(hours=3)) == {}


def test_a_batch_that_was_not_committed_is_not_counted(database: Database) -> None:
    telemetry = Telemetry(database)
    telemetry.take([report("d1", "a", 1, 5)])
    with database.write() as session:
        session.execute(update(CountRow).values(requests=(1 << 63) - 1))
    with pytest.raises(Exception, match=r"(?i)int"):
        telemetry.take([report("d2", "b", 1, 3), report("d1", "a", 2, 9)])
    assert telemetry.totals.requests() == {("lenet", "1.0.0", "cpu"): 5}
    assert telemetry.received()["health", "mqtt"] == 1


def test_however_many_names_devices_invent_there_are_so_many_series_and_no_more(database: Database) -> None:
    telemetry = Telemetry(database)
    batch = [report("d1", f"s{n}", 1, 1, version=f"1.0.{n}", target="toaster") for n in range(MAX_SERIES + 5)]
    telemetry.take(batch)
    found = telemetry.totals.requests()
    assert len(found) == MAX_SERIES + 1
    assert found["other", "other", "other"] == 5
    assert {target for _, _, target in found} == {"unknown", "other"}


def test_what_waits_is_told_with_its_age(database: Database) -> None:
    with database.read() as session:
        empty = queues(session)
    assert set(empty) == {"uploads", "jobs", "documents", "webhooks", "plans", "approvals"}
    assert {name: waiting.since for name, waiting in empty.items()} == dict.fromkeys(empty)
    with database.write() as session:
        session.add(UploadRow(id="u", token="t", digest="sha256:" + "0" * 64, size=1, created_at=NOW, touched_at=NOW))
        for number, state in enumerate((RolloutState.PLANNING, RolloutState.AWAITING_APPROVAL), 1):
            fixed = {"model": "m", "version": "1", "manifest": "sha256:" + "0" * 64, "spec": "{}", "reason": ""}
            times = {"since": NOW - timedelta(hours=number), "created_at": NOW}
            session.add(RolloutRow(public=f"r{number}", state=state.value, revision=1, **fixed, **times))
        for number in (1, 2, 3):
            at = NOW - timedelta(minutes=10 - number)
            session.add(FleetLogRow(id=number, at=at, kind="rollout", rollout="r1", document="{}"))
        for name, cursor, off in (("slow", 1, None), ("quick", 3, None), ("off", 0, NOW)):
            hook = {"url": "https://x", "kinds": [], "secret": "", "created_at": NOW, "disabled_at": off}
            session.add(WebhookRow(name=name, cursor=cursor, **hook))
        session.execute(update(DesiredRow).values(published=DesiredRow.device_id != 1))
    with database.read() as session:
        found = queues(session)
    assert found == {
        "uploads": Waiting(1, NOW),
        "jobs": Waiting(0),
        "documents": Waiting(1),
        "webhooks": Waiting(2, NOW - timedelta(minutes=8)),
        "plans": Waiting(1, NOW - timedelta(hours=1)),
        "approvals": Waiting(1, NOW - timedelta(hours=2)),
    }


def test_the_end_of_a_certificate_is_read_as_openssl_reads_it(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "authority")
    context = ssl.create_default_context(cafile=str(authority.file))
    (known,) = context.get_ca_certs()
    assert expires_at(authority.file) == ssl.cert_time_to_seconds(str(known["notAfter"]))
    both, leaf = tmp_path / "both.pem", tmp_path / "leaf.pem"
    authority.issue("127.0.0.1", leaf, leaf)  # with its key before it
    both.write_bytes(authority.file.read_bytes() + leaf.read_bytes())
    assert expires_at(both) == min(expires_at(authority.file) or 0, expires_at(leaf) or 0)
    (tmp_path / "none.pem").write_text("no certificate")
    assert expires_at(tmp_path / "none.pem") is None
    assert expires_at(tmp_path / "missing.pem") is None


def test_bytes_that_are_no_certificate_are_refused_at_every_length(tmp_path: Path) -> None:
    der = ssl.PEM_cert_to_DER_cert(Authority(tmp_path / "authority").file.read_text())
    assert not_after(der) > 0
    for end in range(len(der)):
        with pytest.raises(ValueError, match=r".+"):
            not_after(der[:end])
    with pytest.raises(ValueError, match=r".+"):
        not_after(b"\xff" * 40)
