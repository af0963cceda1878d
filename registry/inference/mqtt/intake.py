"""Cuts what the broker sends into packets and passes each to whom it belongs. Sans-I/O: bytes in, calls out.

Requests (PUBLISH of QoS 0 or 1 on a known topic) and PUBACKs of our own go to the data path, everything else, whole,
to paho, in the order in which it came. Memory is bounded whatever the sizes say: a long request is announced as soon as
its head is there and then read straight to where its tensors belong, or discarded as it arrives.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from ..packets import (
    MAX_HEAD_BYTES,
    PUBACK,
    Buffer,
    Publish,
    head_end,
    parse_publish,
    remaining_length,
)

WHOLE_BYTES = 64 << 10
"""Packets up to this are waited for; longer requests are announced by their head."""
MAX_FOREIGN_BYTES = 1 << 20
"""Longest packet that paho gets (desired state is at most 256 KiB)."""
PROTOCOL_FAULT = b"\xf0\xff\xff\xff\xff\xff"
"""A packet no paho accepts (a remaining length of five bytes): how a connection is ended through its public API."""


class Body:
    """Places to fill, in order, with the bytes of a payload that has not all come."""

    def __init__(self, places: Sequence[memoryview]) -> None:
        self._places = [place for place in places if len(place)]
        self._places.reverse()
        self.left = sum(len(place) for place in places)
        """Bytes that are still to come."""

    def room(self) -> memoryview:
        """Where the next bytes belong; only while `left` is not 0."""
        return self._places[-1]

    def advance(self, count: int) -> None:
        """`count` bytes, at most `len(room())`, were put at the start of `room()`."""
        place = self._places.pop()
        if count < len(place):
            self._places.append(place[count:])
        self.left -= count

    def fill(self, data: memoryview) -> None:
        """Copies `data` (at most `left` bytes) to where it belongs."""
        while len(data):
            room = self.room()
            part = data[: len(room)]
            room[: len(part)] = part
            self.advance(len(part))
            data = data[len(part) :]


class Receiver(Protocol):
    """Who takes the requests."""

    def is_request_topic(self, topic: bytes) -> bool:
        """True: a PUBLISH to it is a request."""

    def request(self, publish: Publish, data: Buffer, end: int) -> None:
        """A whole request: its payload is `data[publish.payload:end]`."""

    def announce(self, publish: Publish, data: bytes, size: int) -> Body | int | None:
        """A long request of `size` payload bytes whose head has come; `data` ends with what has come of it.

        Answers where it goes (then `arrived` follows), how many payload bytes are needed to say so, or None: discard.
        """

    def arrived(self, body: Body) -> None:
        """The body is filled."""

    def abort(self) -> None:
        """The connection has ended: the rest of a body that was announced will not come."""

    def oversized(self, publish: Publish) -> None:
        """A PUBLISH on another topic, too long for paho, or with a head that is too long; discarded as it arrives."""


class Sink(Protocol):
    """Who takes the other packets."""

    def puback(self, mid: int, reason: int) -> bool:
        """True: it acknowledges one of ours; else paho gets it."""

    def foreign(self, packet: Buffer) -> bool:
        """Anything else, for paho. False: the connection has ended by it."""


class Intake:
    """One connection's incoming bytes. After `closed` it takes nothing any more."""

    def __init__(self, receiver: Receiver, sink: Sink, *, v5: bool) -> None:
        self._receiver = receiver
        self._sink = sink
        self._v5 = v5
        self._parts: list[bytes] = []
        self._have = 0
        self._need = 0
        self.body: Body | None = None
        """While not None: incoming bytes go into `body.room()`, then `body_advanced` is called."""
        self.skip = 0
        """While not 0: so many incoming bytes are to be discarded and counted with `skipped`."""
        self.closed = False

    def feed(self, data: bytes) -> None:
        """Takes the next bytes, any number of them."""
        while data and not self.closed:
            if self.body is not None:
                used = min(len(data), self.body.left)
                self.body.fill(memoryview(data)[:used])
                self._body_checked()
                data = data[used:]
            elif self.skip:
                used = min(len(data), self.skip)
                self.skip -= used
                data = data[used:]
            else:
                data = self._packets(data)

    def body_advanced(self, count: int) -> None:
        """`count` bytes were put into `body.room()` by the caller."""
        if self.body is not None:
            self.body.advance(count)
            self._body_checked()

    def skipped(self, count: int) -> None:
        """`count` bytes (at most `skip`) were discarded by the caller."""
        self.skip -= count

    def _body_checked(self) -> None:
        body = self.body
        if body is not None and not body.left:
            self.body = None
            self._receiver.arrived(body)

    def _packets(self, data: bytes) -> bytes:
        """Handles the whole packets in what has come; returns what belongs to a body or is to be skipped."""
        if self._parts:
            self._parts.append(data)
            self._have += len(data)
            if self._have < self._need:
                return b""
            data = b"".join(self._parts)
            self._parts = []
        position = 0
        size = len(data)
        while position < size and not self.closed and self.body is None and not self.skip:
            following = self._packet(data, position, size)
            if following < 0:
                self._keep(data[position:], -following)
                return b""
            position = following
        return data[position:]

    def _packet(self, data: bytes, start: int, size: int) -> int:
        """Handles one packet and returns where the next begins, or minus how many bytes are needed to handle it."""
        if size - start < 2:
            return -2
        length, body = data[start + 1], start + 2
        if length > 127 and size - start > 2 and data[start + 2] < 128:
            length, body = length & 127 | data[start + 2] << 7, start + 3  # the usual case, without a call
        elif length > 127:
            try:
                found = remaining_length(data, start + 1)
            except ValueError:
                return self._fault(size)
            if found is None:
                return -(size - start + 1)
            length, body = found
        end = body + length
        first = data[start]
        if first & 0xF0 == 0x30:
            if end <= size:
                publish = parse_publish(data, first, body, end, self._v5)
                if publish is not None and publish.qos < 2 and self._receiver.is_request_topic(publish.topic):
                    self._receiver.request(publish, data, end)
                    return end
            elif length > WHOLE_BYTES:
                return self._long_publish(data, start, body, end)
        elif first == PUBACK and end <= size and length >= 2:
            mid = data[body] << 8 | data[body + 1]
            if self._sink.puback(mid, data[body + 2] if length > 2 else 0):
                return end
        return self._pass_on(data, start, end)

    def _pass_on(self, data: bytes, start: int, end: int) -> int:
        if end > len(data):
            return -(end - start) if end - start <= MAX_FOREIGN_BYTES else self._fault(len(data))
        if not self._sink.foreign(data[start:end]):
            self.closed = True
        return end

    def _long_publish(self, data: bytes, start: int, body: int, end: int) -> int:
        """A PUBLISH that is too long to wait for: place it, or have it discarded."""
        first = data[start]
        payload = head_end(data, first, body, self._v5)
        if payload is None or payload > len(data):
            needed = len(data) - start + 1 if payload is None else payload - start
            return -needed if needed <= MAX_HEAD_BYTES else self._long_head(data, first, body, end)
        publish = parse_publish(data, first, body, end, self._v5)
        if publish is None or publish.qos > 1:
            return self._pass_on(data, start, end)
        if not self._receiver.is_request_topic(publish.topic):
            if end - start <= MAX_FOREIGN_BYTES:
                return self._pass_on(data, start, end)
            self._receiver.oversized(publish)
            self.skip = end - publish.payload
            return publish.payload
        answer = self._receiver.announce(publish, data, end - publish.payload)
        if isinstance(answer, int):
            return -(min(publish.payload + answer, end) - start)
        if answer is None:
            self.skip = end - publish.payload
        else:
            self.body = answer
        return publish.payload

    def _long_head(self, data: bytes, first: int, body: int, end: int) -> int:
        """A PUBLISH whose properties are longer than anybody needs: discarded, but acknowledged.

        It has passed the broker, which would deliver it again on every connection that is ended because of it.
        """
        topic_end = body + 2 + int.from_bytes(data[body : body + 2], "big")
        qos, mid = first >> 1 & 3, int.from_bytes(data[topic_end : topic_end + 2], "big")
        if qos > 1 or (qos and not mid):
            return self._fault(len(data))
        self._receiver.oversized(Publish(data[body + 2 : topic_end], qos, first & 1 == 1, mid if qos else 0, len(data)))
        self.skip = end - len(data)
        return len(data)

    def _keep(self, rest: bytes, need: int) -> None:
        self._parts = [rest]
        self._have = len(rest)
        self._need = need

    def _fault(self, end: int) -> int:
        """The peer does not speak MQTT: have paho close the connection."""
        self._sink.foreign(PROTOCOL_FAULT)
        self.closed = True
        return end
