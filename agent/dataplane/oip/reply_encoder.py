"""Outputs and errors of one worker to payloads, in pieces that need no copy. Their form: `registry.inference.reply`.

Scores to labels: an output [N, classes] becomes `label` BYTES [N, k] and `score` FP32 [N, k], best first.
`registry.contracts.catalogue.classes` says which shapes hold scores. Softmax over the classes when the manifest asks.
Equal scores keep the classes' order; NaN comes last. A class without a label is named by its number.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import msgspec
import numpy as np
from numpy.typing import NDArray

from agent.dataplane.oip.detector import packed
from agent.dataplane.oip.plan import Binding, RequestedOutput, RequestPlan
from agent.dataplane.oip.request_reader import LABEL, SCORE
from agent.worker.channel import Layout
from registry.contracts.catalogue.classes import ROUNDING, scores_of
from registry.contracts.catalogue.manifest import Classification, TensorSpec
from registry.contracts.codes import InferenceCode
from registry.contracts.tensors import CONTENT_BINARY, CONTENT_JSON, ITEM_BYTES, NUMPY_NAME, Datatype, numbers
from registry.inference.errors import RequestError, quote
from registry.inference.header import self_contained
from registry.inference.packets import Buffer
from registry.inference.reply import OutputTensor, Reply, describe, describe_binary, error_body


class Classifier:
    """The classification of one active worker."""

    def __init__(self, declared: Classification, outputs: Sequence[TensorSpec]) -> None:
        self.output = declared.output
        self._shape = next((spec.shape for spec in outputs if spec.name == declared.output), None)
        self._softmax = declared.softmax
        self._top_k = declared.top_k
        self._labels = tuple(packed(label) for label in declared.labels)

    def classify(self, output: OutputTensor) -> tuple[OutputTensor, OutputTensor]:
        """(`label`, `score`). Raises RequestError for an output that holds no scores for the labels."""
        raw = self._raw(output)
        scores = _softmax(raw) if self._softmax else raw
        if len(self._labels) == 1 and raw.shape[1] == 2:  # the other class is nobody's
            raw, scores = raw[:, 1:], scores[:, 1:]
        items, classes = raw.shape
        k = min(self._top_k, classes)
        order = np.argsort(-raw, axis=1, kind="stable")[:, :k]
        with np.errstate(over="ignore"):
            best = np.take_along_axis(scores, order, axis=1).astype("<f4")
        labels = b"".join(self._label(index) for index in order.ravel().tolist())
        shape = (items, k)
        return OutputTensor(LABEL, "BYTES", shape, labels), OutputTensor(SCORE, "FP32", shape, best.tobytes())

    def _raw(self, output: OutputTensor) -> NDArray[np.float64]:
        """[N, classes], as the model gives them; of one number for each item the scores of both classes."""
        shape = scores_of(output.shape, len(self._labels), self._shape)
        if output.datatype in (Datatype.BYTES, Datatype.BOOL) or shape is None:
            raise self._refusal(output, "expected numbers [N, classes]")
        kind = Datatype(output.datatype)
        scores: NDArray[np.float64] = numbers(kind, np.frombuffer(output.data, NUMPY_NAME[kind])).reshape(shape)
        if shape.each != 1:
            return scores
        if len(self._labels) > 2:
            raise self._refusal(output, f"one number for each item, and {len(self._labels)} labels")
        if self._softmax:
            return np.hstack([np.zeros_like(scores), scores])
        if ((scores < -ROUNDING) | (scores > 1 + ROUNDING)).any():
            raise self._refusal(output, "softmax = false says that it is a probability, and it is not within 0 to 1")
        probabilities = scores.clip(0, 1)
        return np.hstack([1 - probabilities, probabilities])

    @staticmethod
    def _refusal(output: OutputTensor, why: str) -> RequestError:
        return RequestError(
            InferenceCode.RUN_FAILED,
            f"output {quote(output.name)} cannot be classified: {why}; it is {output.datatype} {list(output.shape)}",
        )

    def _label(self, index: int) -> bytes:
        return self._labels[index] if index < len(self._labels) else packed(str(index))


def _softmax(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    if scores.size == 0:
        return scores
    with np.errstate(invalid="ignore"):
        powers = np.exp(scores - scores.max(axis=1, keepdims=True))
        return np.asarray(powers / powers.sum(axis=1, keepdims=True))


MAX_TEMPLATES = 64
"""Kept forms of a fixed reply, one per selection of outputs."""
_json = msgspec.json.encode


class ReplyEncoder:
    """Writes the replies of one active worker."""

    def __init__(self, binding: Binding, layout: Layout, classifier: Classifier | None) -> None:
        self._classifier = classifier
        self._identity = {
            "variant": binding.variant,
            "variant_digest": binding.variant_digest,
            "device": binding.device,
            **({"rollout": binding.rollout} if binding.rollout else {}),
        }
        self._names = {"model_name": binding.model, "model_version": binding.version}
        self._start = _json(self._names)[:-1]
        self._parameters = _json(self._identity)
        self._fixed = tuple((t.name, t.datatype, layout.request_shape(t)) for t in layout.outputs)
        self._places = {tensor.name: index for index, tensor in enumerate(layout.outputs)}
        self._sizes = tuple(tensor.item_bytes for tensor in layout.outputs)
        self._templates: dict[tuple[RequestedOutput, ...], bytes] = {}

    def fixed(self, plan: RequestPlan, views: Sequence[Buffer]) -> Reply:
        """The reply from a fixed slot: one view (bytes) per model output, in `Layout.outputs` order. Binary outputs
        are not copied: the pieces are the views. Raises RequestError when outputs cannot be written as asked."""
        if plan.classify or not all(asked.binary for asked in plan.outputs):
            return self.any(plan, self.fixed_outputs(views))
        if not plan.prefix:
            header = self._start + self._middle(plan) + self._fixed_outputs(plan.outputs)
            plan.prefix, plan.header_length = self._frame(plan, header, binary=True)
        places = self._places
        data = [views[places[asked.name]] for asked in plan.outputs]
        return Reply((plan.prefix, *data), plan.header_length, CONTENT_BINARY)

    def fixed_outputs(self, views: Sequence[Buffer]) -> list[OutputTensor]:
        """What is in a fixed slot: one view per model output, in `Layout.outputs` order."""
        return [OutputTensor(*known, view) for known, view in zip(self._fixed, views, strict=True)]

    def any(self, plan: RequestPlan, outputs: Sequence[OutputTensor]) -> Reply:
        """The reply from an arena: outputs by name, any shape. Raises RequestError as `fixed` does."""
        given = {output.name: output for output in outputs}
        if plan.classify and self._classifier is not None:
            source = given.get(self._classifier.output)
            if source is not None:
                _check_size(source)
                made = self._classifier.classify(source)
                given.update((output.name, output) for output in made if output.name in plan.classify)
        described: list[bytes] = []
        data: list[Buffer] = []
        for asked in plan.outputs:
            output = given.get(asked.name)
            if output is None:
                raise RequestError(InferenceCode.RUN_FAILED, f"the model gave no output {quote(asked.name)}")
            _check_size(output)
            described.append(describe(output, asked.binary))
            if asked.binary:
                data.append(output.data)
        header = self._start + self._middle(plan) + b'"outputs":[' + b",".join(described) + b"]}"
        prefix, length = self._frame(plan, header, binary=bool(data))
        binary = bool(data) or plan.magic
        return Reply((prefix, *data), length, CONTENT_BINARY if binary else CONTENT_JSON)

    def error(self, code: str, message: str, request_id: str = "", correlation_id: str = "") -> Reply:
        """An error result that says which model, version, variant and device; always plain JSON."""
        extra = {"correlation_id": correlation_id} if correlation_id else {}
        body = {**error_body(code, message, request_id), **self._names, "parameters": {**self._identity, **extra}}
        return Reply((_json(body),), None, CONTENT_JSON)

    def _middle(self, plan: RequestPlan) -> bytes:
        """From the id to the outputs."""
        request_id = b',"id":' + _json(plan.id) if plan.id else b""
        if not plan.correlation_id:
            return request_id + b',"parameters":' + self._parameters + b","
        correlation = b',"correlation_id":' + _json(plan.correlation_id) + b"},"
        return request_id + b',"parameters":' + self._parameters[:-1] + correlation

    def _fixed_outputs(self, requested: tuple[RequestedOutput, ...]) -> bytes:
        template = self._templates.get(requested)
        if template is None:
            if len(self._templates) >= MAX_TEMPLATES:
                self._templates.clear()
            described = [
                describe_binary(*self._fixed[place], self._sizes[place])
                for place in (self._places[asked.name] for asked in requested)
            ]
            template = b'"outputs":[' + b",".join(described) + b"]}"
            self._templates[requested] = template
        return template

    @staticmethod
    def _frame(plan: RequestPlan, header: bytes, *, binary: bool) -> tuple[bytes, int | None]:
        if plan.magic:
            return self_contained(header), None
        return header, len(header) if binary else None


def _check_size(output: OutputTensor) -> None:
    """A worker is not trusted: shape and bytes must agree before anyone reads them together."""
    item = ITEM_BYTES.get(Datatype(output.datatype))
    if item is not None and prod(output.shape) * item != len(output.data):
        raise RequestError(
            InferenceCode.RUN_FAILED,
            f"output {quote(output.name)}: {output.datatype} of shape {list(output.shape)} came with "
            f"{len(output.data)} bytes",
        )
