"""Whatever stands where registry or broker should be: it is said without a traceback, and tried again."""

from __future__ import annotations

import json
import logging
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from agent.adapters.disk.artifact_cache import ArtifactCache
from agent.adapters.network.registry_client import RegistryClient
from agent.dataplane.mqtt import connection as connection_module
from agent.errors import TransientError
from registry.client import api
from registry.client.address import Address
from registry.client.api import ApiClient
from registry.client.errors import ClientError
from registry.contracts.api.answers import Problem
from registry.contracts.api.versions import ModelView
from registry.contracts.backoff import Backoff
from registry.contracts.catalogue.manifest import FileRef
from registry.contracts.paths import blob_path, model_path
from registry.contracts.wire import digest_of
from tests.fakes.registry_simulator import RegistrySimulator
from tests.fakes.workers import FakeWorker
from tests.integration.agent.test_agent_process import AgentProcess, deploy, wait_until
from tests.support.clients.serving import Serving, until
from tests.support.network.broker import Mosquitto
from tests.support.network.odd_tcp import OddTcp, Speak, answer, reset

PROBLEM = Problem(title="", status=400, code="invalid")
NOISE = bytes(range(255, -1, -1)) * 8
JSON = b"Content-Type: application/json\r\n"


def http(status: bytes, headers: bytes = b"", body: bytes = b"", length: int | None = None) -> Speak:
    size = len(body) if length is None else length
    return answer(b"HTTP/1.1 " + status + b"\r\n" + headers + b"Content-Length: %d\r\n\r\n" % size + body)


