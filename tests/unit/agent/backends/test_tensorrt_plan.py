"""The TensorRT backend against a SIMULATED TensorRT and CUDA that check the documented contract. No GPU ran this."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from agent.backends.base import BackendError, LoadOptions, TensorInfo
from agent.backends.tensorrt_cuda import CudaError
from agent.backends.tensorrt_plan import TensorRtPlan, TensorRtSession, check_build
from tests.fakes.simulated_tensorrt.in_process import simulated_tensorrt
from tests.fakes.simulated_tensorrt.plan import SIMULATED_VERSION, simulated_plan
from tests.support.models import onnx_models

Load = Callable[..., TensorRtSession]
ON_GPU = LoadOptions(target="gpu")
PROVIDER = "TensorRT 10.13.3.9 on compute capability 8.6"


def batches(smallest: int, best: int, largest: int, width: int = 3) -> dict[str, list[list[int]]]:
    return {"x": [[smallest, width], [best, width], [largest, width]]}


@pytest.fixture
def trt() -> Iterator[Any]:
    with simulated_tensorrt() as module:
        yield module


@pytest.fixture
def load(trt: Any, tmp_path: Path) -> Iterator[Load]:
    sessions: list[TensorRtSession] = []

    def _load(content: bytes, **build: str) -> TensorRtSession:
        (tmp_path / "model.plan").write_bytes(content)
        sessions.append(TensorRtPlan().load(str(tmp_path), "model.plan", ON_GPU._replace(build=build)))
        return sessions[-1]

    yield _load
    trt.GPU.faults.clear()
    trt.GPU.broken = 0
    while sessions:
        sessions.pop().close()


def ones(batch: int) -> dict[str, Any]:
    return {"x": np.ones((batch, 3), np.float32)}


def test_a_simulated_probe_names_version_and_gpu_and_gives_everything_back(trt: Any) -> None:
    probe = TensorRtPlan().probe()
    assert (probe.usable, probe.reason, probe.targets) == (True, "", ("gpu",))
    assert (probe.version, probe.providers) == (SIMULATED_VERSION, (PROVIDER,))
    assert trt.GPU.alive() == {}


@pytest.mark.parametrize(
    ("call", "number", "words"),
    [
        ("cudaGetDeviceCount", 35, "the driver is older than this CUDA"),
        ("cudaSetDevice", 803, "driver and library do not fit"),
        ("cudaMalloc", 2, "out of memory"),
        ("cudaStreamSynchronize", 700, "an illegal address"),
    ],
)
def test_a_simulated_gpu_that_fails_the_probe_is_unusable_with_cudas_number(
    trt: Any, call: str, number: int, words: str
) -> None:
    trt.GPU.faults[call] = number
    probe = TensorRtPlan().probe()
    assert not probe.usable
    assert f"{call} failed with {number} ({words}" in probe.reason


def test_a_simulated_host_without_a_gpu_is_unusable(trt: Any) -> None:
    trt.GPU.gpus = 0
    assert "CUDA finds no GPU" in TensorRtPlan().probe().reason


@pytest.mark.parametrize("missing", ["tensorrt", "cuda.bindings.runtime"])
def test_without_a_package_the_probe_says_what_to_install(
    trt: Any, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    monkeypatch.setitem(sys.modules, "cuda.cudart", None)
    probe = TensorRtPlan().probe()
    assert not probe.usable
    assert "install the packages tensorrt" in probe.reason


def test_a_tensorrt_before_the_name_based_api_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    old = ModuleType("tensorrt")
    old.__version__ = "8.4.3.1"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tensorrt", old)
    assert "TensorRT 8.4.3.1 is older than 8.5" in TensorRtPlan().probe().reason


def test_a_static_simulated_plan_computes(load: Load) -> None:
    session = load(simulated_plan(onnx_models.linear(2)))
    assert session.inputs == (TensorInfo("x", "FP32", (2, 3)),)
    assert session.outputs == (TensorInfo("y", "FP32", (2, 2)),)
    assert (session.provider, session.concurrent) == (PROVIDER, False)
    (result,) = session.run({"x": np.array([[1, 0, 0], [1, 1, 1]], np.float32)}, ["y"])
    assert result.tolist() == [[1, 10], [6, 60]]


def test_simulated_profiles_are_chosen_by_the_shapes_of_a_request(trt: Any, load: Load) -> None:
    session = load(simulated_plan(onnx_models.linear(), [batches(1, 1, 2), batches(4, 8, 8)]))
    assert session.inputs == (TensorInfo("x", "FP32", (-1, 3)),)
    for batch in (8, 1, 2, 5, 4):
        given = np.arange(batch * 3, dtype=np.float32).reshape(batch, 3)
        (result,) = session.run({"x": given}, ["y"])
        assert result.tolist() == (given @ np.array([[1, 10], [2, 20], [3, 30]])).tolist()
    for batch in (0, 3, 9):
        with pytest.raises(BackendError, match="no optimisation profile of the plan holds") as caught:
            session.run(ones(batch), ["y"])
        assert caught.value.code == "wrong_shape"


@pytest.mark.parametrize(
    ("feeds", "code"),
    [
        ({}, "missing_input"),
        ({"x": np.ones((2, 3), np.float64)}, "wrong_datatype"),
        ({"x": np.ones((2, 4), np.float32)}, "wrong_shape"),
        ({"x": np.ones(6, np.float32)}, "wrong_shape"),
    ],
)
def test_nothing_of_the_wrong_size_reaches_the_simulated_gpu(
    trt: Any, load: Load, feeds: dict[str, Any], code: str
) -> None:
    session = load(simulated_plan(onnx_models.linear(2)))
    with pytest.raises(BackendError) as caught:
        session.run(feeds, ["y"])
    assert caught.value.code == code
    assert "cudaMemcpyAsync" not in trt.GPU.calls


def test_threads_take_turns_and_each_binds_the_simulated_gpu(load: Load) -> None:
    session = load(simulated_plan(onnx_models.linear(1)))
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda value: session.run({"x": np.full((1, 3), value, np.float32)}, ["y"]), range(50)))
    assert [result.tolist() for (result,) in results] == [[[6 * value, 60 * value]] for value in range(50)]
    with ThreadPoolExecutor(1) as pool:
        pool.submit(session.close).result()
    with pytest.raises(BackendError, match="closed"):
        session.run(ones(1), ["y"])


def test_inputs_that_are_not_contiguous_arrive_in_order_simulated(load: Load) -> None:
    session = load(simulated_plan(onnx_models.linear(2)))
    given = np.asfortranarray(np.arange(12, dtype=np.float32).reshape(4, 3))[::2]
    assert session.run({"x": given}, ["y"])[0].tolist() == [[8, 80], [44, 440]]


def with_description(content: bytes, text: bytes = b'{"task": "detect", "names": {"0": "cat"}}') -> bytes:
    """As ultralytics writes an engine."""
    return len(text).to_bytes(4, "little", signed=True) + text + content


def test_the_description_in_front_of_a_simulated_plan_is_skipped(load: Load) -> None:
    session = load(with_description(simulated_plan(onnx_models.linear(2))))
    assert (
        session.run(ones(2), ["y"])[0].tolist()
        == load(simulated_plan(onnx_models.linear(2))).run(ones(2), ["y"])[0].tolist()
    )


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (with_description(b"garbage"), "Magic tag does not match"),
        (with_description(simulated_plan(onnx_models.linear(2)), b"[1]"), "Magic tag does not match"),
        (b"garbage", "Magic tag does not match"),
        (simulated_plan(onnx_models.linear(2))[:-9], "ends too early"),
        (simulated_plan(onnx_models.linear(2), capability=(7, 5)), "expecting compute 7.5 got compute 8.6"),
        (simulated_plan(onnx_models.linear(2), version="10.0.0.1"), "not compatible with this version of TensorRT"),
        (simulated_plan(onnx_models.linear(2), host_code=True), "the plan contains host code"),
        (simulated_plan(onnx_models.linear(2), on_host=["x"]), "'x' is a shape tensor on the host"),
        (simulated_plan(onnx_models.linear(2), vectorized=["y"]), "'y' is not linear in memory"),
        (simulated_plan(onnx_models.linear(2), dtype={"x": "FP8"}), "'x' is a FP8"),
        (simulated_plan(onnx_models.linear(), [batches(1, 1, 2)], data_dependent=["y"]), "depends on the data"),
        (simulated_plan(onnx_models.linear(), [{"x": []}]), "says nothing of input 'x'"),
        (b"", "the plan has 0 bytes"),
    ],
    ids=[
        "described",
        "other-front",
        "garbage",
        "cut",
        "gpu",
        "version",
        "code",
        "host",
        "format",
        "fp8",
        "data",
        "profile",
        "empty",
    ],
)
def test_a_simulated_plan_that_cannot_run_is_refused_with_tensorrts_words(
    trt: Any, load: Load, content: bytes, words: str
) -> None:
    with pytest.raises(BackendError) as caught:
        load(content)
    assert words in caught.value.message
    assert caught.value.code == "load_failed"
    assert trt.GPU.alive() == {}


@pytest.mark.parametrize("call", ["cudaSetDevice", "cudaStreamCreateWithFlags", "cudaMalloc", "cudaStreamSynchronize"])
def test_a_simulated_load_that_fails_anywhere_gives_everything_back(trt: Any, load: Load, call: str) -> None:
    trt.GPU.faults[call] = 2
    with pytest.raises(BackendError) as caught:
        load(simulated_plan(onnx_models.linear(), [batches(1, 1, 2), batches(1, 1, 4)]))
    assert caught.value.code in ("backend_unavailable", "overloaded")
    trt.GPU.faults.clear()
    assert trt.GPU.alive() == {}


def test_a_simulated_run_that_fails_in_the_middle_leaves_nothing_copying(trt: Any, load: Load) -> None:
    session = load(simulated_plan(onnx_models.linear(2)))
    x = np.ones((2, 3), np.float32)
    session.run({"x": x}, ("y",))
    trt.GPU.faults["cudaMemcpyAsync"] = 2
    trt.GPU.calls.clear()
    with pytest.raises(BackendError):
        session.run({"x": x}, ("y",))
    trt.GPU.faults.clear()
    assert trt.GPU.calls[-2:] == ["cudaMemcpyAsync", "cudaStreamSynchronize"]
    assert session.run({"x": x}, ("y",))[0].tolist() == [[6.0, 60.0]] * 2


def test_a_simulated_gpu_without_memory_for_the_context_or_the_tensors_says_so(trt: Any, load: Load) -> None:
    with pytest.raises(BackendError, match="makes no execution context: simulated: out of memory") as caught:
        load(simulated_plan(onnx_models.linear(2), no_context=True))
    assert caught.value.code == "backend_unavailable"
    trt.GPU.memory_left = 20
    with pytest.raises(BackendError, match=r"retry: cudaMalloc failed with 2 \(out of memory\)"):
        load(simulated_plan(onnx_models.linear(2)))


def test_a_simulated_run_that_tensorrt_refuses_leaves_a_session_that_can_be_closed(load: Load) -> None:
    session = load(simulated_plan(onnx_models.linear(2), refuses_to_run=True))
    with pytest.raises(BackendError, match="enqueueV3") as caught:
        session.run(ones(2), ["y"])
    assert caught.value.code == "run_failed"


def test_a_simulated_gpu_that_broke_says_so_to_every_later_request(load: Load) -> None:
    session = load(simulated_plan(onnx_models.gather_rows(), [{"x": [[1], [1], [4]]}]))
    assert session.run({"x": np.array([1], np.int64)}, ["y"])[0].tolist() == [[2, 3]]
    for row in (99, 1):
        with pytest.raises(BackendError, match=r"device_unhealthy.*700") as caught:
            session.run({"x": np.array([row], np.int64)}, ["y"])
        assert caught.value.code == "model_not_ready"


@pytest.mark.parametrize(
    ("build", "words"),
    [
        ({"tensorrt_version": "10.0.0.1"}, "built by TensorRT 10.0.0.1, this host has 10.13.3.9"),
        ({"tensorrt_version": "10.14.0.0", "tensorrt_version_compatible": "True"}, "built by TensorRT 10.14"),
        ({"tensorrt_version": "9.3.0.0", "tensorrt_version_compatible": "True"}, "built by TensorRT 9.3"),
        ({"compute_capability": "8.9"}, "built for compute capability 8.9, this GPU has 8.6"),
        ({"compute_capability": "8.9", "hardware_compat": "same_compute_capability"}, "capability 8.9"),
    ],
)
def test_a_plan_for_another_host_is_refused_before_simulated_tensorrt_sees_it(
    trt: Any, load: Load, build: dict[str, str], words: str
) -> None:
    with pytest.raises(BackendError, match=words) as caught:
        load(simulated_plan(onnx_models.linear(2)), **build)
    assert caught.value.code == "load_failed"
    assert trt.ILogger.first is None


@pytest.mark.parametrize(
    "build",
    [
        {},
        {"tensorrt_version": "10.13.3.9", "compute_capability": "8.6"},
        {"tensorrt_version": "10.2.0.1", "tensorrt_version_compatible": "True"},
        {"tensorrt_version": "8.6.1", "tensorrt_version_compatible": "True"},
        {"compute_capability": "8.0", "hardware_compat": "ampere_plus"},
    ],
)
def test_a_plan_that_its_build_allows_on_this_host_is_tried(build: dict[str, str]) -> None:
    check_build(build, "10.13.3.9", "8.6")


def test_a_plan_is_only_for_a_gpu_and_a_missing_file_is_named(trt: Any, tmp_path: Path) -> None:
    with pytest.raises(BackendError, match="not on 'cpu'"):
        TensorRtPlan().load(str(tmp_path), "model.plan", LoadOptions())
    with pytest.raises(BackendError, match="No such file"):
        TensorRtPlan().load(str(tmp_path), "model.plan", ON_GPU)


@pytest.mark.parametrize(("number", "family"), [(2, "retry"), (719, "device_unhealthy"), (1, "call_failed")])
def test_cudas_numbers_fall_into_families(number: int, family: str) -> None:
    assert CudaError.family_of(number) == family


def test_the_simulated_tensorrt_is_strict(trt: Any, load: Load) -> None:
    cuda = sys.modules["cuda.bindings.runtime"]
    violation = cuda.SimulatedContractViolation
    session = load(simulated_plan(onnx_models.linear(), [batches(1, 1, 2)]))
    context, stream = session._engine.create_execution_context(), session._stream
    with pytest.raises(violation, match="before set_tensor_address"):
        context.execute_async_v3(stream)
    for tensor in session._tensors.values():
        context.set_tensor_address(tensor.info.name, tensor.pointer)
    with pytest.raises(violation, match="before set_input_shape"):
        context.execute_async_v3(stream)
    context.set_input_shape("x", (1, 3))
    assert context.execute_async_v3(stream)
    with pytest.raises(violation, match="before its stream was synchronised"):
        context.execute_async_v3(stream)
    with pytest.raises(violation, match="while a stream still has work"):
        cuda.cudaFree(session._tensors["x"].pointer)
    with pytest.raises(violation, match="cudaStreamDestroy before"):
        cuda.cudaStreamDestroy(stream)
    with pytest.raises(violation, match="no live stream"):
        context.execute_async_v3(0)
    cuda.cudaStreamSynchronize(stream)
    with pytest.raises(violation, match="freed before or never taken"):
        cuda.cudaFree(1)
    with pytest.raises(violation, match="differs from one already registered"):
        trt.Runtime(trt.Logger())
    with ThreadPoolExecutor(1) as pool, pytest.raises(violation, match="did not call cudaSetDevice"):
        pool.submit(cuda.cudaMalloc, 1).result()
    del context
