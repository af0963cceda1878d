"""Metadata over MQTT: the Open Inference Protocol's server and model metadata, asked of an agent as a request is.

A request goes to `<p>/devices/{device}/metadata` (what the device serves), `<p>/devices/{device}/metadata/{model}`
(one model), or `<p>/metadata/{model}`: all agents that take part in a pool with this model, each of which answers after
a random pause of up to MAX_PAUSE_S seconds. Its payload is empty or a MetadataRequest. The answer goes to the response
topic of the message with its correlation data (MQTT 5), else to that of the payload's `parameters` (MQTT 3.1.1); a
request that has neither gets no answer. An error is that of an inference request: `unknown_model` where the model is
not assigned. A device that does not have the model does not answer `<p>/metadata/{model}`. Agents of before this
version do not answer at all. Answers are as of now: they are not kept for a client that is away.

Source: KServe, Open Inference Protocol V2, "Server Metadata" and "Model Metadata". What stands in `parameters`, and
`models`, is this product's own.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from registry.contracts.catalogue.manifest import ImageInput
from registry.contracts.wire import MAX_INTEGER, Digest, Integer, Name, VersionName, Wire

SERVER_NAME = "modelfleet"
EXTENSIONS = ("binary_tensor_data", "modelfleet_pictures", "modelfleet_self_contained_binary")
"""Of the protocol: tensors behind a JSON header as Triton Inference Server has them, JPEG and PNG in place of a tensor,
and the binary form that needs no property of the message."""
MAX_PAUSE_S = 0.5
"""The longest pause before a pool's agent answers."""
MAX_REQUEST_BYTES = 4096
"""Of the payload."""

_Id = Annotated[str, Field(max_length=256)]
_Code = Annotated[str, Field(max_length=64)]
_Reason = Annotated[str, Field(max_length=2048)]


class MetadataRequestParameters(Wire):
    """Where the answer goes, for MQTT 3.1.1; the properties of MQTT 5 win."""

    response_topic: Annotated[str, Field(max_length=1024)] | None = None
    """The topic of the answer."""
    correlation_id: _Id | None = None
    """Returned in the answer's `parameters`."""


class MetadataRequest(Wire):
    """The payload of a request; an empty one says the same as `{}`."""

    id: _Id | None = None
    """Returned in the answer."""
    parameters: MetadataRequestParameters = MetadataRequestParameters()
    """Of the request as a whole."""


class ServedModel(Wire):
    """A model that is assigned to the device."""

    name: Name
    """The model."""
    version: VersionName | None = None
    """The version that answers requests now. None: nothing does."""
    ready: bool
    """Does it answer requests now?"""
    code: _Code = ""
    """Why it is not ready: a code of docs/codes.md. Empty: it is."""
    reason: _Reason = ""
    """The same for a person."""
    desired_version: VersionName | None = None
    """The version that is on its way, or should serve. None: the one that serves, or none is known."""


class ServerParameters(Wire):
    """What the protocol does not say of a server."""

    device: Name
    """The device that answers."""
    correlation_id: _Id | None = None
    """Of the request."""


class ServerMetadata(Wire):
    """What a device is and serves."""

    name: str
    """SERVER_NAME."""
    version: str
    """Of the agent."""
    extensions: tuple[str, ...]
    """EXTENSIONS."""
    models: tuple[ServedModel, ...]
    """All that are assigned to the device, by name."""
    id: _Id | None = None
    """Of the request."""
    parameters: ServerParameters
    """The device, and what the request gave."""


class TensorParameters(Wire):
    """What the protocol does not say of a tensor."""

    optional: bool = False
    """A request may leave this input out: the model has a default for it."""
    any_rank: bool = False
    """Tensors of any number of dimensions; `shape` is empty then and says nothing."""


class TensorMetadata(Wire):
    """An input or output."""

    name: str
    """As the model names it."""
    datatype: str
    """Of each element: docs/wire.md, Datatype."""
    shape: tuple[Integer, ...]
    """With the batch dimension where the model has one; -1: any size."""
    parameters: TensorParameters = TensorParameters()
    """What is special about it."""


