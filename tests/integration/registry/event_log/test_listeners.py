"""Groups, the fleet's log and the event stream, with a real server."""

from __future__ import annotations

import socket
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import timedelta
from functools import partial
from pathlib import Path

import httpx
import pytest

from registry.db.engine import Database
from registry.server.routes.stream import MAX_CLIENTS
from registry.services.fleet.fleet_log import FleetLog
from registry.services.rollouts.planning import LeaderLease, holder_in
from tests.integration.registry.event_log.events import START, event, write
from tests.support.programs.fleet_registry import FleetRegistry, eventually


def test_cursors_rise_over_transactions_and_forgetting(database: Database) -> None:
    log = FleetLog(database)
    write(database, event(), event("wave"))
    write(database, event(rollout="r-2"))
    assert [(e.cursor, e.kind) for e in log.after(0)] == [(1, "rollout"), (2, "wave"), (3, "rollout")]
    assert [e.cursor for e in log.after(1, rollout="r-1")] == [2]
    assert log.sweep(START + timedelta(days=30)) == 3
    assert log.bounds() == (4, 3)
    write(database, event())
    assert [e.cursor for e in log.after(0)] == [4]


def test_only_so_many_events_are_kept(database: Database) -> None:
    log = FleetLog(database)
    write(database, *(event() for _ in range(10)))
    assert log.sweep(START, most=3) == 7
    assert [e.cursor for e in log.after(0)] == [8, 9, 10]


def test_of_two_processes_one_leads_until_it_lets_go(database: Database) -> None:
    one, other = LeaderLease(database, "rollouts", "one"), LeaderLease(database, "rollouts", "other")
    assert one.hold(START)
    assert not other.hold(START)
    assert one.hold(START + timedelta(seconds=8))
    assert not other.hold(START + timedelta(seconds=12))
    assert other.hold(START + timedelta(seconds=30))
    assert not one.hold(START + timedelta(seconds=30))
    other.release()
    assert one.hold(START + timedelta(seconds=30))


def test_who_is_started_again_in_the_same_folder_leads_at_once(database: Database, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    killed, next_one, other = (
        LeaderLease(database, "rollouts", holder_in(folder)) for folder in (tmp_path, tmp_path, tmp_path / "other")
    )
    assert killed.hold(START)
    assert not other.hold(START)
    assert next_one.hold(START)


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FleetRegistry]:
    with FleetRegistry(tmp_path_factory.mktemp("registry"), None) as process:
        yield process


def test_a_group_has_devices_by_name_and_by_selector(registry: FleetRegistry) -> None:
    for name, site in (("g1", "paris"), ("g2", "paris"), ("g3", "oslo")):
        registry.ask("PUT", f"/v1/devices/{name}", {"labels": {"site": site}})
    body = {"selector": "site=paris", "devices": ["g3", "later"]}
    assert registry.ask("PUT", "/v1/groups/front", body)["count"] == 3
    registry.ask("PUT", "/v1/devices/later", {})
    group = registry.ask("GET", "/v1/groups/front")
    assert (group["count"], group["devices"]) == (4, ["g3", "later"])
    assert [g["name"] for g in registry.ask("GET", "/v1/groups")["items"]] == ["front"]
    assert "character" in registry.ask("PUT", "/v1/groups/bad", {"selector": "site=="}, 422)["detail"]
    registry.ask("PUT", "/v1/groups/empty", {}, 422)
    registry.ask("DELETE", "/v1/groups/front", status=204)
    registry.ask("GET", "/v1/groups/front", status=404)


def read_stream(registry: FleetRegistry, count: int, query: str = "", **headers: str) -> list[str]:
    """The ids of the first `count` events."""
    ids: list[str] = []
    path = f"/v1/rollout-events{query}"
    with registry.process.client() as client, client.stream("GET", path, headers=headers) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        for line in answer.iter_lines():
            if line.startswith("id: "):
                ids.append(line[4:])
            if len(ids) == count:
                break
    return ids


