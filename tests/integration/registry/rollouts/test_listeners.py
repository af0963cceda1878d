"""Groups, the event stream and webhooks: a real server, and real receivers on loopback."""

from __future__ import annotations

import hashlib
import hmac
import json
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import datetime, timedelta, timezone
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from registry.contracts.rollout_events import RolloutEvent, WebhookCreate, WebhookCreated
from registry.contracts.rollout_states import RolloutState
from registry.contracts.rollout_views import ReasonCode, RolloutReason
from registry.db.engine import Database
from registry.db.migrations.upgrade import upgrade
from registry.errors import InvalidError
from registry.server.routes.stream import MAX_CLIENTS
from registry.services import webhooks
from registry.services.fleet_log import FleetLog, append
from registry.services.rollouts.lease import Lease
from registry.services.webhooks import CURSOR, MAX_FAILURES, SIGNATURE, Webhooks, is_public
from tests.support.fleet_registry import FleetRegistry, eventually
from tests.support.postgres import Databases

START = datetime(2030, 5, 1, 10, tzinfo=timezone.utc)


def event(kind: str = "rollout", rollout: str = "r-1", at: datetime = START) -> RolloutEvent:
    reason = RolloutReason(code=ReasonCode.RELEASING)
    return RolloutEvent(
        cursor=0, at=at, kind=kind, rollout=rollout, state=RolloutState.RUNNING, revision=1, reason=reason
    )


class Receiver:
    """An HTTP server that answers what it is told to, and keeps what it got."""

    def __init__(self) -> None:
        self.got: list[tuple[dict[str, str], bytes]] = []
        self.status = 204
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                outer.got.append(({key.lower(): value for key, value in self.headers.items()}, body))
                self.send_response(outer.status)
                self.send_header("Location", "/elsewhere")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}/hook"

    def cursors(self) -> list[int]:
        return [int(headers[CURSOR]) for headers, _ in self.got]

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.close()


@pytest.fixture
def database(tmp_path: Path, databases: Databases) -> Iterator[Database]:
    made = Database(databases.url(tmp_path))
    upgrade(made.engine)
    yield made
    made.close()


def write(database: Database, *events: RolloutEvent) -> None:
    with database.write() as session:
        append(session, events)


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
    one, other = Lease(database, "rollouts", "one"), Lease(database, "rollouts", "other")
    assert one.hold(START)
    assert not other.hold(START)
    assert one.hold(START + timedelta(seconds=8))
    assert not other.hold(START + timedelta(seconds=12))
    assert other.hold(START + timedelta(seconds=30))
    assert not one.hold(START + timedelta(seconds=30))
    other.release(START + timedelta(seconds=30))
    assert one.hold(START + timedelta(seconds=30))


def test_a_webhook_gets_every_event_once_signed_and_in_order(database: Database, receiver: Receiver) -> None:
    hooks = Webhooks(database, FleetLog(database), allow_private=True)
    write(database, event())
    made = hooks.put("hook", WebhookCreate(url=receiver.url), START)
    assert isinstance(made, WebhookCreated)
    write(database, event(), event("device"), event("wave"))
    assert hooks.deliver(lambda: START) == 2
    assert hooks.deliver(lambda: START) == 0
    assert receiver.cursors() == [2, 4]
    headers, body = receiver.got[0]
    assert json.loads(body)["cursor"] == 2
    stamp, _, given = headers[SIGNATURE].partition(",v1=")
    assert stamp == f"t={int(START.timestamp())}"
    signed = f"{int(START.timestamp())}.".encode() + body
    assert given == hmac.new(made.secret.encode(), signed, hashlib.sha256).hexdigest()
    assert not hasattr(hooks.put("hook", WebhookCreate(url=receiver.url), START), "secret")


@pytest.mark.parametrize("status", [302, 400, 500])
def test_what_was_refused_comes_again_later_and_nothing_overtakes_it(
    database: Database, receiver: Receiver, status: int
) -> None:
    hooks = Webhooks(database, FleetLog(database), allow_private=True)
    hooks.put("hook", WebhookCreate(url=receiver.url), START)
    write(database, event(), event())
    receiver.status = status
    assert hooks.deliver(lambda: START) == 0
    view = hooks.get("hook")
    assert (view.failures, view.last_error, view.cursor) == (1, f"answered {status}", 0)
    assert hooks.deliver(lambda: START) == 0
    assert receiver.cursors() == [1]
    receiver.status = 200
    assert hooks.deliver(lambda: START + timedelta(hours=1)) == 2
    assert receiver.cursors() == [1, 1, 2]
    assert (hooks.get("hook").failures, hooks.get("hook").next_try) == (0, None)


