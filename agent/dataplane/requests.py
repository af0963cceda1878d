"""Admission: a PUBLISH on an infer topic becomes a request with a slot, or is refused at once.

Nothing waits without bound: a request has a slot, or the decode pool has room for it, or its error is on its way.
The fast path, the bodies that are read straight into slots, and paho's on_message all come through here.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from math import inf

from agent.dataplane.answers import Answers
from agent.dataplane.decoding import Decoded, DecodePool
from agent.dataplane.dedupe import Dedupe, Key, Verdict
from agent.dataplane.intake import Body
from agent.dataplane.outbound import Outbound
from agent.dataplane.packets import BAD_HEADER_LENGTH, Publish, text
from agent.dataplane.placement import copy_fixed, in_order, places, reserve
from agent.dataplane.plan import Buffer, Plan, RequestError
from agent.dataplane.router import Router
from agent.dataplane.slot import Request, Serving
from registry.contracts.codes import InferenceCode
from registry.contracts.tensors import BINARY_MAGIC, CONTENT_JSON, MAX_HEADER_BYTES

DECODE_BYTES = 128 << 10
"""JSON requests of at least this are decoded in the pool, so that others do not wait for them."""
_MAGIC_BYTES = len(BINARY_MAGIC) + 4


class _LongBody(Body):
    """The payload of a long request while it comes."""

    def __init__(self, request: Request, places: list[memoryview]) -> None:
        super().__init__(places)
        self.request = request
        self.all = tuple(places)
        self.whole: tuple[Publish, bytearray] | None = None
        """Set when the payload is gathered first and then treated like a short one."""


class Admission:
    """INVARIANT: every request that comes is answered once, or its broker will deliver it again."""

    def __init__(
        self,
        *,
        router: Router,
        outbound: Outbound,
        answers: Answers,
        dedupe: Dedupe[Request],
        pool: DecodePool,
        clock: Callable[[], float],
    ) -> None:
        self._router = router
        self._outbound = outbound
        self._answers = answers
        self._dedupe = dedupe
        self._pool = pool
        self._clock = clock
        self.is_request_topic = router.is_request_topic
        self.ready: set[Serving] = set()
        """Workers that have requests waiting; the loop hands them out and clears this."""
        self.now = clock()
        """When the bytes that are being read came: one look at the clock per turn of the loop."""
        self.body: _LongBody | None = None
        """The long request that is coming in."""
        self.stopping = False
        """True: QoS 1 requests are left to the broker, which delivers them again; others are refused."""

    def request(self, publish: Publish, data: Buffer, end: int) -> None:
        """A whole request: its payload is `data[publish.payload:end]`."""
        request = self._open(publish)
        if request is not None:
            self._admit(request, publish, data, publish.payload, end)

    def _open(self, publish: Publish) -> Request | None:
        """Who asks, and until when. None: not a request after all, or already refused."""
        slot = self._router.find(publish.topic)
        ack = self._outbound.acks.owe(publish.mid) if publish.qos else None
        if publish.retain:
            self._router.count("retained_request")
            if ack is not None:
                self._outbound.acks.settle(ack)
            return None
        if self.stopping and ack is not None:
            return None
        now = self.now
        deadline = inf if publish.expiry < 0 else now + publish.expiry
        request = Request(slot, publish.reply_to, publish.correlation, ack, now, deadline)
        if publish.reply_to and not self._router.allows_reply(publish.reply_to):
            request.reply_to = b""
            self._answers.error(request, InferenceCode.BAD_RESPONSE_TOPIC, "the response topic may not be published to")
            return None
        return request

    def _admit(self, request: Request, publish: Publish, data: Buffer, start: int, end: int) -> None:
        try:
            serving = self._serving(request, end - start)
            length = publish.header_length
            if length < 0:
                self._admit_other(serving, request, publish, memoryview(data)[start:end])
                return
            body = start + length
            if body > end or length > MAX_HEADER_BYTES:
                raise _bad_header(length, end - start)
            header = data[start:body]
            plan = serving.codec.decode_header(header if type(header) is bytes else bytes(header))
            if plan.check or plan.body_bytes != end - body:
                serving.codec.check_body(plan, memoryview(data)[body:end])
            if plan.image:
                self._decode(serving, request, plan, bytes(data[body:end]))
                return
            self._place(serving, request, plan, data, body, start, end)
        except RequestError as error:
            self._answers.refuse(request, error)

    def _serving(self, request: Request, size: int) -> Serving:
        serving = request.slot.active if not self.stopping else None
        if serving is None:
            raise self._router.not_served(request.slot)
        request.serving = serving
        if size > serving.binding.max_payload:
            raise RequestError(
                InferenceCode.TOO_LARGE, f"{size} bytes, over this model's limit of {serving.binding.max_payload}"
            )
        return serving

    def _admit_other(self, serving: Serving, request: Request, publish: Publish, payload: memoryview) -> None:
        """Self-contained binary, JSON, a picture."""
        if publish.header_length == BAD_HEADER_LENGTH:
            raise RequestError(InferenceCode.BAD_PAYLOAD, "the header length property is not a decimal number")
        content_type = publish.content_type.decode("utf-8", "replace")
        if len(payload) >= DECODE_BYTES and payload[:4] != BINARY_MAGIC and content_type in ("", CONTENT_JSON):
            kept = bytes(payload)
            self._submit(serving, request, kept, lambda: serving.codec.decode(kept, content_type))
            return
        plan, body = serving.codec.decode(payload, content_type)
        if plan.image:
            self._decode(serving, request, plan, bytes(payload[body:]))
        else:
            self._place(serving, request, plan, payload, body, 0, len(payload))

    def _place(
        self, serving: Serving, request: Request, plan: Plan, data: Buffer, body: int, start: int, end: int
    ) -> None:
        """The request's tensors are at hand: into a slot with them."""
        if plan.response_topic or plan.id:
            self._address(request, plan)
            if request.ack is not None and plan.id:
                crc = zlib.crc32(memoryview(data)[start:end])
                if not self._is_new(request, plan, crc, end - start):
                    return
        if request.deadline <= self.now:
            request.plan = plan
            self._answers.expired(request)
            return
        reserve(serving, request, plan)
        try:
            if plan.fixed:
                copy_fixed(serving, request, plan, data, body)
            else:
                view = memoryview(data)[body:end]
                for offset, place in places(serving, request, plan):
                    place[:] = view[offset : offset + len(place)]
        except RequestError:
            serving.release(request.id)
            raise
        serving.waiting.append(request.id)
        self.ready.add(serving)

    def _address(self, request: Request, plan: Plan) -> None:
        """The response topic of a payload stands in where the PUBLISH had none (MQTT 3.1.1)."""
        if not plan.response_topic or request.reply_to:
            return
        reply_to = text(plan.response_topic.encode())
        if not self._router.allows_reply(reply_to):
            raise RequestError(InferenceCode.BAD_RESPONSE_TOPIC, "the response topic may not be published to")
        request.reply_to = reply_to

    def _is_new(self, request: Request, plan: Plan, crc: int, size: int) -> bool:
        """False: it came before, and is answered with its twin."""
        key = Key(request.reply_to[2:].decode(), plan.id, crc, size)
        request.plan = plan
        verdict, reply = self._dedupe.begin(key, request, self.now)
        if verdict is Verdict.RUN:
            request.key = key
            return True
        if verdict is Verdict.REPEAT and reply is not None:
            self._answers.repeat(request, reply)
        elif verdict is Verdict.REFUSE:
            raise RequestError(InferenceCode.OVERLOADED, "too many repeats of this request wait for its reply")
        return False

    def _decode(self, serving: Serving, request: Request, plan: Plan, picture: bytes) -> None:
        request.plan = plan
        self._address(request, plan)
        self._submit(serving, request, picture, lambda: (serving.codec.decode_image(plan, picture), 0))

    def _submit(self, serving: Serving, request: Request, data: bytes, job: Callable[[], Decoded]) -> None:
        self._pool.submit(job, lambda done: self._decoded_request(serving, request, data, done))
        serving.decoding += 1

    def _decoded_request(self, serving: Serving, request: Request, data: bytes, done: Decoded | RequestError) -> None:
        """The pool has decoded it, or says why not."""
        serving.decoding -= 1
        try:
            if isinstance(done, RequestError):
                raise done
            if serving.dead:
                raise _worker_ended()
            plan, body = done
            self._place(serving, request, plan, data, body, 0, len(data))
        except RequestError as error:
            self._answers.refuse(request, error)

    # --- requests that are too long to wait for ---------------------------------------------------------------------

    def announce(self, publish: Publish, data: bytes, size: int) -> Body | int | None:
        """As `Sink.announce` says: where a long payload goes, how much is needed to say so, or None to discard it."""
        available = len(data) - publish.payload
        header, needed = _long_header(publish, data, available)
        if available < min(needed, size):
            return min(needed, size)
        request = self._open(publish)
        if request is None:
            return None
        try:
            serving = self._serving(request, size)
            self.body = self._long_body(serving, request, publish, data, size, header)
        except RequestError as error:
            self._answers.refuse(request, error)
            return None
        return self.body

    def _long_body(
        self,
        serving: Serving,
        request: Request,
        publish: Publish,
        data: bytes,
        size: int,
        header: tuple[int, int] | None,
    ) -> _LongBody:
        if header is not None and header[1] <= min(size, MAX_HEADER_BYTES + _MAGIC_BYTES):
            start, end = header
            raw = data[publish.payload + start : publish.payload + end]
            plan = serving.codec.decode_header(raw)
            if plan.body_bytes != size - end:
                raise RequestError(
                    InferenceCode.SIZE_MISMATCH, f"the header's tensors take {plan.body_bytes} bytes, {size - end} came"
                )
            if not plan.check and not plan.image:
                if start:
                    plan = plan.variant(plan.id, magic=True)
                targets = self._targets(serving, request, plan)
                if targets is not None:
                    return _LongBody(request, [memoryview(bytearray(end)), *targets])
        whole = bytearray(size)
        body = _LongBody(request, [memoryview(whole)])
        body.whole = publish, whole
        return body

    def _targets(self, serving: Serving, request: Request, plan: Plan) -> list[memoryview] | None:
        """Where the body goes straight away; None when its tensors do not lie in it one after the other."""
        self._address(request, plan)
        reserve(serving, request, plan)
        try:
            targets = in_order(places(serving, request, plan), plan.body_bytes)
        except RequestError:
            serving.release(request.id)
            raise
        if targets is None:
            serving.release(request.id)
            request.id = -1
        return targets

    def arrived(self, body: Body) -> None:
        """A long payload has come whole."""
        self.body = None
        if not isinstance(body, _LongBody):
            return
        request = body.request
        if body.whole is not None:
            publish, whole = body.whole
            self._admit(request, publish, whole, 0, len(whole))
            return
        serving, plan = request.serving, request.plan
        if serving is None or plan is None:
            return
        request.arrived = self.now
        new = True
        try:
            if request.ack is not None and plan.id:
                crc = 0
                for place in body.all:
                    crc = zlib.crc32(place, crc)
                new = self._is_new(request, plan, crc, sum(map(len, body.all)))
            if new and request.deadline <= self.now:
                new = False
                self._answers.expired(request)
        except RequestError as error:
            new = False
            self._answers.refuse(request, error)
        if new:
            serving.waiting.append(request.id)
            self.ready.add(serving)
        else:
            serving.release(request.id)

    def abort_body(self) -> None:
        """The rest of a long payload will not come: its connection has ended. Its broker delivers QoS 1 again."""
        body, self.body = self.body, None
        if body is not None and body.request.id >= 0 and body.request.serving is not None:
            body.request.serving.release(body.request.id)

    def oversized(self, publish: Publish) -> None:
        """A message on a control topic that nobody could take; it is discarded as it arrives."""
        self._router.count("oversized")
        if publish.qos:
            self._outbound.acks.settle(self._outbound.acks.owe(publish.mid))


