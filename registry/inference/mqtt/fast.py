"""The fast path: packets are encoded here and put straight into the buffered socket, which is read here, too.

paho gets what is not its owner's: an agent's requests, or the answers to a client.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import paho.mqtt.client as mqtt

from ..packets import Buffer, encode_puback, encode_publish
from .buffered import WOULD_BLOCK, BufferedSocket, FastClient
from .intake import Intake, Receiver
from .link import LAST_MID, MAX_READS, Link

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
