"""The fast path: paho owns the session, its user the inference messages, over one buffering socket.

paho asks `Client._create_socket` for its socket. That is the one private member used here; it gets a `BufferedSocket`,
which has the documented shape (paho's `SocketLike`: recv, send, close, fileno, setblocking, and pending for TLS). The
loop reads the real socket, keeps the inference PUBLISHes for itself and hands every other packet to paho's `recv`.
Packets of its user are encoded here. What paho and its user write goes into one ordered queue and leaves in one send.
`fast_path_fault` says at start whether this paho still works that way; if not, the public API is used alone (`link`).
"""

from __future__ import annotations

import contextlib
import inspect
import socket
import ssl
from collections.abc import Callable, Collection, Sequence
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from ..packets import Buffer, encode_puback, encode_publish
from .intake import Intake, Receiver
from .link import LAST_MID, MAX_READS, Link

WOULD_BLOCK = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError, InterruptedError)
HIGH_WATER = 8 << 20
"""Bytes waiting to be sent at which no more requests are read, until a quarter of it is left."""
CLOSE_SECONDS = 0.5
"""How long a closing socket may try to send what is still queued (a DISCONNECT above all)."""


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


READ_BYTES = 64 << 10
"""Of one read while packets are distinguished; what is read so of a long payload is copied twice, the rest not at
all."""
SKIP_BYTES = 256 << 10
_PINGRESP = b"\xd0\x00"


class FastLink(Link):
    """Reads and writes the buffered socket itself; paho gets what is not its owner's. Is the Intake's Sink.

    paho publishes nothing in this mode, so its packet identifiers are only those of SUBSCRIBE; they are reserved until
    the broker has answered.
    """

    def __init__(self, client: mqtt.Client, *, v5: bool) -> None:
        self._client = client
        self._v5 = v5
        self._socket: BufferedSocket | None = None
        """Of the current connection."""
        self._reserved: set[int] = set()
        self._mid = 0
        self._scratch = memoryview(bytearray(SKIP_BYTES))
        self._body_bytes = 0

    def serve(self, receiver: Receiver, puback: Callable[[int, int], bool], taken: Collection[int]) -> None:
        """See Link."""
        self._receiver = receiver
        self.puback = puback
        self._taken = taken
        self._intake = Intake(receiver, self, v5=self._v5)

    def publish(self, topic: bytes, properties: bytes, pieces: Sequence[Buffer]) -> None:
        """Queues it behind what was queued before."""
        if self._socket is not None:
            self._socket.put(encode_publish(topic, properties if self._v5 else None, pieces))

    def publish_acknowledged(
        self, topic: bytes, properties: bytes, pieces: Sequence[Buffer], *, retain: bool = False
    ) -> int:
        """Queues it under the next free packet identifier."""
        mid = self._mid
        while True:
            mid = mid + 1 if mid < LAST_MID else 1
            if mid not in self._taken and mid not in self._reserved:
                break
        self._mid = mid
        if self._socket is not None:
            self._socket.put(encode_publish(topic, properties if self._v5 else None, pieces, mid, retain))
        return mid

    def acknowledge(self, mid: int) -> None:
        """Queues the PUBACK."""
        if self._socket is not None:
            self._socket.put(encode_puback(mid))

    def opened(self) -> None:
        """Takes the new connection's socket, with an empty stream."""
        client = self._client
        self._socket = client.buffered if isinstance(client, FastClient) else None
        self._reserved.clear()
        self._intake = Intake(self._receiver, self, v5=self._v5)

    def subscribing(self, mid: int) -> None:
        """Keeps the identifier from publications until the broker has answered."""
        self._reserved.add(mid)

    def closed(self) -> None:
        """Nothing more is read; a long request that was coming in is given up."""
        self._intake.closed = True
        self._socket = None
        self._receiver.abort()

    def readable(self) -> bool:
        """Reads until nothing is left, or MAX_READS times."""
        buffered, intake = self._socket, self._intake
        if buffered is None:
            return False
        for _ in range(MAX_READS):
            try:
                filled = self._read(buffered, intake)
            except WOULD_BLOCK:
                return False
            except OSError:
                filled = None
            if filled is None:
                buffered.ended = True
                self._client.loop_read()
                return False
            if intake.closed or (not filled and not buffered.tls):
                return False
        return buffered.tls

    def _read(self, buffered: BufferedSocket, intake: Intake) -> bool | None:
        """One read. True: it took all that was asked for, so there may be more. None: the peer has closed."""
        body = intake.body
        if body is not None:
            wanted, count = len(body.room()), buffered.real.recv_into(body.room())
            self._body_bytes += count
            if count:
                intake.body_advanced(count)
        elif intake.skip:
            wanted = min(intake.skip, SKIP_BYTES)
            count = buffered.real.recv_into(self._scratch[:wanted])
            self._body_bytes += count
            intake.skipped(count)
        else:
            wanted = READ_BYTES
            data = buffered.real.recv(READ_BYTES)
            count = len(data)
            intake.feed(data)
        return count == wanted if count else None

    def foreign(self, packet: Buffer) -> bool:
        """To paho, at once. False: the connection has ended by it."""
        buffered = self._socket
        if buffered is None:
            return False
        buffered.inbox += packet
        while buffered.inbox and self._socket is buffered:
            self._client.loop_read()
        return self._socket is buffered

    def flush(self) -> bool:
        """paho's packets and ours, in one send."""
        if self._client.want_write():
            self._client.loop_write()
        buffered = self._socket
        if buffered is None:
            return False
        try:
            return not buffered.flush()
        except OSError:
            buffered.ended = True
            buffered.inbox.clear()
            self._client.loop_read()
            return False

    def congested(self) -> bool:
        """So much waits to be sent that no more requests should be read."""
        return self._socket is not None and self._socket.congested()

    def alive(self) -> None:
        """paho waits for its PINGRESP, which stands in the queue behind the payload: it gets one."""
        between_packets = self._intake.body is not None or self._intake.skip > 0
        if between_packets and self._body_bytes:
            self.foreign(_PINGRESP)
        self._body_bytes = 0

    def discard_body(self) -> None:
        """The rest of the long request is skipped as it arrives."""
        if self._intake.body is not None:
            self._intake.skip = self._intake.body.left
            self._intake.body = None
