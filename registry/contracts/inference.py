"""Inference requests and results as JSON: the Open Inference Protocol's (KServe v2), and what is this product's own.

Where tensors are binary these are the header, and the tensors follow it in the order of the list, without padding.
`registry.inference` reads and writes them. What may be left out may also be null in a request.

Sources: KServe, Open Inference Protocol V2, "Inference Request JSON Object", "Inference Response JSON Object"; Triton
Inference Server, binary tensor data extension.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from registry.contracts.catalogue.detection import MAX_DETECTIONS
from registry.contracts.tensors import MAX_TENSORS
from registry.contracts.topics import MAX_TOPIC_BYTES
from registry.contracts.wire import MAX_INTEGER, Digest, Name, VersionName, Wire

Id = Annotated[str, Field(max_length=256)]
Size = Annotated[int, Field(ge=0, le=MAX_INTEGER)]


class RequestTensorParameters(Wire):
    """How an input's data comes."""

    binary_data_size: Size | None = None
    """Bytes that follow the header. None: the data is in the JSON."""


class RequestTensor(Wire):
    """One input; it has either `data` or `binary_data_size`."""

    name: str
    """As the model names it."""
    shape: tuple[Size, ...]
    """With the batch dimension where the model has one."""
    datatype: str
    """Of each element: docs/wire.md, Datatype. `BYTES` for a picture in place of the tensor."""
    parameters: RequestTensorParameters | None = None
    """Where the data is. None: in `data`."""
    data: Any = None
    """The elements, nested as the shape or flat."""


class RequestedTensorParameters(Wire):
    """How an output is wanted."""

    binary_data: bool | None = None
    """True: behind the header; False: in the JSON; None: as `binary_data_output` says."""


class RequestedTensor(Wire):
    """An output that is wanted."""

    name: str
    """An output of the model, or `label` or `score` of one that classifies, or `boxes`, `scores`, `classes` or `labels`
    of one that detects."""
    parameters: RequestedTensorParameters | None = None
    """None: as the request as a whole says."""


class RequestBodyParameters(Wire):
    """Of the request as a whole."""

    binary_data_output: bool | None = None
    """True: outputs follow the header, unless one says otherwise."""
    response_topic: Annotated[str, Field(max_length=MAX_TOPIC_BYTES)] | None = None
    """Where the result goes, for MQTT 3.1.1; the property of MQTT 5 wins."""
    correlation_id: Id | None = None
    """Returned in the result's parameters, for MQTT 3.1.1."""
    detections: bool | None = None
    """Of a detector. True: `boxes`, `scores`, `classes` and `labels` are answered. False: the model's own outputs.
    None: the former of a picture, the latter of tensors, unless outputs are named that only detections have."""
    score_threshold: Annotated[float, Field(ge=0, le=1)] | None = None
    """Of a detector: only detections with a higher score are answered. None: as the manifest says."""
    iou_threshold: Annotated[float, Field(ge=0, le=1)] | None = None
    """Of a detector whose `nms` is not `graph`. None: as the manifest says."""
    max_detections: Annotated[int, Field(ge=1, le=MAX_DETECTIONS)] | None = None
    """Of a detector. None: as the manifest says."""


class RequestBody(Wire):
    """An inference request."""

    id: Id | None = None
    """Returned in the result. A QoS 1 request with an id is run once: a repeat gets the stored result."""
    model_name: str | None = None
    """If it is there, it must be the model of the topic."""
    model_version: str | None = None
    """If it is there, only this version answers: `unknown_version` otherwise."""
    parameters: RequestBodyParameters | None = None
    """None: the defaults."""
    inputs: Annotated[tuple[RequestTensor, ...], Field(max_length=MAX_TENSORS)] | None = None
    """All inputs of the model that have no default."""
    outputs: Annotated[tuple[RequestedTensor, ...], Field(max_length=MAX_TENSORS)] | None = None
    """The outputs that are wanted. None or empty: all."""


class ResultTensorParameters(Wire):
    """How an output's data comes."""

    binary_data_size: Size | None = None
    """Bytes that follow the header. None: the data is in the JSON."""


class ResultTensor(Wire):
    """One output; it has either `data` or `binary_data_size`."""

    name: str
    """As the model names it; `label` and `score` of one that classifies; of one that detects `boxes` FP32 [n, 4] (left,
    top, right, bottom in the picture's own pixels), `scores` FP32 [n], `classes` INT64 [n], `labels` BYTES [n]."""
    shape: tuple[Size, ...]
    """As the model gave it."""
    datatype: str
    """Of each element: docs/wire.md, Datatype."""
    parameters: ResultTensorParameters | None = None
    """Where the data is. None: in `data`."""
    data: Any = None
    """The elements, flat, row-major."""


class ResultParameters(Wire):
    """Who answered."""

    device: Name
    """The device."""
    variant: Name
    """The variant that ran."""
    variant_digest: Digest
    """Canonical digest of that variant."""
    rollout: Annotated[str, Field(max_length=64)] | None = None
    """Id of the rollout that put the version there. None: none did."""
    correlation_id: Id | None = None
    """Of the request's parameters."""


class ResultBody(Wire):
    """The result of an inference request."""

    model_name: Name
    """The model."""
    model_version: VersionName
    """The version that ran."""
    id: Id | None = None
    """Of the request."""
    parameters: ResultParameters
    """Who answered."""
    outputs: tuple[ResultTensor, ...]
    """The outputs, in the order in which they were asked for, or in the model's."""


class ErrorParameters(Wire):
    """Who answered, as far as it is known."""

    device: Name | None = None
    """The device."""
    variant: Name | None = None
    """The variant that was asked."""
    variant_digest: Digest | None = None
    """Canonical digest of that variant."""
    rollout: Annotated[str, Field(max_length=64)] | None = None
    """Id of the rollout that put the version there. None: none did."""
    correlation_id: Id | None = None
    """Of the request's parameters."""


class ErrorBody(Wire):
    """Why a request for inference or for metadata was refused or failed."""

    error: Annotated[str, Field(max_length=500)]
    """What was expected and what came, for a person."""
    code: Annotated[str, Field(max_length=64)]
    """A code of docs/codes.md, InferenceCode; clients must expect ones that they do not know."""
    id: Id | None = None
    """Of the request, where it could be read."""
    model_name: str | None = None
    """The model that was asked, where it is known."""
    model_version: VersionName | None = None
    """The version that was asked, where one serves."""
    parameters: ErrorParameters = ErrorParameters()
    """Who answered, as far as it is known."""
