"""Admission: a PUBLISH on an infer topic becomes a request with a slot, or is refused at once.

Nothing waits without bound: a request has a slot, or its model has room for one more that waits, or its error is on its
way. What takes milliseconds, pictures and long JSON, a few threads decode; the data thread never waits for them.
The fast path, the bodies that are read straight into slots, and paho's on_message all come through here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import inf

from agent.dataplane.answers import Answers
from agent.dataplane.dedupe import Dedupe, DedupeVerdict, Key, fingerprint
from agent.dataplane.mqtt.outbound import Outbound
from agent.dataplane.oip.plan import RequestPlan
from agent.dataplane.pool import DecodePool
from agent.dataplane.router import Router
from agent.dataplane.slot import Request, Serving, place, place_next
from registry.contracts.codes import InferenceCode
from registry.contracts.counters import Counters
from registry.contracts.tensors import BINARY_MAGIC, CONTENT_JSON, MAX_HEADER_BYTES
from registry.inference.errors import RequestError
from registry.inference.header import bad_header_length
from registry.inference.packets import BAD_HEADER_LENGTH, Buffer, Publish, text
from registry.inference.request import find_address
from registry.pictures.steps import DecodedPicture, PictureSteps

MAX_NAME = 64
"""Characters of a model's name in an error; it comes from outside."""

Decoded = tuple[RequestPlan, int]

