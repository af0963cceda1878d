"""What ultralytics writes into its exports is read exactly, and anything else is nothing. Values as it writes them."""

from __future__ import annotations

import io
import json

import pytest

from registry.inspection.ultralytics import Described, described
from registry.plan_file import MAX_DESCRIPTION_BYTES, read_description

ENGINE = {
    "description": "Ultralytics YOLO11n model trained on coco.yaml",
    "author": "Ultralytics",
    "date": "2026-01-01T00:00:00",
    "version": "8.3.0",
    "license": "AGPL-3.0",
    "stride": 32,
    "task": "detect",
    "batch": 1,
    "imgsz": [640, 480],
    "names": {"0": "person", "1": "bicycle"},
    "args": {"batch": 1, "half": True},
}
ONNX = {key: str(value) for key, value in ENGINE.items()} | {"names": str({0: "person", 1: "it's a 'b\\i\"ke'"})}
READ = Described("detect", ("person", "bicycle"), (640, 480), 32, 1, "8.3.0")


def test_the_description_of_an_engine_and_of_an_onnx_file_are_read() -> None:
    assert described(ENGINE) == READ
    assert described(ONNX) == Described("detect", ("person", "it's a 'b\\i\"ke'"), (640, 480), 32, 1, "8.3.0")
    assert READ.text == (
        "ultralytics 8.3.0, task detect, pictures 640x480 (height, width), stride 32, batch 1, "
        "2 classes (person, bicycle)"
    )


@pytest.mark.parametrize(
    "change",
    [
        {"names": {"0": "a", "2": "c"}},
        {"names": {"0": 1}},
        {"names": "{0: __import__('os')}"},
        {"names": "{0: 'a', }}"},
        {"names": "{0: 'a'" + ", (" * 100_000 + "}"},
        {"names": None},
        {"names": {"x": "a"}},
    ],
)
def test_names_that_are_not_one_for_each_number_are_none(change: dict[str, object]) -> None:
    found = described({**ENGINE, **change})
    assert found is not None
    assert found.names == ()


@pytest.mark.parametrize("said", [{}, {"task": "detect"}, {"names": "{0: 'a'}"}])
def test_a_description_of_another_program_is_none(said: dict[str, object]) -> None:
    assert described(said) is None


def test_odd_values_are_left_out() -> None:
    odd = {**ENGINE, "stride": "many", "batch": True, "imgsz": "[1]", "version": 8, "dla": "0"}
    assert described(odd) == Described("detect", ("person", "bicycle"), dla=0)


def in_front(text: bytes, plan: bytes = b"ftrt....", length: int | None = None) -> bytes:
    return (len(text) if length is None else length).to_bytes(4, "little", signed=True) + text + plan


def test_a_description_in_front_of_a_plan_ends_where_the_plan_begins() -> None:
    content = in_front(json.dumps(ENGINE).encode())
    said, begin = read_description(io.BytesIO(content), len(content))
    assert said == ENGINE
    assert content[begin:] == b"ftrt...."


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"ftrt" + b"{}" * 20,
        in_front(b"[1]"),
        in_front(b"{} "),
        in_front(b"{]"),
        in_front(b'{"a": "\xff"}'),
        in_front(b"{}", length=-2),
        in_front(b"{}", length=1 << 30),
        in_front(b"{}", plan=b""),
        in_front(b"{" + b" " * MAX_DESCRIPTION_BYTES + b"}"),
        in_front(b'{"a":' * 100_000 + b"1" + b"}" * 100_000),
    ],
    ids=["empty", "plan", "list", "space", "broken", "utf-8", "negative", "long", "alone", "bound", "deep"],
)
def test_what_is_not_exactly_a_description_belongs_to_the_plan(content: bytes) -> None:
    said, begin = read_description(io.BytesIO(content), len(content))
    assert (said, begin) == (None, 0) or (said == {} and content[4 : begin - 1] == b"{}")
