"""Models that run on the publisher's machine: in a process of their own that may fail, crash or hang."""

from __future__ import annotations

import stat
import sys
from pathlib import Path

import numpy as np
import pytest

from registry.contracts.catalogue import networks
from registry.contracts.catalogue.manifest import Format, Network, Target, TensorSpec
from registry.contracts.tensors import Datatype
from registry.running.process import MINDSPORE_VARIABLE, CannotRunError, ModelProcess, ModelRunError, Order, order_for
from registry.sandbox import memory_of_host
from tests.support.clients.worker_client import is_gone
from tests.support.models import checkpoints, onnx_models
from tests.support.models.mindspore_python import PYTHON, needs_mindspore
from tests.support.paths import DATA

X = TensorSpec(name="x", datatype=Datatype.FP32, shape=(-1, 3))
Y = TensorSpec(name="y", datatype=Datatype.FP32, shape=(-1, 2))


def order(folder: Path, content: bytes, **changes: object) -> Order:
    (folder / "model.onnx").write_bytes(content)
    found = order_for(folder / "model.onnx", Format.ONNX, Target.CPU, (X,), (Y,))
    assert isinstance(found, Order), found
    return Order(**{**vars(found), **changes})  # type: ignore[arg-type]


def interpreter(folder: Path, body: str) -> str:
    """A Python that does something else than it is told."""
    path = folder / "python"
    path.write_text(f"#!{sys.executable}\n{body}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def test_a_model_answers_and_outlives_a_request_that_it_refuses(tmp_path: Path) -> None:
    with ModelProcess(order(tmp_path, onnx_models.linear())) as process:
        assert process.backend == "onnxruntime/CPUExecutionProvider"
        assert process.run({"x": np.ones((2, 3), "<f4")})["y"].tolist() == [[6, 60], [6, 60]]
        with pytest.raises(ModelRunError, match=r"(?i)rank|dim"):
            process.run({"x": np.ones((2, 4), "<f4")})
        assert process.run({"x": np.ones((1, 3), "<f4")})["y"].tolist() == [[6, 60]]
        pid = process._process.pid
    assert is_gone(pid)


def test_a_model_runs_in_the_sandbox_of_devices(tmp_path: Path) -> None:
    with ModelProcess(order(tmp_path, onnx_models.linear())) as process:
        process.run({"x": np.ones((1, 3), "<f4")})
        of_process = Path(f"/proc/{process._process.pid}")
        assert "NoNewPrivs:\t1" in (of_process / "status").read_text()
        limits = (of_process / "limits").read_text()
        assert "Max core file size        0 " in limits
        assert f"Max address space         {memory_of_host()} " in limits


def test_what_cannot_be_loaded_says_why(tmp_path: Path) -> None:
    with pytest.raises(CannotRunError, match=r"(?i)protobuf|model"):
        ModelProcess(order(tmp_path, b"no model"))
    with pytest.raises(CannotRunError, match="has no ACLExecutionProvider"):
        ModelProcess(order(tmp_path, onnx_models.linear(), device="ACLExecutionProvider"))
    with pytest.raises(CannotRunError, match="cannot be started"):
        ModelProcess(order(tmp_path, onnx_models.linear(), interpreter=str(tmp_path / "absent")))
    with pytest.raises(CannotRunError, match="cannot be imported"):
        ModelProcess(order(tmp_path, onnx_models.linear(), runtime="mindspore", device="CPU"))


def test_a_process_that_dies_or_hangs_is_a_reason_and_is_gone(tmp_path: Path) -> None:
    dying = interpreter(tmp_path, "import os; os.write(2, b'driver lost'); os._exit(7)")
    with pytest.raises(CannotRunError, match="status 7: driver lost"):
        ModelProcess(order(tmp_path, onnx_models.linear(), interpreter=dying))
    hanging = interpreter(tmp_path, "import sys; sys.stdin.read()")
    with pytest.raises(CannotRunError, match="did not answer in time"):
        ModelProcess(order(tmp_path, onnx_models.linear(), interpreter=hanging), load_timeout_s=0.3)
    process = ModelProcess(order(tmp_path, onnx_models.linear()))
    process._process.kill()
    with pytest.raises(ModelRunError, match="ended"):
        process.run({"x": np.ones((1, 3), "<f4")})
    process.close()
    process.close()


RULE = "-" * 52
STACK = f"Memory not enough. {RULE} - C++ Call Stack: (For framework developers) {RULE} graph_scheduler.cc:1200 Run"


def test_mindspores_call_stack_is_not_told(tmp_path: Path) -> None:
    says = """import json, os, struct, sys
def say(payload): os.write(1, struct.pack("<I", len(payload)) + payload)
say(json.dumps({!r}).encode())
say(b"\\1" + {!r}.encode())
sys.stdin.buffer.read()"""
    refusing = interpreter(tmp_path, says.format({"error": STACK}, ""))
    with pytest.raises(CannotRunError) as cannot:
        ModelProcess(order(tmp_path, onnx_models.linear(), interpreter=refusing))
    assert cannot.value.message == "Memory not enough."
    failing = interpreter(tmp_path, says.format({"provider": "CPU"}, STACK))
    with ModelProcess(order(tmp_path, onnx_models.linear(), interpreter=failing)) as process:
        with pytest.raises(ModelRunError) as failed:
            process.run({"x": np.ones((1, 3), "<f4")})
    assert failed.value.message == "Memory not enough."


@pytest.mark.parametrize(
    ("model_format", "target", "datatype", "says"),
    [
        (Format.MINDSPORE_CKPT, Target.CPU, Datatype.FP32, "the code that builds its network"),
        (Format.AIR, Target.ASCEND310, Datatype.FP32, "runs nowhere"),
        (Format.OM, Target.ASCEND310, Datatype.FP32, "Ascend chip only"),
        (Format.TENSORRT_PLAN, Target.GPU, Datatype.FP32, "its GPU only"),
        (Format.ONNX, Target.ASCEND310, Datatype.FP32, "on such a device only"),
        (Format.ONNX, Target.CPU, Datatype.BYTES, "BYTES, BF16 or 8-bit"),
        (Format.MINDIR, Target.CPU, Datatype.FP32, MINDSPORE_VARIABLE),
    ],
)
def test_what_only_devices_run_is_said(
    monkeypatch: pytest.MonkeyPatch, model_format: Format, target: Target, datatype: Datatype, says: str
) -> None:
    monkeypatch.delenv(MINDSPORE_VARIABLE, raising=False)
    why = order_for(Path("m"), model_format, target, (X.model_copy(update={"datatype": datatype}),), (Y,))
    assert isinstance(why, str)
    assert says in why


@needs_mindspore
def test_a_checkpoint_answers_through_its_network_of_the_catalogue(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """With every weight w and pixels of 1 all values of a layer are equal, and follow from the one before."""
    monkeypatch.setenv(MINDSPORE_VARIABLE, PYTHON)
    network, w = Network(name="lenet5"), 0.02
    shapes = networks.parameters(network)
    (tmp_path / "lenet.safetensors").write_bytes(checkpoints.safetensors(shapes, w))
    value = 1.0
    for layer, inputs in (("conv1", 25), ("conv2", 6 * 25), ("fc1", 400), ("fc2", 120), ("fc3", 84)):
        value = inputs * w * value + (w if f"{layer}.bias" in shapes else 0)
    spec = TensorSpec(name="x", datatype=Datatype.FP32, shape=(-1, 1, 32, 32))
    found = order_for(tmp_path / "lenet.safetensors", Format.MINDSPORE_CKPT, Target.CPU, (spec,), (Y,), network=network)
    assert isinstance(found, Order)
    with ModelProcess(found) as process:
        answer = process.run({"x": np.ones((3, 1, 32, 32), "<f4")})["y"]
    np.testing.assert_allclose(answer, np.full((3, 10), value), rtol=1e-5)
    (tmp_path / "lenet.safetensors").write_bytes(checkpoints.safetensors(shapes | {"conv1.weight": (6, 1, 3, 3)}, w))
    with pytest.raises(CannotRunError, match=r"conv1\.weight is"):
        ModelProcess(found)


@needs_mindspore
def test_a_mindir_answers_through_mindspores_own_python(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(MINDSPORE_VARIABLE, PYTHON)
    file = DATA / "conv-dynamic.mindir"
    specs = (TensorSpec(name="x", datatype=Datatype.FP32, shape=(-1, 1, 8, 8)),)
    found = order_for(file, Format.MINDIR, Target.CPU, specs, (Y,))
    assert isinstance(found, Order)
    with ModelProcess(found) as process:
        assert process.backend == "mindspore/CPU"
        x = np.linspace(0, 1, 5 * 64, dtype="<f4").reshape(5, 1, 8, 8)
        together = process.run({"x": x})["y"]
        assert together.shape == (5, 3)
        np.testing.assert_allclose(process.run({"x": x[3:4]})["y"], together[3:4], rtol=1e-4, atol=1e-6)
        with pytest.raises(ModelRunError):
            process.run({"x": np.ones((1, 3), "<f4")})
