"""TensorRT plans from ONNX, with SIMULATED builders that hold the child to NVIDIA's documented calls."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from agent.conversion.base import SOURCE, ConversionRequest, Tools
from agent.conversion.convert import Converted, convert
from agent.errors import AgentError
from registry.contracts.catalogue.manifest import FileRef, Format, Target, TensorSpec, Variant
from registry.contracts.wire import digest_of
from tests.fakes.simulated_trt_builder import VERSION, simulated_python, simulated_trtexec
from tests.support.models import onnx_models


def build(
    folder: Path, python: Path, trtexec: Path | None = None, content: bytes | None = None, **options: str
) -> Converted:
    model = onnx_models.linear() if content is None else content
    (folder / SOURCE).mkdir()
    (folder / SOURCE / "model.onnx").write_bytes(model)
    source = Variant(
        name="onnx-gpu",
        format=Format.ONNX,
        target=Target.GPU,
        entry="model.onnx",
        files=(FileRef(path="model.onnx", digest=digest_of(model), size=len(model)),),
        inputs=(TensorSpec(name="x", datatype="FP32", shape=(-1, 3)),),
        outputs=(TensorSpec(name="y", datatype="FP32", shape=(-1, 2)),),
    )
    tools = Tools(python=str(python), trtexec=str(trtexec) if trtexec else None, compute_capability="8.6")
    request = ConversionRequest(source, Format.TENSORRT_PLAN, tools, options)
    return convert(request, folder, timeout_s=60, cancel=threading.Event())


def test_a_simulated_builder_makes_a_plan_for_this_gpu_and_this_tensorrt(tmp_path: Path) -> None:
    made = build(tmp_path, simulated_python(tmp_path / "env"), precision="fp16", version_compatible="true")
    variant = made.variant
    assert (variant.name, variant.target, variant.entry) == ("plan-sm86-fp16", Target.GPU, "model.plan")
    assert variant.requirements.compute_capability == "8.6"
    assert variant.requirements.tensorrt_version == VERSION
    assert variant.build is not None
    assert variant.build.versions == {"compute_capability": "8.6", "tensorrt": VERSION}
    assert variant.inputs[0].shape == (-1, 3)
    written = (made.folder / "model.plan").read_bytes()
    assert written == b"simulated plan exclude_lean_runtime,fp16,version_compatible"


def test_a_simulated_trtexec_makes_a_plan_whose_version_is_read_from_its_output(tmp_path: Path) -> None:
    python = simulated_python(tmp_path / "env", module=False)
    made = build(tmp_path, python, simulated_trtexec(tmp_path / "bin"), builder="trtexec")
    assert made.variant.requirements.tensorrt_version == VERSION
    assert (made.folder / "model.plan").read_bytes() == b"simulated plan"


def test_a_file_that_the_simulated_parser_refuses_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(AgentError) as caught:
        build(tmp_path, simulated_python(tmp_path / "env"), content=b"no model")
    assert caught.value.code == "tool_failed"
    assert "INVALID_GRAPH" in caught.value.message
    assert not (tmp_path / "out").exists()


def test_a_host_without_tensorrt_is_told_what_to_install(tmp_path: Path) -> None:
    with pytest.raises(AgentError) as caught:
        build(tmp_path, simulated_python(tmp_path / "env", module=False))
    assert caught.value.code == "tool_missing"
    assert "install tensorrt" in caught.value.message


def test_a_simulated_trtexec_that_fails_is_a_clear_error(tmp_path: Path) -> None:
    tool = simulated_trtexec(tmp_path / "bin", code=1)
    with pytest.raises(AgentError) as caught:
        build(tmp_path, simulated_python(tmp_path / "env"), tool, builder="trtexec")
    assert caught.value.code == "tool_failed"
    assert "cannot be built" in caught.value.message
