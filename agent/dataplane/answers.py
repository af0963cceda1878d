"""From slots that are done, or refusals, to messages: replies, errors and results, each counted.

An error is a result. A request without a response topic, or with one that must not be used, is answered on the model's
results topic at QoS 1, where the registry sees it. In the answers of a watched version NaN and infinities of
floating-point outputs are counted.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import numpy as np

from agent.core.probation import Tally
from agent.dataplane.dedupe import Dedupe, Key
from agent.dataplane.mqtt.outbound import Outbound, Outgoing
from agent.dataplane.oip.plan import RequestPlan
from agent.dataplane.slot import Request, Serving, move_to_arenas
from agent.worker.channel import OTHER_FORM, ArenaError, FixedTensor, read_arena
from registry.contracts.codes import InferenceCode
from registry.contracts.tensors import FLOAT8, NUMPY_NAME, Datatype, numbers
from registry.inference.errors import RequestError
from registry.inference.packets import Buffer, reply_properties
from registry.inference.reply import OutputTensor, Reply, error_reply
from registry.tracing import Recorder

_FLOATS = {"FP16": "<f2", "FP32": "<f4", "FP64": "<f8"}
_BF16_EXPONENT = np.uint16(0x7F80)
"""All exponent bits set: NaN or infinity (bfloat16 is the upper half of IEEE 754 binary32)."""


def count_answer(tally: Tally, outputs: Sequence[FixedTensor | OutputTensor], data: Sequence[Buffer]) -> bool:
    """Counts one result: `data` holds the bytes of each of `outputs`. True: nothing in it is NaN or infinite that was
    not to be expected."""
    found = unexpected = 0
    for output, view in zip(outputs, data, strict=True):
        if not is_finite(str(output.datatype), view):
            kinds = kinds_in(str(output.datatype), view)
            found |= kinds
            unexpected |= kinds & ~tally.expected.get(output.name, 0)
    return tally.note(found, unexpected)


def is_finite(datatype: str, data: Buffer) -> bool:
    """No NaN and no infinity; True for what is not floating-point."""
    dtype = _FLOATS.get(datatype)
    if dtype is not None:
        return bool(np.isfinite(np.frombuffer(data, dtype)).all())
    if datatype == "BF16":
        return not bool(((np.frombuffer(data, "<u2") & _BF16_EXPONENT) == _BF16_EXPONENT).any())
    if datatype in FLOAT8:
        return bool(np.isfinite(numbers(Datatype(datatype), np.frombuffer(data, "|u1"))).all())
    return True


def kinds_in(datatype: str, data: Buffer) -> int:
    """Bits of `probation.KINDS`: NaN 1, infinity 2, minus infinity 4."""
    kind = Datatype(datatype)
    array = numbers(kind, np.frombuffer(data, NUMPY_NAME[kind]))
    return int(np.isnan(array).any()) | int(np.isposinf(array).any()) << 1 | int(np.isneginf(array).any()) << 2


MAX_KEPT_PROPERTIES = 256
"""Encoded reply properties that are kept: one per form and header length, so clients that vary their id use a few."""
PROPERTIES_ROOM = 128
"""Bytes of a result's properties but for the correlation data, at most."""


_log = logging.getLogger(__name__)