class ClassificationMetadata(Wire):
    """The outputs `label` and `score`, which a request may ask for and a picture is answered with."""

    output: str
    """The output with the scores of the classes."""
    labels: Annotated[int, Field(ge=1, le=MAX_INTEGER)]
    """How many classes have a name."""
    top_k: Annotated[int, Field(ge=1, le=MAX_INTEGER)]
    """So many are answered, the best first; all where there are fewer."""


class DetectionMetadata(Wire):
    """The outputs `boxes`, `scores`, `classes` and `labels`: a request may ask for them, a picture is answered so."""

    outputs: tuple[str, ...]
    """The model's outputs that they are made of."""
    labels: Annotated[int, Field(ge=1, le=MAX_INTEGER)]
    """How many classes have a name."""
    nms: Literal["graph", "class", "agnostic"]
    """Who removes boxes that cover the same object: the model, or the device among boxes of one class, or among all."""
    score_threshold: Annotated[float, Field(ge=0, le=1)]
    """Of a request that says none."""
    iou_threshold: Annotated[float, Field(ge=0, le=1)]
    """Of a request that says none; unused where `nms` is `graph`."""
    max_detections: Annotated[int, Field(ge=1, le=MAX_INTEGER)]
    """Of a request that says none."""


class ModelParameters(Wire):
    """What the protocol does not say of a model."""

    device: Name
    """The device that answers."""
    pools: tuple[str, ...] = ()
    """The pools in which the device takes requests to this model."""
    ready: bool
    """Does it answer requests now? If not, inputs and outputs are not known and empty."""
    code: _Code = ""
    """Why it is not ready: a code of docs/codes.md. Empty: it is."""
    reason: _Reason = ""
    """The same for a person."""
    desired_version: VersionName | None = None
    """The version that is on its way, or should serve. None: the one that serves, or none is known."""
    variant: Name | None = None
    """The variant that serves."""
    variant_digest: Digest | None = None
    """Canonical digest of that variant."""
    manifest: Digest | None = None
    """Of the version that serves."""
    backend: str | None = None
    """Backend and provider that run it, e.g. `onnxruntime/CPUExecutionProvider`."""
    rollout: Annotated[str, Field(max_length=64)] | None = None
    """Id of the rollout that put the version here. None: none did."""
    image: ImageInput | None = None
    """How a picture becomes the input. None: the model takes no pictures."""
    classification: ClassificationMetadata | None = None
    """None: it does not answer labels."""
    detection: DetectionMetadata | None = None
    """None: it does not answer boxes."""
    max_batch: Annotated[int, Field(ge=1, le=MAX_INTEGER)] | None = None
    """So many requests at most are joined into one run."""
    batching: Annotated[str, Field(max_length=600)] = ""
    """Whether requests are joined into one run, and why or why not."""
    queue_limit: Annotated[int, Field(ge=0, le=MAX_INTEGER)] | None = None
    """Requests of one item that it can hold (of any form, when the model has no fixed size); further ones are answered
    `overloaded`. Fewer when their bytes together are over the limit for those that wait."""
    max_request_bytes: Annotated[int, Field(ge=0, le=MAX_INTEGER)] | None = None
    """Of a request's payload; longer ones are refused."""
    correlation_id: _Id | None = None
    """Of the request."""


class ModelMetadata(Wire):
    """One model on one device."""

    name: Name
    """The model."""
    versions: tuple[VersionName, ...]
    """The version that answers requests now; empty when nothing does."""
    platform: str
    """Backend and format of what serves, e.g. `onnxruntime_onnx`; empty when nothing does."""
    inputs: tuple[TensorMetadata, ...]
    """What a request holds, in the model's order; optional ones last."""
    outputs: tuple[TensorMetadata, ...]
    """What an answer holds, in the model's order."""
    id: _Id | None = None
    """Of the request."""
    parameters: ModelParameters
    """Readiness and what serves."""


def platform_of(backend: str, format: str) -> str:  # noqa: A002 - the manifest's word
    """The protocol's `<project>_<format>`."""
    return f"{backend}_{format}"