def test_a_stream_goes_on_after_the_last_event_that_was_seen(registry: FleetRegistry) -> None:
    database = Database(f"sqlite:///{registry.process.data / 'registry.db'}")
    write(database, event(at=START + timedelta(days=9999)), event(at=START + timedelta(days=9999)))
    assert read_stream(registry, 2, **{"Last-Event-ID": "0"}) == ["1", "2"]
    assert read_stream(registry, 1, **{"Last-Event-ID": "1"}) == ["2"]
    seen: list[str] = []
    listener = threading.Thread(target=lambda: seen.extend(read_stream(registry, 1, **{"Last-Event-ID": "2"})))
    listener.start()
    write(database, event(at=START + timedelta(days=9999)))
    eventually(lambda: seen == ["3"])
    listener.join()
    database.close()


def test_a_cursor_that_is_none_is_refused(registry: FleetRegistry) -> None:
    registry.ask("GET", "/v1/rollout-events", status=422, headers={"Last-Event-ID": "x"})
    registry.ask("GET", "/v1/rollout-events?cursor=-1", status=422)
    for above in ({"params": {"cursor": 999_999}}, {"headers": {"Last-Event-ID": "999999"}}):
        refused = registry.ask("GET", "/v1/rollout-events", status=422, timeout=30, **above)
        assert (refused["code"], "given out" in refused["detail"]) == ("invalid", True)


def test_a_stream_of_one_rollout_is_asked_for_by_its_name_or_its_id(registry: FleetRegistry) -> None:
    registry.publish("streamed", "1.0.0", {"name": "cpu", "target": "cpu"})
    spec = {"model": "streamed", "version": "1.0.0", "fleet": {"devices": ["nobody"]}}
    rollout = registry.ask("PUT", "/v1/rollouts/spring", spec, 201)["id"]
    database = Database(f"sqlite:///{registry.process.data / 'registry.db'}")
    far = START + timedelta(days=9999)
    write(database, event(at=far), event(rollout=rollout, at=far))
    newest = FleetLog(database).bounds()[1]
    database.close()
    for name in ("spring", rollout):
        assert read_stream(registry, 1, f"?rollout={name}&cursor={newest - 2}") == [str(newest)]
    refused = registry.ask("GET", "/v1/rollout-events?rollout=sprung", status=404, timeout=30)
    assert refused["code"] == "not_found"


def test_one_caller_holds_no_more_streams_than_its_share_however_they_come(registry: FleetRegistry) -> None:
    share = MAX_CLIENTS // 4
    head = f"GET /v1/rollout-events HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {registry.process.admin_token}\r\n\r\n"
    with ExitStack() as opened:
        ask = partial(socket.create_connection, ("127.0.0.1", registry.process.port), 30)
        streams = [opened.enter_context(ask()) for _ in range(share + 20)]
        for stream in streams:
            stream.sendall(head.encode())
        lines = [opened.enter_context(stream.makefile("rb")).readline() for stream in streams]
        assert Counter(line.split()[1] for line in lines) == {b"200": share, b"429": 20}
    eventually(lambda: stream_status(registry) == 200)  # those that ended make room


def stream_status(registry: FleetRegistry) -> int:
    with registry.process.client() as client, client.stream("GET", "/v1/rollout-events") as answer:
        return answer.status_code


def test_only_those_who_deploy_see_webhooks(registry: FleetRegistry) -> None:
    registry.ask("PUT", "/v1/webhooks/mine", {"url": "https://example.org/hook"}, 201)
    registry.ask("PUT", "/v1/webhooks/mine", {"url": "https://example.org/hook", "kinds": ["nonsense"]}, 422)
    assert "secret" not in registry.ask("PUT", "/v1/webhooks/mine", {"url": "https://example.org/other"}, 200)
    anonymous = httpx.get(f"{registry.process.url}/v1/webhooks", trust_env=False)
    assert anonymous.status_code == 401
    registry.ask("DELETE", "/v1/webhooks/mine", status=204)
