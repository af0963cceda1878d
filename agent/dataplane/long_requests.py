"""Requests whose payload is too long to wait for: announced by their head, read straight to where they belong.

Everything that can be refused is refused on the head, and the rest is then discarded as it arrives. So memory does not
grow with what a client sends: tensors go into the slot that their request holds anyway, and what must be seen whole
first (JSON, pictures) is gathered, one request at a time, up to the model's limit.
"""

from __future__ import annotations

from agent.dataplane.admission import Admission
from agent.dataplane.oip.plan import RequestPlan
from agent.dataplane.slot import Request, Serving, enqueue, in_order, places, reserve
from registry.contracts.codes import InferenceCode
from registry.contracts.tensors import BINARY_MAGIC, MAX_HEADER_BYTES, MAX_JSON_BYTES
from registry.inference.errors import RequestError
from registry.inference.header import MAGIC_BYTES, bad_header_length, header_end
from registry.inference.mqtt.intake import Body
from registry.inference.packets import BAD_HEADER_LENGTH, NO_HEADER_LENGTH, Publish
from registry.pictures.bare import sniff


class LongBody(Body):
    """The payload of a long request while it comes."""

    def __init__(
        self, request: Request, places: list[memoryview], whole: tuple[Publish, bytearray] | None = None
    ) -> None:
        """`whole`: the payload is gathered there first and then treated like a short one."""
        super().__init__(places)
        self.request = request
        self.all = tuple(places)
        self.whole = whole


class LongRequests:
    """Of one connection at a time. Implements `mqtt.intake.Receiver`: requests that are not long go to admission."""

    def __init__(self, admission: Admission) -> None:
        self._admission = admission
        self.is_request_topic = admission.is_request_topic
        self.request = admission.request
        self.oversized = admission.oversized
        self.body: LongBody | None = None
        """The one that is coming in."""

    def announce(self, publish: Publish, data: bytes, size: int) -> Body | int | None:
        """Where a long payload goes, how much is needed to say so, or None to discard it (see `Receiver`)."""
        available = len(data) - publish.payload
        header, needed = _long_header(publish, data, available)
        if available < min(needed, size):
            return min(needed, size)
        request = self._admission.open(publish)
        if request is None:
            return None
        raw = b"" if header is None else data[publish.payload + header[0] : publish.payload + header[1]]
        try:
            serving = self._admission.serving(request, size)
            if header is None:
                _check_gathered(publish, data, size)
                self.body = _gathered(request, publish, size)
            else:
                self.body = self._direct(serving, request, raw, size, header) or _gathered(request, publish, size)
        except RequestError as error:
            self._admission.refuse(request, error, raw)
            return None
        return self.body

    def _direct(
        self, serving: Serving, request: Request, raw: bytes, size: int, header: tuple[int, int]
    ) -> LongBody | None:
        """A body that goes straight to where the worker reads it; None when it must be looked at as a whole first.

        `raw` is the JSON header, which lies at `header` (start, end) in a payload of `size` bytes.
        """
        start, end = header
        plan = serving.codec.decode_header(raw)
        if plan.body_bytes != size - end:
            raise RequestError(
                InferenceCode.SIZE_MISMATCH, f"the header's tensors take {plan.body_bytes} bytes, {size - end} came"
            )
        if plan.check or plan.image:
            return None
        if start:
            plan = plan.variant(plan.id, magic=True)
        targets = self._targets(serving, request, plan)
        return None if targets is None else LongBody(request, [memoryview(bytearray(end)), *targets])

    def _targets(self, serving: Serving, request: Request, plan: RequestPlan) -> list[memoryview] | None:
        """Where the body goes straight away; None when its tensors do not lie in it one after the other."""
        if serving.must_queue(plan):
            serving.check_room(plan.body_bytes)
            return None  # gathered, it may wait for an arena
        self._admission.address(request, plan)
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
        if not isinstance(body, LongBody):
            return
        request = body.request
        if body.whole is not None:
            publish, whole = body.whole
            self._admission.admit(request, publish, whole, 0, len(whole))
            return
        serving, plan = request.serving, request.plan
        if serving is None or plan is None:
            return
        request.arrived = self._admission.now
        new = True
        try:
            if request.ack is not None and plan.id:
                new = self._admission.is_new(request, plan, body.all, sum(map(len, body.all)))
            if new and request.deadline <= self._admission.now:
                new = False
                self._admission.answers.expired(request)
        except RequestError as error:
            new = False
            self._admission.refuse(request, error)
        if new:
            enqueue(serving, request, plan)
            self._admission.ready.add(serving)
        else:
            serving.release(request.id)

    def abort(self) -> None:
        """The rest of a long payload will not come: its connection has ended. Its broker delivers QoS 1 again."""
        body, self.body = self.body, None
        if body is not None and body.request.id >= 0 and body.request.serving is not None:
            body.request.serving.release(body.request.id)

    def holds(self, serving: Serving) -> bool:
        """Is the request that is coming in being written into this worker's memory?"""
        return self.body is not None and self.body.request.serving is serving and self.body.request.id >= 0


def _check_gathered(publish: Publish, data: bytes, size: int) -> None:
    """Refuses what could only be refused once it was there."""
    if publish.header_length != NO_HEADER_LENGTH:
        raise bad_header_length(publish.header_length, size)
    start = data[publish.payload : publish.payload + 16]
    if size > MAX_JSON_BYTES and not sniff(start):
        raise RequestError(
            InferenceCode.TOO_LARGE, f"{size} bytes of JSON, over the limit of {MAX_JSON_BYTES}: send tensors as binary"
        )


def _gathered(request: Request, publish: Publish, size: int) -> LongBody:
    whole = bytearray(size)
    return LongBody(request, [memoryview(whole)], (publish, whole))


def _long_header(publish: Publish, data: bytes, available: int) -> tuple[tuple[int, int] | None, int]:
    """((start, end) of the JSON header in the payload, or None when it has none; payload bytes needed to use it)."""
    if publish.header_length >= 0:
        end = publish.header_length
        return ((0, end), end) if 0 < end <= MAX_HEADER_BYTES else (None, 0)
    if publish.header_length == BAD_HEADER_LENGTH:
        return None, 0
    start = publish.payload
    if available < MAGIC_BYTES:
        return None, MAGIC_BYTES
    if data[start : start + len(BINARY_MAGIC)] != BINARY_MAGIC:
        return None, 0
    end = header_end(data[start : start + MAGIC_BYTES])
    return ((MAGIC_BYTES, end), end) if end <= MAX_HEADER_BYTES + MAGIC_BYTES else (None, 0)
