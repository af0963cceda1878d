"""Outputs and errors to payloads: the Open Inference Protocol's response, in pieces that need no copy.

{"model_name", "model_version", "id"?, "parameters": {"variant", "variant_digest", "device", "rollout"?,
"correlation_id"?}, "outputs": [{"name", "shape", "datatype", "parameters": {"binary_data_size"} | "data"}]}

A request with the header-length property is answered with the property, one in self-contained form (BINARY_MAGIC)
in that form. A response without binary tensors is plain JSON, except to a self-contained request.
Errors are always plain JSON: {"error", "code", "id"?, "model_name"?, "model_version"?, "parameters"?}.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from math import prod

import msgspec

from agent.dataplane.oip.binding import Binding
from agent.dataplane.oip.classify import Classifier
from agent.dataplane.oip.codec_json import data_to_json
from agent.dataplane.oip.plan import MAX_MESSAGE, Buffer, OutputTensor, OutputWish, Plan, Reply, RequestError, quote
from agent.worker.channel import Layout
from registry.contracts.codes import InferenceCode
from registry.contracts.tensors import BINARY_MAGIC, CONTENT_BINARY, CONTENT_JSON, ITEM_BYTES, Datatype

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
        self._templates: dict[tuple[OutputWish, ...], bytes] = {}

    def fixed(self, plan: Plan, views: Sequence[Buffer]) -> Reply:
        """The reply of a fixed slot: `views` holds every output, in `Layout.outputs` order."""
        if plan.classify or not all(wish.binary for wish in plan.outputs):
            outputs = [OutputTensor(*known, view) for known, view in zip(self._fixed, views, strict=True)]
            return self.any(plan, outputs)
        if not plan.prefix:
            header = self._start + self._middle(plan) + self._fixed_outputs(plan.outputs)
            plan.prefix, plan.header_length = self._frame(plan, header, binary=True)
        places = self._places
        data = [views[places[wish.name]] for wish in plan.outputs]
        return Reply((plan.prefix, *data), plan.header_length, CONTENT_BINARY)

    def any(self, plan: Plan, outputs: Sequence[OutputTensor]) -> Reply:
        """The reply of an arena: outputs by name, of any shape."""
        given = {output.name: output for output in outputs}
        if plan.classify and self._classifier is not None:
            source = given.get(self._classifier.output)
            if source is not None:
                _check_size(source)
                made = self._classifier.classify(source)
                given.update((output.name, output) for output in made if output.name in plan.classify)
        described: list[bytes] = []
        data: list[Buffer] = []
        for wish in plan.outputs:
            output = given.get(wish.name)
            if output is None:
                raise RequestError(InferenceCode.RUN_FAILED, f"the model gave no output {quote(wish.name)}")
            _check_size(output)
            described.append(_describe(output, wish.binary))
            if wish.binary:
                data.append(output.data)
        header = self._start + self._middle(plan) + b'"outputs":[' + b",".join(described) + b"]}"
        prefix, length = self._frame(plan, header, binary=bool(data))
        binary = bool(data) or plan.magic
        return Reply((prefix, *data), length, CONTENT_BINARY if binary else CONTENT_JSON)

    def error(self, code: str, message: str, request_id: str, correlation_id: str) -> Reply:
        """An error result that says who refused."""
        extra = {"correlation_id": correlation_id} if correlation_id else {}
        body = {**_error(code, message, request_id), **self._names, "parameters": {**self._identity, **extra}}
        return Reply((_json(body),), None, CONTENT_JSON)

    def _middle(self, plan: Plan) -> bytes:
        """From the id to the outputs."""
        request_id = b',"id":' + _json(plan.id) if plan.id else b""
        if not plan.correlation_id:
            return request_id + b',"parameters":' + self._parameters + b","
        correlation = b',"correlation_id":' + _json(plan.correlation_id) + b"},"
        return request_id + b',"parameters":' + self._parameters[:-1] + correlation

    def _fixed_outputs(self, wishes: tuple[OutputWish, ...]) -> bytes:
        template = self._templates.get(wishes)
        if template is None:
            if len(self._templates) >= MAX_TEMPLATES:
                self._templates.clear()
            described = [
                _describe_binary(*self._fixed[place], self._sizes[place])
                for place in (self._places[wish.name] for wish in wishes)
            ]
            template = b'"outputs":[' + b",".join(described) + b"]}"
            self._templates[wishes] = template
        return template

    @staticmethod
    def _frame(plan: Plan, header: bytes, *, binary: bool) -> tuple[bytes, int | None]:
        if plan.magic:
            return BINARY_MAGIC + struct.pack("<I", len(header)) + header, None
        return header, len(header) if binary else None


def error_reply(code: str, message: str, model: str = "", request_id: str = "", correlation_id: str = "") -> Reply:
    """An error result where no version serves: an unknown model, or one that is not ready."""
    body: dict[str, object] = {**_error(code, message, request_id), **({"model_name": model} if model else {})}
    if correlation_id:
        body["parameters"] = {"correlation_id": correlation_id}
    return Reply((_json(body),), None, CONTENT_JSON)


def _error(code: str, message: str, request_id: str) -> dict[str, str]:
    return {"error": message[:MAX_MESSAGE], "code": str(code), **({"id": request_id} if request_id else {})}


def _check_size(output: OutputTensor) -> None:
    """A worker is not trusted: shape and bytes must agree before anyone reads them together."""
    item = ITEM_BYTES.get(Datatype(output.datatype))
    if item is not None and prod(output.shape) * item != len(output.data):
        raise RequestError(
            InferenceCode.RUN_FAILED,
            f"output {quote(output.name)}: {output.datatype} of shape {list(output.shape)} came with "
            f"{len(output.data)} bytes",
        )


def _describe(output: OutputTensor, binary: bool) -> bytes:
    if binary:
        return _describe_binary(output.name, output.datatype, output.shape, len(output.data))
    shown = _json({"name": output.name, "shape": output.shape, "datatype": str(output.datatype)})
    return shown[:-1] + b',"data":' + data_to_json(output.data, output.datatype, output.name) + b"}"


def _describe_binary(name: str, datatype: str, shape: tuple[int, ...], size: int) -> bytes:
    described = {"name": name, "shape": shape, "datatype": str(datatype), "parameters": {"binary_data_size": size}}
    return _json(described)
