"""Metadata requests, answered beside the data path: from what serves, and from what the control thread last reported.

A few are answered in a turn, after the requests of the turn are under way. They come through paho and not through the
fast path. What waits is bounded: further requests are refused as `overloaded`. A pool's answers wait for a random
pause, so that its agents do not answer all at once; their requests are acknowledged at once, because PUBACKs keep their
order (MQTT 5.0, 4.6) and those of inference must not wait for them. Answers are not spooled: they say what is so now.
"""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from collections.abc import Callable, Mapping, Sequence

import msgspec

from agent.dataplane.mqtt.outbound import Ack, Outbound, Outgoing
from agent.dataplane.oip.plan import Binding
from agent.dataplane.router import Router
from agent.dataplane.slot import ModelSlot, Serving
from registry.contracts.catalogue.manifest import TensorSpec
from registry.contracts.codes import InferenceCode
from registry.contracts.counters import Counters
from registry.contracts.device.messages import ReportedModel
from registry.contracts.device.metadata import (
    EXTENSIONS,
    MAX_PAUSE_S,
    MAX_REQUEST_BYTES,
    SERVER_NAME,
    ClassificationMetadata,
    DetectionMetadata,
    ModelMetadata,
    ModelParameters,
    ServedModel,
    ServerMetadata,
    ServerParameters,
    TensorMetadata,
    TensorParameters,
    platform_of,
)
from registry.contracts.tensors import CONTENT_JSON
from registry.contracts.topics import Topics
from registry.contracts.wire import canonical_json
from registry.inference.errors import RequestError
from registry.inference.packets import Publish, reply_properties, text
from registry.inference.reply import error_reply
from registry.inference.request import NO_PARAMETERS, AddressedRequest, decode_address

Reports = Mapping[str, ReportedModel]
"""By model."""


def server_metadata(device: str, agent_version: str, slots: Sequence[ModelSlot], reports: Reports) -> ServerMetadata:
    """What the device serves; `slots` are the models that are assigned to it."""
    return ServerMetadata(
        name=SERVER_NAME,
        version=agent_version,
        extensions=EXTENSIONS,
        models=tuple(_served(slot, reports) for slot in sorted(slots, key=lambda slot: slot.model)),
        parameters=ServerParameters(device=device),
    )


def _served(slot: ModelSlot, reports: Reports) -> ServedModel:
    version = slot.active.binding.version if slot.active is not None else None
    code, reason = why_not_ready(slot, reports)
    return ServedModel(
        name=slot.model,
        version=version,
        ready=version is not None,
        code=code,
        reason=reason,
        desired_version=_desired(slot, reports),
    )


def model_metadata(device: str, pools: Sequence[str], slot: ModelSlot, reports: Reports) -> ModelMetadata:
    """One model that is assigned to the device; `pools` are those in which it takes requests to it."""
    serving = slot.active
    if serving is not None:
        return _of_serving(device, pools, serving, _desired(slot, reports))
    code, reason = why_not_ready(slot, reports)
    parameters = ModelParameters(
        device=device,
        pools=tuple(pools),
        ready=False,
        code=code,
        reason=reason,
        desired_version=_desired(slot, reports),
    )
    return ModelMetadata(name=slot.model, versions=(), platform="", inputs=(), outputs=(), parameters=parameters)


def _of_serving(device: str, pools: Sequence[str], serving: Serving, desired: str | None) -> ModelMetadata:
    binding, worker = serving.binding, serving.worker
    classes = binding.classification
    parameters = ModelParameters(
        device=device,
        pools=tuple(pools),
        ready=True,
        desired_version=desired,
        variant=binding.variant,
        variant_digest=binding.variant_digest,
        manifest=binding.manifest_digest,
        backend=f"{worker.backend}/{worker.provider}",
        rollout=binding.rollout,
        image=binding.image,
        classification=(
            ClassificationMetadata(output=classes.output, labels=len(classes.labels), top_k=classes.top_k)
            if classes is not None
            else None
        ),
        detection=_detection(binding),
        max_batch=serving.max_batch,
        batching=worker.batching,
        queue_limit=serving.queue_limit,
        max_request_bytes=binding.max_payload,
    )
    optional = TensorParameters(optional=True)
    return ModelMetadata(
        name=binding.model,
        versions=(binding.version,),
        platform=platform_of(worker.backend, binding.format),
        inputs=(*map(_tensor, binding.inputs), *(_tensor(spec, optional) for spec in binding.optional_inputs)),
        outputs=tuple(map(_tensor, binding.outputs)),
        parameters=parameters,
    )