def _bad_header(length: int, size: int) -> RequestError:
    return RequestError(
        InferenceCode.BAD_PAYLOAD,
        f"header length {length}: must be 1..{MAX_HEADER_BYTES} and within the payload's {size} bytes",
    )


def _worker_ended() -> RequestError:
    return RequestError(InferenceCode.WORKER_CRASHED, "the worker ended before this request could run")


def _long_header(publish: Publish, data: bytes, available: int) -> tuple[tuple[int, int] | None, int]:
    """((start, end) of the JSON header in the payload, or None when it has none; payload bytes needed to use it)."""
    if publish.header_length >= 0:
        end = publish.header_length
        return (0, end), end if end <= MAX_HEADER_BYTES else 0
    if publish.header_length == BAD_HEADER_LENGTH:
        return None, 0
    start = publish.payload
    if available < _MAGIC_BYTES:
        return None, _MAGIC_BYTES
    if data[start : start + len(BINARY_MAGIC)] != BINARY_MAGIC:
        return None, 0
    end = _MAGIC_BYTES + int.from_bytes(data[start + len(BINARY_MAGIC) : start + _MAGIC_BYTES], "little")
    return (_MAGIC_BYTES, end), end if end <= MAX_HEADER_BYTES + _MAGIC_BYTES else 0
