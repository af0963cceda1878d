"""The data path and a broker of which the test writes every byte: long payloads, and what is no MQTT."""

from __future__ import annotations

import resource
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from agent.core.events import Disconnected
from registry.inference.packets import encode_publish, text, variable
from tests.fakes.workers import FakeWorker
from tests.support.clients.asking import binary_request
from tests.support.clients.serving import Serving, until


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """Where the agent finds its broker: the test."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(20)
        yield server


def greet(listener: socket.socket) -> socket.socket:
    """Takes one agent through CONNECT and SUBSCRIBE."""
    connection, _ = listener.accept()
    connection.settimeout(20)
    assert connection.recv(4096)[0] == 0x10
    connection.sendall(b"\x20\x03\x00\x00\x00")
    subscribe = connection.recv(4096)
    assert subscribe[0] == 0x82
    start = 3 if subscribe[1] & 0x80 else 2  # behind the remaining length, of one byte or two
    connection.sendall(b"\x90\x05" + subscribe[start : start + 2] + b"\x00\x01\x01")
    return connection


def request(device: Serving, x: npt.NDArray[np.float32], rows: int = 1) -> bytes:
    """A PUBLISH with these numbers."""
    payload, length = binary_request(x, rows=rows)
    header_length = b"\x26" + text(b"inference-header-content-length") + text(b"%d" % length)
    return encode_publish(text(device.infer().encode()), b"\x08" + text(b"r") + header_length, (payload,))


def reply(broker: socket.socket) -> bytes:
    """What the agent sends until a whole result is in it; presence and pings are passed over."""
    received = b""
    while b'"code"' not in received and b'"outputs"' not in received:
        data = broker.recv(65536)
        assert data, "the agent hung up"
        received += data
    return received


def test_300_megabytes_of_payload_leave_no_trace(listener: socket.socket, tmp_path: Path) -> None:
    device = Serving(listener.getsockname()[1], tmp_path)
    device.serve(FakeWorker())
    device.plane.start()
    broker = greet(listener)
    head = encode_publish(text(device.infer().encode()), b"\x08" + text(b"r") + b"\x09" + text(b"big"), ())[2:]
    size = 268_435_455 - len(head)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    broker.sendall(b"\x30" + variable(268_435_455) + head)
    chunk = bytes(1 << 20)
    for _ in range(size >> 20):
        broker.sendall(chunk)
    broker.sendall(bytes(size & (1 << 20) - 1))
    answer = reply(broker)
    assert b"too_large" in answer
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 16 << 10, f"{grown} KiB"
    broker.sendall(request(device, np.array([1, 2, 3, 4], np.float32)))
    assert b'"outputs"' in reply(broker)
    broker.close()
    device.stop()


def test_a_connection_cut_in_a_long_payload_gives_its_place_back(listener: socket.socket, tmp_path: Path) -> None:
    device = Serving(listener.getsockname()[1], tmp_path)
    device.serve(FakeWorker(arenas=2))
    device.plane.start()
    packet = request(device, np.arange(100_000, dtype=np.float32), rows=25_000)
    for _ in range(4):
        broker = greet(listener)
        broker.sendall(packet[:200_000])
        until(lambda: device.plane.snapshot().models["double"].queue_depth == 1)
        broker.close()
        device.event(Disconnected)
    assert device.plane.snapshot().models["double"].queue_depth == 0
    broker = greet(listener)
    broker.sendall(packet)
    assert b'"outputs"' in reply(broker)
    broker.close()
    device.stop()


def test_a_worker_that_dies_while_a_long_payload_comes_costs_only_that_request(
    listener: socket.socket, tmp_path: Path
) -> None:
    device = Serving(listener.getsockname()[1], tmp_path)
    device.serve(FakeWorker())
    device.plane.start()
    packet = request(device, np.arange(100_000, dtype=np.float32), rows=25_000)
    broker = greet(listener)
    broker.sendall(packet[:200_000])
    until(lambda: device.plane.snapshot().models["double"].queue_depth == 1)
    device.workers[0].die()
    assert b"worker_crashed" in reply(broker)
    device.serve(FakeWorker())
    device.plane.snapshot()
    broker.sendall(packet[200_000:] + packet)
    assert b'"outputs"' in reply(broker)
    assert device.plane.snapshot().total("mqtt_connections") == 1
    broker.close()
    device.stop()


def test_a_payload_that_takes_longer_than_the_keepalive_does_not_end_the_connection(
    listener: socket.socket, tmp_path: Path
) -> None:
    device = Serving(listener.getsockname()[1], tmp_path, keepalive_s=2)
    device.serve(FakeWorker())
    device.plane.start()
    packet = request(device, np.arange(100_000, dtype=np.float32), rows=25_000)
    broker = greet(listener)
    pieces = [packet[start : start + 10_000] for start in range(0, len(packet), 10_000)]
    began = time.monotonic()
    for number, piece in enumerate(pieces):
        due = began + 5 * number / len(pieces)
        until(lambda due=due: time.monotonic() > due)
        broker.sendall(piece)  # and never a PINGRESP: it would have to wait behind the payload
    assert b'"outputs"' in reply(broker)
    assert device.plane.snapshot().total("mqtt_connections") == 1
    broker.close()
    device.stop()


@pytest.mark.parametrize(
    "garbage",
    [b"\x30\xff\xff\xff\xff\xff", b"\x32\x05\x00\x09abc", b"\xf0\x00", b"\x30\x04\x00\x01t\x7f", b"\x00" * 64],
    ids=["endless length", "topic past its packet", "reserved type", "properties past their packet", "zeros"],
)
def test_what_is_not_mqtt_ends_the_connection_and_the_agent_comes_back(
    listener: socket.socket, tmp_path: Path, garbage: bytes
) -> None:
    device = Serving(listener.getsockname()[1], tmp_path)
    device.plane.start()
    broker = greet(listener)
    device.connected()
    broker.sendall(garbage + b"\x30\x04\x00\x01t\x7f" * 3)
    device.event(Disconnected)
    again = greet(listener)
    device.connected()
    again.close()
    broker.close()
    device.stop()
