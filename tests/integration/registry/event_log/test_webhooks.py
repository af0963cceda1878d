"""Webhooks: real receivers on loopback, with and without TLS."""

from __future__ import annotations

import hashlib
import hmac
import json
import ssl
import threading
from collections.abc import Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from registry.contracts.rollout.views import WebhookCreate, WebhookCreated
from registry.db.engine import Database
from registry.errors import InvalidError
from registry.services import webhooks
from registry.services.fleet.fleet_log import FleetLog
from registry.services.webhooks import CURSOR, SIGNATURE, Webhooks, is_public
from tests.integration.registry.event_log.events import START, event, write
from tests.support.network.certificates import Authority


class Receiver:
    """An HTTP server that answers what it is told to, and keeps what it got; with `tls`, an HTTPS server."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
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
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()
        self.port = self._server.server_port
        self.url = f"http://127.0.0.1:{self.port}/hook"

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
    for hour in range(40 + 5):
        hooks.deliver(lambda hour=hour: START + timedelta(hours=2 * hour))  # type: ignore[misc]
    assert len(receiver.got) == 40
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
    inside = WebhookCreate(url=receiver.url.replace("127.0.0.1", "localhost"))
    hooks = Webhooks(database, FleetLog(database))
    with pytest.raises(InvalidError, match="private network"):
        hooks.put("hook", inside, START)
    assert hooks.page("", 10) == []
    Webhooks(database, FleetLog(database), allow_private=True).put("hook", inside, START)  # or its name led elsewhere
    write(database, event())
    assert hooks.deliver(lambda: START) == 0
    assert receiver.got == []
    assert "private" in hooks.get("hook").last_error


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "10.1.2.3", "169.254.169.254", "::1", "fe80::1%eth0", "::ffff:10.0.0.1", "64:ff9b::a00:1",
     "2002:7f00:1::", "0.0.0.0", "224.0.0.1", "100.64.0.1", "::127.0.0.1", "::ffff:0:127.0.0.1", "fec0::1",
     "64:ff9b:1::7f00:1", "2606:4700::5efe:10.0.0.1", "2606:4700::200:5efe:a00:1"],
)  # fmt: skip
def test_an_address_inside_is_known_whatever_it_is_wrapped_in(address: str) -> None:
    assert not is_public(address)


def test_a_public_address_is_public() -> None:
    assert is_public("8.8.8.8")
    assert is_public("2606:4700::1111")
    assert is_public("2606:4700::5efe:8.8.8.8")


def test_a_name_that_cannot_be_looked_up_may_be_set(database: Database) -> None:
    hooks = Webhooks(database, FleetLog(database))
    hooks.put("hook", WebhookCreate(url="https://receiver.invalid/x"), START)
    assert hooks.get("hook").failures == 0


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


@pytest.fixture
def authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Authority:
    """The only one that this host trusts."""
    made = Authority(tmp_path / "authority")
    monkeypatch.setenv("SSL_CERT_FILE", str(made.file))
    return made


def over_tls(database: Database, certificate: ssl.SSLContext, host: str = "localhost") -> tuple[int, Webhooks]:
    """Events that a receiver with this certificate got, and the webhook that was told of `host`."""
    receiver = Receiver(certificate)
    hooks = Webhooks(database, FleetLog(database), allow_private=True)
    hooks.put("hook", WebhookCreate(url=f"https://{host}:{receiver.port}/hook"), START)
    write(database, event())
    try:
        hooks.deliver(lambda: START)
    finally:
        receiver.close()
    return len(receiver.got), hooks


def test_over_tls_the_certificate_is_for_the_name_though_the_address_is_what_is_connected_to(
    database: Database, authority: Authority
) -> None:
    got, hooks = over_tls(database, authority.certificate_for("localhost"))
    assert (got, hooks.get("hook").last_error) == (1, "")


@pytest.mark.parametrize(("named", "why"), [("elsewhere.example", "ostname"), ("127.0.0.1", "ostname")])
def test_a_certificate_for_another_name_is_refused_and_counted(
    database: Database, authority: Authority, named: str, why: str
) -> None:
    got, hooks = over_tls(database, authority.certificate_for(named))
    found = hooks.get("hook")
    assert (got, found.failures, found.cursor) == (0, 1, 0)
    assert why in found.last_error


def test_a_certificate_of_an_authority_that_nobody_trusts_is_refused_and_counted(
    database: Database, authority: Authority, tmp_path: Path
) -> None:
    stranger = Authority(tmp_path / "stranger")
    got, hooks = over_tls(database, stranger.certificate_for("localhost"))
    found = hooks.get("hook")
    assert (got, found.failures, found.cursor) == (0, 1, 0)
    assert "CERTIFICATE_VERIFY_FAILED" in found.last_error
    assert found.next_try is not None
