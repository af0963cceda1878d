"""What `registry show` says of a version's tensors."""

from __future__ import annotations

import pytest

from registry.cli.catalogue.manifest_text import show_variants
from registry.cli.output import Output
from registry.contracts.catalogue.manifest import FileRef, Format, Manifest, Target, TensorSpec, Variant
from registry.contracts.wire import digest_of


def test_inputs_that_may_be_left_out_are_shown_as_optional(capsys: pytest.CaptureFixture[str]) -> None:
    file = FileRef(path="model.onnx", digest=digest_of(b"m"), size=1)
    variant = Variant(
        name="cpu", format=Format.ONNX, target=Target.CPU, entry="model.onnx", files=(file,),
        inputs=(TensorSpec(name="x", datatype="FP32", shape=(-1, 4)),),
        optional_inputs=(TensorSpec(name="scale", datatype="FP32", shape=(1,)),),
        outputs=(TensorSpec(name="y", datatype="FP32", shape=(-1, 4)),),
    )  # fmt: skip
    show_variants(Output(), Manifest(model="m", version="1.0.0", variants=(variant,)))
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines[2:5]] == [
        ["input", "x", "FP32", "[?,", "4]"],
        ["optional", "input", "scale", "FP32", "[1]"],
        ["output", "y", "FP32", "[?,", "4]"],
    ]
