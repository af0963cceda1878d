"""A buffering socket under paho, so that paho owns the session and its user the inference messages.

paho asks `Client._create_socket` for its socket. That is the one private member used here; it gets a `BufferedSocket`,
which has the documented shape (paho's `SocketLike`: recv, send, close, fileno, setblocking, and pending for TLS). The
loop reads the real socket, keeps the inference PUBLISHes for itself and hands every other packet to paho's `recv`.
What paho and its user write goes into one ordered queue and leaves in one send.
`fast_path_fault` says at start whether this paho still works that way; if not, the public API is used alone.
"""

from __future__ import annotations

import contextlib
import inspect
import socket
import ssl
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

WOULD_BLOCK = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError, InterruptedError)
HIGH_WATER = 8 << 20
"""Bytes waiting to be sent at which no more requests are read, until a quarter of it is left."""
CLOSE_SECONDS = 0.5
"""How long a closing socket may try to send what is still queued (a DISCONNECT above all)."""
PROTOCOL_FAULT = b"\xf0\xff\xff\xff\xff\xff"
"""A packet no paho accepts (a remaining length of five bytes): how a connection is ended through its public API."""


class BufferedSocket:
    """What paho takes for its socket. Only the data thread (or, while connecting, the connector) touches it."""

    def __init__(self, real: socket.socket) -> None:
        self.real = real
        self.tls = isinstance(real, ssl.SSLSocket)
        self.inbox = bytearray()
        """Bytes for paho."""
        self.ended = False
        """True: the peer has closed; paho shall see the end once the inbox is empty."""
        self.out: list[bytes] = []
        self.unsent = 0
        """Bytes that the real socket did not take yet."""
        self._tail: memoryview | None = None

    def recv(self, size: int) -> bytes:
        """For paho: what the loop put into the inbox. Raises BlockingIOError when that is nothing."""
        if self.inbox:
            data = bytes(self.inbox[:size])
            del self.inbox[:size]
            return data
        if self.ended:
            return b""
        raise BlockingIOError

    def send(self, data: bytes | bytearray) -> int:
        """For paho: always takes everything; the packets of paho itself are few and small."""
        self.put(bytes(data))
        return len(data)

    def put(self, packet: bytes) -> None:
        """Queues one packet, after all that were queued before."""
        self.out.append(packet)

    def flush(self) -> bool:
        """Sends what is queued, in one piece when possible. True: nothing is left. Raises OSError."""
        while True:
            tail = self._tail
            if tail is None:
                if not self.out:
                    return True
                queued = self.out
                self.out = []
                tail = memoryview(queued[0] if len(queued) == 1 else b"".join(queued))
            try:
                sent = self.real.send(tail)
            except WOULD_BLOCK:
                sent = 0
            self._tail = tail[sent:] if sent < len(tail) else None
            self.unsent = len(tail) - sent
            if self._tail is not None:
                return False

    def congested(self) -> bool:
        """True while so much waits to be sent that no more requests should be read."""
        return self.unsent > 0 and self.unsent + sum(map(len, self.out)) > HIGH_WATER

    def fileno(self) -> int:
        """Of the real socket."""
        return self.real.fileno()

    def setblocking(self, flag: bool) -> None:
        """Of the real socket."""
        self.real.setblocking(flag)

    def setsockopt(self, *arguments: Any) -> None:
        """Of the real socket."""
        self.real.setsockopt(*arguments)

    def pending(self) -> int:
        """Bytes that `recv` has at hand."""
        return len(self.inbox)

    def close(self) -> None:
        """Closes, after trying for CLOSE_SECONDS to send what is queued."""
        with contextlib.suppress(OSError, ValueError):
            if not self.ended:
                self.real.settimeout(CLOSE_SECONDS)
                self.flush()
        self.real.close()


class FastClient(mqtt.Client):
    """A paho client over a `BufferedSocket`."""

    buffered: BufferedSocket | None = None
    """Of the newest connection."""

    def _create_socket(self) -> Any:
        real: Any = super()._create_socket()
        self.buffered = BufferedSocket(real)
        return self.buffered


def fast_path_fault() -> str:
    """Why the fast path cannot be used with the installed paho; empty when it can.

    Tries it out: a client connected to a socket pair must send CONNECT through our socket and read CONNACK from it.
    """
    method = getattr(mqtt.Client, "_create_socket", None)
    if not callable(method):
        return "paho.mqtt.client.Client has no _create_socket"
    if list(inspect.signature(method).parameters) != ["self"]:
        return "Client._create_socket takes other arguments than it did"
    try:
        return _try_out()
    except Exception as error:  # noqa: BLE001 - whatever goes wrong in an unknown paho means: do not use it
        return f"a trial session failed: {type(error).__name__}: {error}"


class _TrialClient(FastClient):
    """Connects to a socket pair in place of a broker."""

    def __init__(self, near: socket.socket) -> None:
        super().__init__(CallbackAPIVersion.VERSION2, client_id="trial", protocol=mqtt.MQTTv5)
        self._near = near

    def _create_socket_connection(self) -> socket.socket:
        return self._near


def _try_out() -> str:
    near, far = socket.socketpair()
    far.setblocking(False)
    client = _TrialClient(near)
    connected: list[bool] = []
    client.on_connect = lambda *_: connected.append(True)
    try:
        client.connect("localhost", 1883)
        buffered = client.buffered
        used: object = client.socket()
        if buffered is None or used is not buffered:
            return "Client does not use the socket that _create_socket returns"
        if client.want_write():
            client.loop_write()
        buffered.flush()
        if not far.recv(4096).startswith(b"\x10"):
            return "CONNECT did not leave through our socket"
        buffered.inbox += b"\x20\x03\x00\x00\x00"
        client.loop_read()
        if not connected or not client.is_connected() or buffered.inbox:
            return "CONNACK was not read through our socket"
        return ""
    finally:
        near.close()
        far.close()