def test_a_webhook_that_fails_too_often_is_disabled_until_it_is_put_again(
    database: Database, receiver: Receiver
) -> None:
    hooks = Webhooks(database, FleetLog(database), allow_private=True)
    hooks.put("hook", WebhookCreate(url=receiver.url), START)
    write(database, event())
    receiver.status = 500
    for hour in range(MAX_FAILURES + 5):
        hooks.deliver(lambda hour=hour: START + timedelta(hours=2 * hour))  # type: ignore[misc]
    assert len(receiver.got) == MAX_FAILURES
    assert hooks.get("hook").disabled_at is not None
    receiver.status = 200
    hooks.put("hook", WebhookCreate(url=receiver.url), START)
    assert hooks.deliver(lambda: START) == 1


def test_a_webhook_counts_what_was_forgotten_before_it_came(database: Database, receiver: Receiver) -> None:
    log = FleetLog(database)
    hooks = Webhooks(database, log, allow_private=True)
    hooks.put("hook", WebhookCreate(url=receiver.url), START)
    write(database, *(event() for _ in range(5)))
    log.sweep(START, most=2)
    assert hooks.deliver(lambda: START) == 2
    assert hooks.get("hook").lost == 3


def test_events_do_not_go_inside_unless_that_is_allowed(database: Database, receiver: Receiver) -> None:
    hooks = Webhooks(database, FleetLog(database))
    hooks.put("hook", WebhookCreate(url=receiver.url.replace("127.0.0.1", "localhost")), START)
    write(database, event())
    assert hooks.deliver(lambda: START) == 0
    assert receiver.got == []
    assert "private" in hooks.get("hook").last_error


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "10.1.2.3", "169.254.169.254", "::1", "fe80::1%eth0", "::ffff:10.0.0.1", "64:ff9b::a00:1",
     "2002:7f00:1::", "0.0.0.0", "224.0.0.1", "100.64.0.1", "::127.0.0.1", "::ffff:0:127.0.0.1", "fec0::1",
     "64:ff9b:1::7f00:1"],
)  # fmt: skip
def test_an_address_inside_is_known_whatever_it_is_wrapped_in(address: str) -> None:
    assert not is_public(address)


def test_a_public_address_is_public() -> None:
    assert is_public("8.8.8.8")
    assert is_public("2606:4700::1111")


def test_a_host_that_is_no_name_holds_up_no_other_webhook(database: Database, receiver: Receiver) -> None:
    hooks = Webhooks(database, FleetLog(database), allow_private=True)
    hooks.put("bad", WebhookCreate(url=f"http://{'a' * 64}.example.org/"), START)
    hooks.put("good", WebhookCreate(url=receiver.url), START)
    write(database, event())
    assert hooks.deliver(lambda: START) == 1
    assert receiver.cursors() == [1]
    assert hooks.get("bad").failures == 1


def test_a_slow_receiver_gets_the_rest_in_the_next_pass(
    database: Database, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhooks, "PASS_S", 0.0)  # whoever takes any time is slow
    hooks = Webhooks(database, FleetLog(database), allow_private=True)
    hooks.put("slow", WebhookCreate(url=receiver.url), START)
    write(database, *(event() for _ in range(3)))
    assert [hooks.deliver(lambda: START) for _ in range(4)] == [1, 1, 1, 0]
    assert receiver.cursors() == [1, 2, 3]
    assert hooks.get("slow").failures == 0


@pytest.mark.parametrize("url", ["http://", "http://user:secret@example.org/", "http://example.org:99999/", "http://["])
def test_a_url_that_is_none_is_refused(database: Database, url: str) -> None:
    with pytest.raises((InvalidError, ValueError)):
        Webhooks(database, FleetLog(database)).put("hook", WebhookCreate(url=url), START)


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


def read_stream(registry: FleetRegistry, count: int, **headers: str) -> list[str]:
    """The ids of the first `count` events."""
    ids: list[str] = []
    with registry.process.client() as client, client.stream("GET", "/v1/rollout-events", headers=headers) as answer:
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


def test_no_more_streams_are_open_than_are_allowed_however_they_come(registry: FleetRegistry) -> None:
    head = f"GET /v1/rollout-events HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {registry.process.admin_token}\r\n\r\n"
    with ExitStack() as opened:
        ask = partial(socket.create_connection, ("127.0.0.1", registry.process.port), 30)
        streams = [opened.enter_context(ask()) for _ in range(MAX_CLIENTS + 20)]
        for stream in streams:
            stream.sendall(head.encode())
        lines = [opened.enter_context(stream.makefile("rb")).readline() for stream in streams]
        assert Counter(line.split()[1] for line in lines) == {b"200": MAX_CLIENTS, b"503": 20}
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
