"""What can be read of a TensorRT plan, as NVIDIA's trtexec reads it. The headers are made by hand."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest

from registry.contracts.catalogue.manifest import Format
from registry.inspection import plan
from registry.inspection.detect import detect
from registry.inspection.facts import InspectionError
from registry.inspection.plan import read_version


def header(*version: int, form: int = 0) -> bytes:
    return b"ftrt" + struct.pack("<I", form) + bytes(16) + bytes(version)


def test_the_tensorrt_that_built_a_plan_is_read() -> None:
    assert read_version(header(10, 13, 3, 9)) == "10.13.3.9"
    assert read_version(header(11, 4, 0, 106)) == "11.4.0.106"


@pytest.mark.parametrize("head", [header(10, 13, 3, 9, form=7), header(0, 0, 0, 0)])
def test_a_form_that_trtexec_does_not_know_tells_nothing(head: bytes) -> None:
    assert read_version(head) is None


def test_a_plan_behind_the_description_of_ultralytics_is_detected_and_read(tmp_path: Path) -> None:
    said = json.dumps({"task": "detect", "stride": 32, "names": {"0": "cat"}, "imgsz": [640, 640], "dla": 1}).encode()
    path = tmp_path / "yolo.engine"
    path.write_bytes(struct.pack("<i", len(said)) + said + header(10, 13, 3, 9))
    assert detect(path) is Format.TENSORRT_PLAN
    facts = plan.inspect(path)
    assert facts.requirements.tensorrt_version == "10.13.3.9"
    assert facts.described is not None
    assert facts.described.names == ("cat",)
    assert "DLA core 1" in facts.warnings[0]
    path.write_bytes(struct.pack("<i", len(said)) + said + header(10, 13, 3, 9)[:20])
    with pytest.raises(InspectionError, match="cut short"):
        plan.inspect(path)
    path.write_bytes(struct.pack("<i", len(said)) + said + b"something else that is a plan, perhaps")
    assert detect(path) is None
    assert "because you say so" in plan.inspect(path).warnings[1]