def _detection(binding: Binding) -> DetectionMetadata | None:
    said = binding.detection
    if said is None:
        return None
    return DetectionMetadata(
        outputs=said.outputs,
        labels=len(said.labels),
        nms=said.nms,
        score_threshold=said.score_threshold,
        iou_threshold=said.iou_threshold,
        max_detections=said.max_detections,
    )


def _tensor(spec: TensorSpec, parameters: TensorParameters = TensorParameters()) -> TensorMetadata:  # noqa: B008 - frozen
    if spec.any_rank:
        parameters = parameters.model_copy(update={"any_rank": True})
    return TensorMetadata(name=spec.name, datatype=str(spec.datatype), shape=spec.shape, parameters=parameters)


def why_not_ready(slot: ModelSlot, reports: Reports) -> tuple[str, str]:
    """(code, sentence) why nothing serves the model; empty when something does."""
    if slot.active is not None:
        return "", ""
    report = reports.get(slot.model)
    said = f"{slot.model} is assigned but nothing serves it yet"
    if report is None:
        return str(InferenceCode.MODEL_NOT_READY), said
    if report.fault is not None and report.fault.code:
        return report.fault.code, report.fault.message
    progress = report.deployment
    if progress is not None and progress.code:
        return progress.code, progress.message
    if progress is not None:
        said = f"{slot.model} {progress.version} is on its way: {progress.phase}"
    return str(InferenceCode.MODEL_NOT_READY), said


def _desired(slot: ModelSlot, reports: Reports) -> str | None:
    """The version that should serve, where it is not the one that does."""
    report = reports.get(slot.model)
    desired = report.desired_version if report is not None else None
    serves = slot.active.binding.version if slot.active is not None else None
    return desired if desired != serves else None


MAX_PER_TURN = 4
"""Answers made in one turn of the loop: 50 microseconds each for a usual model."""
MAX_WAITING = 64
"""Requests that are not answered yet, those of pools apart from the others."""
MAX_NAME = 64
"""Characters of a model's name in an error; it comes from outside."""
_PROPERTIES = reply_properties(CONTENT_JSON, None)


class Question(msgspec.Struct, gc=False):
    """A request that waits for its answer."""

    model: str
    """Empty: the server's metadata."""
    of_pool: bool
    reply_to: bytes
    """With its u16 length."""
    correlation: bytes
    """The whole property; empty: none."""
    id: str
    correlation_id: str
    qos: int
    ack: Ack | None
    """None: it came with QoS 0, or is acknowledged."""


