"""What a request may ask of a detector, and what of a model that is none."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from registry.contracts.catalogue.detection import DETECTED, Detection
from registry.contracts.catalogue.manifest import Classification, ImageInput
from registry.inference.errors import RequestError
from tests.support.clients.oip import Input, encode_request
from tests.unit.agent.dataplane.oip_models import make_codec, spec

PICTURE = b"\x89PNG\r\n\x1a\n"
ITEM = Input("x", "FP32", np.zeros((1, 3, 2, 2), np.float32))


def codec(nms: str = "class", *, classes: bool = False, output: str = "y") -> Any:
    detection = Detection.model_validate(
        {
            "boxes": {"output": output},
            "scores": {"output": output, "at": 4},
            "format": "xyxy",
            "nms": nms,
            "labels": ["a"],
        }
    )
    return make_codec(
        [spec("x", "FP32", -1, 3, 2, 2)],
        [spec(output, "FP32", -1, -1, 5), spec("mask", "FP32", -1, 9)],
        image=ImageInput(input="x", height=2, width=2),
        detection=None if classes else detection,
        classification=Classification(output="mask", labels=tuple("abcdefghi")) if classes else None,
    )


def plan(of: Any, *outputs: str, item: Input = ITEM, **parameters: Any) -> Any:
    request = encode_request([item], outputs=[(name, None) for name in outputs], parameters=parameters)
    return of.decode(request.payload, "", request.header_length)[0]


def names(of: Any) -> list[str]:
    return [output.name for output in of.outputs]


def test_a_picture_is_answered_with_detections_of_what_the_manifest_declares() -> None:
    found, _ = codec().decode(PICTURE)
    assert names(found) == list(DETECTED)
    assert found.run_outputs == ("y",)  # nothing else is computed for it
    assert found.detect.limits == (0.25, 0.45, 300)


def test_tensors_are_answered_with_detections_when_they_ask_for_them() -> None:
    assert plan(codec()).detect is None
    assert names(plan(codec(), detections=True)) == list(DETECTED)
    mixed = plan(codec(), "mask", "labels")
    assert (names(mixed), mixed.run_outputs, mixed.detect.names) == (["mask", "labels"], ("mask", "y"), {"labels"})
    limits = plan(codec(), detections=True, score_threshold=0, iou_threshold=1, max_detections=7).detect.limits
    assert limits == (0, 1, 7)


def test_outputs_of_the_models_own_win_for_tensors() -> None:
    own = codec(output="boxes")
    assert plan(own, "boxes").detect is None
    assert plan(own, "boxes", detections=True).detect.names == {"boxes"}
    with pytest.raises(RequestError, match="no output 'labels'"):
        plan(own, "labels", detections=False)


@pytest.mark.parametrize(
    ("parameters", "why"),
    [
        ({"detections": True, "score_threshold": 1.01}, "score_threshold within 0 to 1"),
        ({"detections": True, "iou_threshold": -0.1}, "iou_threshold within 0 to 1"),
        ({"detections": True, "max_detections": 0}, "max_detections within 1 to 1000"),
        ({"detections": True, "max_detections": 10**30}, "max_detections"),
        ({"detections": "yes"}, "expected an inference request"),
        ({"score_threshold": 0.5}, "score_threshold: the request asks for no detections"),
    ],
)
def test_what_is_out_of_bounds_or_without_effect_is_refused(parameters: dict[str, Any], why: str) -> None:
    with pytest.raises(RequestError, match=why):
        plan(codec(), **parameters)


def test_a_threshold_of_overlap_is_refused_where_the_graph_suppresses() -> None:
    with pytest.raises(RequestError, match="the model's own graph"):
        plan(codec("graph"), detections=True, iou_threshold=0.5)


def test_a_model_that_is_no_detector_refuses_what_only_detectors_have() -> None:
    classifier = codec(classes=True)
    for parameters in ({"detections": True}, {"max_detections": 3}):
        with pytest.raises(RequestError, match="the model is no detector"):
            plan(classifier, **parameters)
    assert names(plan(classifier, detections=False)) == ["y", "mask"]
    assert names(plan(classifier, "label", detections=False)) == ["label"]


def test_detections_are_of_one_item() -> None:
    two = Input("x", "FP32", np.zeros((2, 3, 2, 2), np.float32))
    assert names(plan(codec(), item=two)) == ["y", "mask"]
    with pytest.raises(RequestError, match="made of one item"):
        plan(codec(), item=two, detections=True)