DECODE_BYTES = 128 << 10
"""JSON requests of at least this are decoded in the pool, so that others do not wait for them."""


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
        decode_picture: Callable[[PictureSteps, bytes], DecodedPicture],
        counters: Counters,
        clock: Callable[[], float],
    ) -> None:
        self._router = router
        self._outbound = outbound
        self.answers = answers
        self._dedupe = dedupe
        self._pool = pool
        self._decode_picture = decode_picture
        self._counters = counters
        self.is_request_topic = router.is_request_topic
        self.ready: set[Serving] = set()
        """Workers that have requests waiting; the loop hands them out and clears this."""
        self._clock = clock
        self.now = clock()
        """When the bytes that are being read came: one look at the clock per turn of the loop."""
        self.traced = False
        """Traces are on: requests keep the `traceparent` that they come with."""
        self.stopping = False
        """True: QoS 1 requests are left to the broker, which delivers them again; others are refused."""

    def request(self, publish: Publish, data: Buffer, end: int) -> None:
        """A whole request: its payload is `data[publish.payload:end]`."""
        request = self.open(publish)
        if request is not None:
            self.admit(request, publish, data, publish.payload, end)

    def open(self, publish: Publish) -> Request | None:
        """Who asks, and until when. None: not a request after all, or already refused."""
        slot = self._router.find(publish.topic)
        ack = self._outbound.acks.owe(publish.mid) if publish.qos else None
        if publish.retain:
            self._counters.add("retained_dropped")
            if ack is not None:
                self._outbound.acks.settle(ack)
            return None
        if self.stopping and ack is not None:
            return None
        now = self.now
        deadline = inf if publish.expiry < 0 else now + publish.expiry
        request = Request(slot, publish.reply_to, publish.correlation, ack, now, deadline)
        if publish.traceparent and self.traced:
            request.trace = publish.traceparent
        if slot is self._router.unassigned:
            request.asked = publish.topic.rpartition(b"/")[2].decode("utf-8", "replace")[:MAX_NAME]
        if publish.reply_to and not self._router.allows_reply(publish.reply_to):
            request.reply_to = b""
            self.answers.error(request, InferenceCode.BAD_RESPONSE_TOPIC, "the response topic may not be published to")
            return None
        return request

    def admit(self, request: Request, publish: Publish, data: Buffer, start: int, end: int) -> None:
        """Decodes `data[start:end]` and places it, or refuses it."""
        try:
            serving = self.serving(request, end - start)
            length = publish.header_length
            if length < 0:
                self._admit_other(serving, request, publish, memoryview(data)[start:end])
                return
            body = start + length
            if body > end or length > MAX_HEADER_BYTES:
                raise bad_header_length(length, end - start)
            header = data[start:body]
            plan = serving.codec.decode_header(header if type(header) is bytes else bytes(header))
            if plan.check or plan.body_bytes != end - body:
                serving.codec.check_body(plan, memoryview(data)[body:end])
            if plan.image:
                self._decode(serving, request, plan, bytes(data[body:end]))
                return
            self._place(serving, request, plan, memoryview(data)[start:end], length)
        except RequestError as error:
            head = min(end, start + publish.header_length) if publish.header_length >= 0 else end
            self.refuse(request, error, memoryview(data)[start:head])

    def refuse(self, request: Request, error: RequestError, payload: Buffer = b"") -> None:
        """An error result; it goes where the payload says when the PUBLISH had no response topic (MQTT 3.1.1).

        `payload`: the request's JSON, or what there is of it; it is looked into for the id where nobody has read it.
        """
        if request.plan is None and not (error.id or error.response_topic):
            find_address(payload, error)
        if not request.reply_to:
            reply_to = text(error.response_topic.encode())
            if self._router.allows_reply(reply_to):
                request.reply_to = reply_to
        self.answers.refuse(request, error)

    def serving(self, request: Request, size: int) -> Serving:
        """The worker that shall run it. Raises RequestError: there is none, or `size` is over its limit."""
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
        kind = content_type.partition(";")[0].strip().lower()
        if len(payload) >= DECODE_BYTES and payload[:4] != BINARY_MAGIC and kind in ("", CONTENT_JSON):
            kept = bytes(payload)
            codec = serving.codec
            serving.begin_decoding(len(kept))
            self._submit(serving, request, kept, len(kept), lambda: codec.decode(kept, content_type))
            return
        plan, body = serving.codec.decode(payload, content_type)
        if plan.image:
            self._decode(serving, request, plan, bytes(payload[body:]))
        else:
            self._place(serving, request, plan, payload, body)

    def _place(self, serving: Serving, request: Request, plan: RequestPlan, payload: memoryview, body: int) -> None:
        """The request's tensors are at hand: into a slot with them."""
        request.plan = plan
        if plan.response_topic or plan.id:
            self.address(request, plan)
            repeatable = request.ack is not None and bool(plan.id)
            if repeatable and not self.is_new(request, plan, (payload,), len(payload)):
                return
        if request.deadline <= self.now:
            self.answers.expired(request)
            return
        place(serving, request, plan, payload, body)
        self.ready.add(serving)

    def place_queued(self, serving: Serving) -> None:
        """Requests that waited for an arena take those that are free now, and wait for a runner."""
        while serving.queued and serving.free_arenas:
            request = serving.queued[0].request
            try:
                place_next(serving)
            except RequestError as error:
                self.refuse(request, error)

    def address(self, request: Request, plan: RequestPlan) -> None:
        """The response topic of a payload stands in where the PUBLISH had none (MQTT 3.1.1)."""
        if not plan.response_topic or request.reply_to:
            return
        reply_to = text(plan.response_topic.encode())
        if not self._router.allows_reply(reply_to):
            raise RequestError(InferenceCode.BAD_RESPONSE_TOPIC, "the response topic may not be published to")
        request.reply_to = reply_to

    def is_new(self, request: Request, plan: RequestPlan, payload: Iterable[memoryview], size: int) -> bool:
        """False: it came before, and is answered with its twin."""
        key = Key(request.slot.model, request.reply_to[2:].decode(), plan.id, fingerprint(payload), size)
        request.plan = plan
        verdict, reply = self._dedupe.begin(key, request, self.now)
        if verdict is DedupeVerdict.RUN:
            request.key = key
            return True
        if verdict is DedupeVerdict.REPEAT and reply is not None:
            self.answers.repeat(request, reply)
        elif verdict is DedupeVerdict.REFUSE:
            raise RequestError(InferenceCode.OVERLOADED, "too many repeats of this request wait for its reply")
        return False

    def _decode(self, serving: Serving, request: Request, plan: RequestPlan, picture: bytes) -> None:
        request.plan = plan
        self.address(request, plan)
        codec = serving.codec
        fixed, tensor_bytes = codec.picture_tensor()
        # The tensor may have to wait too, for an arena.
        size = len(picture) + (0 if fixed else tensor_bytes)
        serving.begin_decoding(size, fixed=fixed)
        self._submit(
            serving, request, picture, size, lambda: (codec.decode_image(plan, picture, self._decode_picture), 0)
        )

    def _submit(self, serving: Serving, request: Request, data: bytes, size: int, job: Callable[[], Decoded]) -> None:
        """Has `job` run in the pool, unless the deadline passes before its turn. `size`: as `begin_decoding` got it."""
        took = 0.0

        def decode() -> Decoded | None:
            nonlocal took
            began = self._clock()
            if request.deadline <= began:
                return None
            try:
                return job()
            finally:
                took = self._clock() - began

        def done(outcome: Decoded | RequestError | None) -> None:
            if took:
                request.slot.stats.decode.record(took)
            self._decoded_request(serving, request, data, size, outcome)

        self._pool.submit(decode, done)

    def _decoded_request(
        self, serving: Serving, request: Request, data: bytes, size: int, done: Decoded | RequestError | None
    ) -> None:
        """The pool has decoded it, says why not, or (None) that it was too late."""
        serving.end_decoding(size)
        if done is None:
            self.answers.expired(request)
            return
        if serving.dead and not isinstance(done, RequestError):
            done = RequestError(InferenceCode.WORKER_CRASHED, "the worker ended before this request could run")
        if isinstance(done, RequestError):
            self.refuse(request, done)
            return
        plan, body = done
        try:
            self._place(serving, request, plan, memoryview(data), body)
        except RequestError as error:
            self.refuse(request, error)

    def oversized(self, publish: Publish) -> None:
        """A message on a control topic that nobody could take; it is discarded as it arrives."""
        self._counters.add("oversized_dropped")
        if publish.qos:
            self._outbound.acks.settle(self._outbound.acks.owe(publish.mid))