class MetadataRequests:
    """Only the data thread is in here. Implements `mqtt.connection.MetadataReceiver`."""

    def __init__(
        self,
        *,
        device: str,
        agent_version: str,
        topics: Topics,
        pools: Sequence[tuple[str, str]],
        router: Router,
        outbound: Outbound,
        counters: Counters,
        clock: Callable[[], float],
        chance: Callable[[], float],
    ) -> None:
        self._device = device
        self._agent_version = agent_version
        self._server = topics.metadata(device)
        self._model = topics.metadata(device, "")
        self._pools: dict[str, tuple[str, ...]] = {}
        for pool, model in pools:
            self._pools[model] = (*self._pools.get(model, ()), pool)
        self._of_pools = {topics.pool_metadata(model): model for model in self._pools}
        self._router = router
        self._outbound = outbound
        self._counters = counters
        self._clock = clock
        self._chance = chance
        self._waiting: deque[Question] = deque()
        self._later: list[tuple[float, int, Question]] = []
        self._numbers = itertools.count()
        self.reports: Reports = {}
        """What the control thread last reported of the models."""

    @property
    def busy(self) -> bool:
        """Answers are owed now: the next turn must not wait."""
        return bool(self._waiting)

    def takes(self, topic: str) -> bool:
        """Is it a topic of metadata requests?"""
        return topic == self._server or topic.startswith(self._model) or topic in self._of_pools

    def ask(self, topic: str, publish: Publish, payload: bytes, ack: Ack | None) -> None:
        """A request came; it is acknowledged when its answer is on its way, or when there will be none."""
        asked, error = AddressedRequest(), None
        try:
            asked = _decode(payload)
        except RequestError as refusal:
            error = refusal
        question = self._question(topic, publish, asked, ack)
        if publish.retain:
            self._drop(question, "retained")
        elif not question.reply_to:
            self._drop(question, "no_response_topic")
        elif not self._router.allows_reply(question.reply_to):
            self._drop(question, "bad_response_topic")
        elif question.of_pool:
            self._put_off(question, error)
        elif error is not None:
            self._refuse(question, error)
        elif len(self._waiting) >= MAX_WAITING:
            why = "too many metadata requests wait; ask again a little later"
            self._refuse(question, RequestError(InferenceCode.OVERLOADED, why))
        else:
            self._waiting.append(question)

    def _question(self, topic: str, publish: Publish, asked: AddressedRequest, ack: Ack | None) -> Question:
        parameters = asked.parameters or NO_PARAMETERS
        of_pool = topic in self._of_pools
        reply_to = publish.reply_to
        if not reply_to and parameters.response_topic:
            reply_to = text(parameters.response_topic.encode())
        return Question(
            model=self._of_pools[topic] if of_pool else topic[len(self._model) :],
            of_pool=of_pool,
            reply_to=reply_to,
            correlation=publish.correlation,
            id=asked.id or "",
            correlation_id=parameters.correlation_id or "",
            qos=publish.qos,
            ack=ack,
        )

    def _put_off(self, question: Question, error: RequestError | None) -> None:
        """A pool's: a fault in it is not answered, or all agents would answer it at once."""
        if error is not None:
            self._drop(question, str(error.code))
        elif len(self._later) >= MAX_WAITING:
            self._drop(question, str(InferenceCode.OVERLOADED))
        else:
            self._settle(question)
            due = self._clock() + self._chance() * MAX_PAUSE_S
            heapq.heappush(self._later, (due, next(self._numbers), question))

    def _drop(self, question: Question, why: str) -> None:
        """There is nobody to answer."""
        self._counters.add("metadata_dropped", label=why)
        self._settle(question)

    def _settle(self, question: Question) -> None:
        ack, question.ack = question.ack, None
        if ack is not None:
            self._outbound.acks.settle(ack)

    def run(self, now: float) -> None:
        """Answers some of what is owed; called once a turn."""
        while self._later and self._later[0][0] <= now:
            self._waiting.append(heapq.heappop(self._later)[2])
        for _ in range(min(len(self._waiting), MAX_PER_TURN)):
            question = self._waiting.popleft()
            try:
                self._answer(question)
            except RequestError as error:
                self._refuse(question, error)

    def _answer(self, question: Question) -> None:
        if not question.model:
            slots = list(self._router.slots.values())
            found: ServerMetadata | ModelMetadata = server_metadata(
                self._device, self._agent_version, slots, self.reports
            )
        else:
            slot = self._router.slots.get(question.model)
            if slot is None and question.of_pool:
                return
            if slot is None:
                raise self._router.not_served(self._router.unassigned)
            found = model_metadata(self._device, self._pools.get(question.model, ()), slot, self.reports)
        document = found.to_json()
        if question.id:
            document["id"] = question.id
        if question.correlation_id:
            document["parameters"]["correlation_id"] = question.correlation_id
        self._counters.add("metadata_answered", label="model" if question.model else "server")
        self._send(question, canonical_json(document))

    def _refuse(self, question: Question, error: RequestError) -> None:
        self._counters.add("metadata_refused", label=str(error.code))
        model = question.model[:MAX_NAME]
        reply = error_reply(error.code, error.message, model, question.id, question.correlation_id)
        self._send(question, reply.join())

    def _send(self, question: Question, payload: bytes) -> None:
        properties = _PROPERTIES + question.correlation
        if question.qos:
            outgoing = Outgoing(question.reply_to, properties, payload, question.ack, settled=_nothing)
            self._outbound.send(outgoing)
        else:
            self._outbound.reply(question.reply_to, properties, (payload,), None)

    def closed(self) -> None:
        """The connection has ended: nobody waits for these answers any more, or the broker asks again."""
        lost = len(self._waiting) + len(self._later)
        if lost:
            self._counters.add("metadata_dropped", lost, label="disconnected")
        self._waiting.clear()
        self._later.clear()


def _decode(payload: bytes) -> AddressedRequest:
    """Raises RequestError."""
    if len(payload) > MAX_REQUEST_BYTES:
        raise RequestError(
            InferenceCode.TOO_LARGE, f"a metadata request of {len(payload)} bytes; at most {MAX_REQUEST_BYTES}"
        )
    return decode_address(payload) if payload else AddressedRequest()


def _nothing() -> None:
    """An answer at PUBACK: it is not kept."""