class Answers:
    """Everything that leaves for a request."""

    def __init__(self, outbound: Outbound, dedupe: Dedupe[Request], clock: Callable[[], float]) -> None:
        self._outbound = outbound
        self._dedupe = dedupe
        self._clock = clock
        self._properties: dict[tuple[int | None, str], bytes] = {}
        self.detections: Callable[[Serving, Request, Sequence[OutputTensor]], None] = _no_detections
        """Makes the reply to a request that asks for detections: `agent.dataplane.detections`."""
        self.recorder: Recorder | None = None
        """Where traces are on."""

    def slots_done(self, serving: Serving, ids: Sequence[int], now: float) -> None:
        """A runner has answered these slots: each request gets its reply, or the error that its slot states."""
        statuses = serving.statuses
        memory = serving.memory
        requests = serving.requests
        fixed = serving.layout.slots
        latency = serving.slot.stats.latency.record
        tally = serving.tally if serving.tally.watching else None
        for id_ in ids:
            request = requests[id_]
            if request is None or request.plan is None:
                continue  # cannot be: Lane.answers has checked the ids
            plan = request.plan
            answered = False
            try:
                if statuses[id_] == OTHER_FORM and id_ < fixed:
                    serving.other_form = True
                    serving.to_move.append(id_)
                    continue
                if statuses[id_]:
                    self.error(request, *serving.layout.error(memory, id_))
                elif id_ < fixed and plan.detect is None:
                    views = [memory[base + id_ * size : base + id_ * size + size] for base, size in serving.outputs]
                    self.result(request, serving.codec.encode_fixed(plan, views))
                    answered = True
                    if tally is not None and not count_answer(tally, serving.layout.outputs, views):
                        serving.slot.stats.not_finite += 1
                else:
                    if self._other(serving, request, plan, tally):
                        continue
                    answered = True
            except RequestError as error:
                self.error(request, error.code, error.message)
            except Exception:  # noqa: BLE001 - a fault of ours must cost neither the slot nor its neighbours' answers
                _log.exception("an answer of %s could not be made", serving.slot.model)
                if not answered:
                    self.error(request, InferenceCode.RUN_FAILED, "the agent could not make the answer: see its log")
            latency((now - request.arrived) * 1e6)
            serving.release(id_)
        if serving.to_move:
            move_to_arenas(serving)

    def _other(self, serving: Serving, request: Request, plan: RequestPlan, tally: Tally | None) -> bool:
        """The result of an arena, or one that is made of detections. True: it is made later, and keeps its slot."""
        found = _outputs(serving, request.id)
        if tally is not None and not count_answer(tally, found, [tensor.data for tensor in found]):
            serving.slot.stats.not_finite += 1
        if plan.detect is not None:
            self.detections(serving, request, found)
            return True
        self.result(request, serving.codec.encode_reply(plan, found))
        return False

    def result(self, request: Request, reply: Reply) -> None:
        """The request ran well."""
        longest = self._outbound.longest - len(request.reply_to or request.slot.results_topic)
        if sum(map(len, reply.pieces)) + len(request.correlation) + PROPERTIES_ROOM > longest:
            self.error(request, InferenceCode.RESULT_TOO_LARGE, f"the broker takes {longest} bytes at most")
            return
        request.slot.stats.requests += 1
        self._send(request, reply)
        serving = request.serving
        if request.reply_to and serving is not None and serving.binding.record_results:
            self._record(request, reply)
        if request.key is not None:
            key, request.key = request.key, None
            if isinstance(key, Key):
                for waiter in self._dedupe.finish(key, reply, self._clock()):
                    self.repeat(waiter, reply)

    def repeat(self, request: Request, reply: Reply) -> None:
        """A request that came before: the same reply once more."""
        request.slot.stats.duplicates += 1
        self._send(request, reply)

    def error(self, request: Request, code: str, message: str) -> None:
        """The request gets an error result; so do its repeats that wait for it."""
        stats = request.slot.stats
        stats.requests += 1
        stats.errors[str(code)] += 1
        serving, plan = request.serving, request.plan
        if serving is not None and serving.tally.watching:
            serving.tally.errors[str(code)] += 1
        request_id, correlation_id = (plan.id, plan.correlation_id) if plan is not None else ("", "")
        if serving is not None:
            reply = serving.codec.encode_error(code, message, request_id, correlation_id)
        else:
            reply = error_reply(code, message, request.asked or request.slot.model, request_id, correlation_id)
        self._send(request, reply, str(code))
        if isinstance(request.key, Key):
            waiters, request.key = self._dedupe.abandon(request.key), None
            for waiter in waiters:
                self.error(waiter, code, message)

    def refuse(self, request: Request, error: RequestError) -> None:
        """As `error`, for a request that the codec refused and whose answer's address it may have found."""
        if request.plan is None and (error.id or error.correlation_id):
            request.plan = RequestPlan((), 0, (), id=error.id, correlation_id=error.correlation_id)
        self.error(request, error.code, error.message)

    def expired(self, request: Request) -> None:
        """Its deadline has passed before it could run."""
        request.slot.stats.expired += 1
        self.error(request, InferenceCode.DEADLINE_EXCEEDED, "the message expired before its turn came; it was not run")

    def _send(self, request: Request, reply: Reply, code: str = "") -> None:
        if request.trace and self.recorder is not None:
            try:
                self._trace(self.recorder, request, code)
            except Exception:  # noqa: BLE001 - the reply is worth more than its span
                self.recorder = None
                _log.exception("a request's span could not be written down: no more are")
        key = (reply.header_length, reply.content_type)
        properties = self._properties.get(key)
        if properties is None:
            if len(self._properties) >= MAX_KEPT_PROPERTIES:
                self._properties.clear()
            properties = self._properties[key] = reply_properties(reply.content_type, reply.header_length)
        if request.correlation:
            properties += request.correlation
        ack = request.ack
        request.ack = None
        if request.reply_to:
            self._outbound.reply(request.reply_to, properties, reply.pieces, ack)
        else:
            self._outbound.result(Outgoing(request.slot.results_topic, properties, reply.join(), ack))

    def _trace(self, recorder: Recorder, request: Request, code: str) -> None:
        serving, plan, now = request.serving, request.plan, self._clock()
        attributes = {"messaging.system": "mqtt", "modelfleet.model": request.slot.model or request.asked}
        if serving is not None:
            binding = serving.binding
            attributes |= {"modelfleet.version": binding.version, "modelfleet.device": binding.device}
        if plan is not None and plan.id:
            attributes["modelfleet.request_id"] = plan.id
        run_s = now - request.handed if request.handed else 0.0
        name = f"infer {attributes['modelfleet.model']}"
        recorder.request(
            request.trace.decode("ascii", "replace"),
            name,
            seconds=now - request.arrived,
            run_s=run_s,
            attributes=attributes,
            error=code,
        )

    def _record(self, request: Request, reply: Reply) -> None:
        properties = reply_properties(reply.content_type, reply.header_length) + request.correlation
        self._outbound.result(Outgoing(request.slot.results_topic, properties, reply.join()))


def _no_detections(_serving: Serving, _request: Request, _outputs: Sequence[OutputTensor]) -> None:
    raise RequestError(InferenceCode.RUN_FAILED, "nothing makes detections here")


def _outputs(serving: Serving, id_: int) -> list[OutputTensor]:
    """What the worker put into a slot. Raises RequestError."""
    memory = serving.memory
    if id_ < serving.layout.slots:
        views = [memory[base + id_ * size : base + id_ * size + size] for base, size in serving.outputs]
        return serving.codec.fixed_outputs(views)
    try:
        content = read_arena(serving.layout.arena_view(memory, id_))
    except ArenaError as error:
        raise RequestError(InferenceCode.RUN_FAILED, f"the worker's answer cannot be read: {error}") from None
    return [OutputTensor(tensor.name, tensor.datatype, tensor.shape, tensor.data) for tensor in content.tensors]