DOCUMENT = b'{"device":"edge-1","generation":1,"issued_at":"2026-01-01T00:00:00Z","models":{}}'
HTTP: dict[str, Speak] = {
    "closes": lambda _: None,
    "resets": reset,
    "resets after the question": answer(b"", by_reset=True),
    "noise": answer(NOISE),
    "an SSH server": answer(b"SSH-2.0-OpenSSH_9\r\n", ask_first=False),
    "a broker": answer(b"\x20\x03\x00\x00\x00"),
    "TLS": answer(b"\x15\x03\x03\x00\x02\x02\x28"),
    "HTTP/2": answer(b"\x00\x00\x12\x04\x00\x00\x00\x00\x00"),
    "HTTP/0.9": answer(b"hello\n"),
    "status 99": http(b"99 x"),
    "status 999": http(b"999 x"),
    "status of letters": http(b"abc x"),
    "a header that is too long": http(b"200 OK", b"X: " + b"a" * 200_000 + b"\r\n"),
    "too many headers": http(b"200 OK", b"".join(b"X%d: a\r\n" % number for number in range(20_000))),
    "a length that is none": answer(b"HTTP/1.1 200 OK\r\nContent-Length: abc\r\n\r\n"),
    "a negative length": answer(b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n"),
    "two lengths": answer(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello"),
    "a body that is cut": http(b"200 OK", JSON, b"{", length=500),
    "chunks that are none": answer(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"),
    "a chunk that is cut": answer(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel"),
    "gzip that is none": http(b"200 OK", JSON + b"Content-Encoding: gzip\r\n", b"hello"),
    "deflate that is none": http(b"200 OK", JSON + b"Content-Encoding: deflate\r\n", b"hello"),
    "codings nobody knows": http(b"200 OK", JSON + b"Content-Encoding: br, zstd, x\r\n", b"hello"),
    "a charset that is none": http(b"404 x", b"Content-Type: text/html; charset=\xff\xfe\r\n", b"hello"),
    "100 for ever": answer(b"HTTP/1.1 100 Continue\r\n\r\n" * 5000),
    "101": answer(b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\n\r\n"),
    "204": answer(b"HTTP/1.1 204 x\r\n\r\n"),
    "304": answer(b"HTTP/1.1 304 x\r\n\r\n"),
    "503 until a date that is none": http(b"503 x", b"Retry-After: Wed, 99 Foo 9999 99:99:99 GMT\r\n"),
    "503 for ever": http(b"503 x", b"Retry-After: " + b"9" * 400 + b"\r\n"),
    "deep JSON": http(b"200 OK", JSON, b"[" * 200_000),
    "a number that is too long": http(b"200 OK", JSON, b'{"device":1,"generation":' + b"9" * 6000 + b"}"),
    "an ETag of other bytes": http(b"200 OK", JSON + b'ETag: \xff\xfe\x01"\r\n', DOCUMENT),
    "the ETag of another document": http(b"200 OK", JSON + b'ETag: "sha256:' + b"0" * 64 + b'"\r\n', DOCUMENT),
    "a redirect to nowhere": http(b"302 x", b"Location: \xff\xfe://[::1\r\n"),
}


@pytest.mark.parametrize("speak", HTTP.values(), ids=HTTP.keys())
def test_whatever_answers_for_the_registry_is_a_fault_that_passes(speak: Speak, tmp_path: Path) -> None:
    with OddTcp(speak) as odd:
        client = RegistryClient(f"http://127.0.0.1:{odd.port}", "edge-1", token="t", ca_file=None, timeout_s=2)
        with pytest.raises(TransientError):
            client.desired(None)
        with pytest.raises(TransientError):
            client.manifest("sha256:" + "0" * 64)
        with pytest.raises(TransientError):
            pull(client, tmp_path)
        client.close()


def pull(client: RegistryClient, folder: Path) -> None:
    cache = ArtifactCache(folder, limit=1 << 40, reserve=0)
    cache.open()
    with cache.part(FileRef(path="m", digest=digest_of(b"x"), size=10_000)) as part:
        client.download(part, threading.Event())
        part.check()


@pytest.mark.parametrize("speak", HTTP.values(), ids=HTTP.keys())
def test_whatever_answers_for_the_registry_ends_a_command_with_a_code(
    speak: Speak, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api, "RETRIES", Backoff(0.001, 0.001, limit=4))
    with OddTcp(speak) as odd:
        client = ApiClient(Address(f"http://127.0.0.1:{odd.port}", "t"))
        for use in (
            lambda: client.get(model_path("lenet"), ModelView),
            lambda: client.exists(blob_path(digest_of(b"x"))),
            lambda: client.send("PUT", model_path("lenet"), PROBLEM).decode(ModelView),
        ):
            with pytest.raises(ClientError) as said:
                use()
            assert said.value.code in ("unreachable", "bad_answer")
        client.close()


CONNACK = b"\x20\x03\x00\x00\x00"


def greeted(more: bytes, *, by_reset: bool = False) -> Speak:
    """A broker up to SUBACK, and then this."""

    def speak(connection: socket.socket) -> None:
        connection.recv(1 << 16)
        connection.sendall(CONNACK)
        mid = connection.recv(1 << 16)[2:4]
        connection.sendall(b"\x90\x04" + mid + b"\x00\x01" + more)
        if by_reset:
            reset(connection)
            return
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(1 << 16):
            continue

    return speak


MQTT: dict[str, Speak] = {
    "closes": lambda _: None,
    "resets": reset,
    "HTTP": answer(b"HTTP/1.1 400 Bad Request\r\n\r\n"),
    "noise": answer(NOISE),
    "TLS": answer(b"\x15\x03\x03\x00\x02\x02\x28"),
    "not authorized": answer(b"\x20\x03\x00\x87\x00"),
    "a reason nobody knows": answer(b"\x20\x03\x00\x55\x00"),
    "an answer that is cut": answer(b"\x20\x03\x00"),
    "properties that are none": answer(b"\x20\x08\x00\x00\x05\xee\xff\xff\x01\x02"),
    "a length that is none": answer(b"\x20\xff\xff\xff\xff\xff"),
    "subscriptions refused": answer(CONNACK + b"\x90\x04\x00\x01\x00\x87"),
    "noise later": greeted(NOISE),
    "a topic of other bytes": greeted(b"\x30\x08\x00\x03\xff\xfe\xfd\x00ab"),
    "QoS 3": greeted(b"\x36\x08\x00\x03abc\x00\x01\x00"),
    "a topic that is longer than its packet": greeted(b"\x30\x05\xff\xffabc"),
    "an alias nobody gave": greeted(b"\x30\x09\x00\x00\x03\x23\x00\x09abc"),
    "says good-bye": greeted(b"\xe0\x02\x8b\x00"),
    "says good-bye for a reason nobody knows": greeted(b"\xe0\x02\x55\x00"),
    "acknowledges what was never sent": greeted(b"\x40\x02\xff\xff\x50\x02\x00\x01\x70\x02\x00\x03"),
    "packets only clients send": greeted(b"\x82\x06\x00\x01\x00\x00\x01a\xc0\x00"),
    "a packet of no type": greeted(b"\x00\x00"),
    "resets later": greeted(b"", by_reset=True),
}


@pytest.mark.parametrize("fast", [True, False], ids=["fast", "public"])
def test_whatever_answers_for_the_broker_the_agent_comes_back_to_the_real_one(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    broker: Mosquitto,
    fast: bool,
) -> None:
    monkeypatch.setattr(connection_module, "RECONNECT", Backoff(0.02, 0.05))
    caplog.set_level(logging.INFO)
    with OddTcp(MQTT["closes"]) as odd:
        device = Serving(odd.port, tmp_path, fast=fast)
        device.serve(FakeWorker())
        device.plane.start()
        for speak in MQTT.values():
            before = odd.connections
            odd.speak = speak
            until(lambda before=before: odd.connections >= before + 2)

        def through(connection: socket.socket) -> None:
            with socket.create_connection(("127.0.0.1", broker.port)) as real:
                for near, far in ((connection, real), (real, connection)):
                    threading.Thread(target=_relay, args=(near, far), daemon=True).start()
                while not done.wait(0.05):
                    continue

        done = threading.Event()
        odd.speak = through
        until(lambda: device.plane.snapshot().connected and broker_has(device, broker))
        done.set()
        device.stop()
    assert not [record.getMessage() for record in caplog.records if record.exc_info]


def _relay(source: socket.socket, sink: socket.socket) -> None:
    try:
        while data := source.recv(1 << 16):
            sink.sendall(data)
    except OSError:
        return


def broker_has(device: Serving, broker: Mosquitto) -> bool:
    return broker.retained(device.topics.device(device.name, "presence"), 10.0) == b'{"online":true}'


def test_an_agents_log_of_a_day_of_weather_has_no_traceback(tmp_path: Path, mortal_broker: Mosquitto) -> None:
    registry = RegistrySimulator().start()
    deploy(registry)
    agent = AgentProcess(tmp_path / "data", registry.url, mortal_broker.port)
    log = tmp_path / "log"
    with log.open("wb") as out:
        child = subprocess.Popen([sys.executable, "-m", "agent", "run"], env=agent.settings, stderr=out)
        try:
            wait_until(agent.serves)
            connected = tmp_path / "data" / "status.json"
            wait_until(lambda: json.loads(connected.read_text())["connected"])
            mortal_broker.kill()
            wait_until(lambda: not json.loads(connected.read_text())["connected"])
            registry.stop()
            wait_until(lambda: "cannot be asked" in log.read_text())
            mortal_broker.start()
            wait_until(lambda: json.loads(connected.read_text())["connected"])
            os.kill(child.pid, 15)
            assert child.wait(30) == 0
        finally:
            child.kill()
            child.wait(10)
    text = log.read_text()
    assert "Traceback" not in text, text
    assert "foresaw" not in text, text
    assert "no connection to the broker" in text
