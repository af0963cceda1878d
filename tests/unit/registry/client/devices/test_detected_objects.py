"""`answer.detections` is what the device found; an answer that is not of that form has none."""

from __future__ import annotations

import json
from typing import Any

import pytest

from registry.client.devices import DetectedObject, DetectionOptions, InferenceRequest
from registry.client.devices.answer import AnswerReader, Expected
from registry.client.devices.detections import parameters_of
from registry.client.devices.encoding import Options, RequestEncoder

OUTPUTS = {
    "boxes": ("FP32", [2, 4], [1, 2, 3.5, 4, 5, 6, 7, 8]),
    "scores": ("FP32", [2], [0.75, 0.5]),
    "classes": ("INT64", [2], [1, 0]),
    "labels": ("BYTES", [2], ["dog", "cät"]),
}


def answer(**changed: Any) -> Any:
    outputs = [
        {"name": name, "datatype": datatype, "shape": shape, "data": data}
        for name, (datatype, shape, data) in {**OUTPUTS, **changed}.items()
    ]
    document = {"id": "1", "model_name": "yolo", "parameters": {"device": "edge-1"}, "outputs": outputs}
    return AnswerReader().read(json.dumps(document).encode(), -1, Expected("1", "yolo", "edge-1"))


def test_objects_are_typed_and_in_the_devices_order() -> None:
    assert answer().detections == [
        DetectedObject((1.0, 2.0, 3.5, 4.0), 0.75, 1, "dog"),
        DetectedObject((5.0, 6.0, 7.0, 8.0), 0.5, 0, "cät"),
    ]


def test_no_objects_are_an_empty_list() -> None:
    nothing = {name: (datatype, [0, *shape[1:]], []) for name, (datatype, shape, _) in OUTPUTS.items()}
    assert answer(**nothing).detections == []


@pytest.mark.parametrize(
    "changed",
    [
        {"labels": ("INT64", [2], [1, 2])},
        {"boxes": ("FP32", [4, 2], [1] * 8)},
        {"scores": ("FP32", [2, 1], [0.5, 0.5])},
        {"classes": ("INT64", [1], [1])},
    ],
)
def test_outputs_of_those_names_and_another_form_are_no_detections(changed: dict[str, Any]) -> None:
    with pytest.raises(LookupError, match="no detections"):
        _ = answer(**changed).detections


def test_what_is_asked_stands_in_the_request() -> None:
    assert parameters_of(None) == {}
    assert parameters_of(False) == {"detections": False}
    limits = parameters_of(DetectionOptions(score_threshold=0.5, max_detections=3))
    assert limits == {"detections": True, "score_threshold": 0.5, "max_detections": 3}
    encoder = RequestEncoder(b"me")
    for said in (limits, {}):  # kept headers are of the same options only
        sent = encoder.tensors({}, Options(detections=tuple(said.items())), "1")
        assert json.loads(sent.pieces[0])["parameters"] == {"binary_data_output": True, **said}


def test_what_is_no_option_is_refused_before_anything_is_sent() -> None:
    with pytest.raises(TypeError, match="give DetectionOptions"):
        InferenceRequest("edge-1", "yolo", {}, detections=0.5)  # type: ignore[arg-type]
