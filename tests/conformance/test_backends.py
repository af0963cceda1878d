"""What every backend must do, run on each of the catalogue that works on this host, and on simulated accelerators.

Those are strict stand-ins for pyACL and for TensorRT with CUDA that compute through ONNX Runtime: they show that a
backend keeps to the vendor's documented contract, and nothing about the hardware. Their tests are called `simulated`.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest

from agent.backends.base import NUMPY_DTYPES, RAW, BackendError, BackendSession, LoadOptions, TensorInfo
from agent.backends.catalog import CATALOG, open_backend
from agent.backends.ort import open_model
from agent.backends.tensorrt_plan import DATATYPES as TENSORRT_DATATYPES
from registry.contracts.catalogue.manifest import Format, Target
from registry.contracts.fit.platforms import BackendFacts
from tests.fakes.simulated_acl.in_process import simulated_acl
from tests.fakes.simulated_acl.om import simulated_om
from tests.fakes.simulated_tensorrt.in_process import simulated_tensorrt
from tests.fakes.simulated_tensorrt.plan import simulated_plan
from tests.support.models import onnx_models

USABLE = [name for name in CATALOG if open_backend(name).probe().usable]
SAMPLES_AS_THEY_ARE = [name for name in USABLE if "onnx" in CATALOG[name].formats]
SIMULATED = {"ascend_acl": simulated_acl, "tensorrt_plan": simulated_tensorrt}
"""They run the same samples, wrapped as OM files and plans: the contract, not the hardware."""
TARGETS = {"ascend_acl": "ascend310", "tensorrt_plan": "gpu"}
ALL = [*SAMPLES_AS_THEY_ARE, *(pytest.param(name, id=f"{name}-simulated") for name in SIMULATED)]
BATCH = b"N"
"""What the samples call a dynamic leading dimension."""
OPEN: list[BackendSession] = []


@pytest.fixture(params=ALL)
def name(request: pytest.FixtureRequest) -> Iterator[str]:
    with SIMULATED.get(request.param, nullcontext)():
        yield request.param
        while OPEN:
            OPEN.pop().close()


with_any_tensor = pytest.mark.parametrize("name", SAMPLES_AS_THEY_ARE, indirect=True)
"""For backends of formats that have strings and empty tensors; OM and plans have neither."""
where_a_bad_index_fails_the_run = pytest.mark.parametrize(
    "name", [param for param in ALL if param != ALL[-1]], indirect=True
)
"""On a GPU it is undefined, or breaks the process: tests/unit/agent/backends/test_tensorrt_plan.py has that."""


def load(name: str, directory: Path, content: bytes, options: LoadOptions | None = None) -> BackendSession:
    options = options or LoadOptions()
    if name in SIMULATED:
        content = wrapped(name, content)
        options = options if options.target != "cpu" else options._replace(target=TARGETS[name])
    session = open_backend(name).load(onnx_models.write(directory, content), "model.onnx", options)
    OPEN.append(session)
    return session


def wrapped(name: str, content: bytes) -> bytes:
    """As a file of the simulated vendor."""
    dynamic = BATCH in content
    if name == "ascend_acl":
        return simulated_om(content, gears=(1, 2, 4) if dynamic else ())
    return simulated_plan(content, [batches(content)] if dynamic else ())


def batches(content: bytes) -> dict[str, list[list[int]]]:
    """An optimisation profile for the batches 1 to 4."""
    try:
        inputs = open_model(content, LoadOptions()).inputs
    except BackendError:
        return {}  # one of the bad artifacts
    return {t.name: [[size if dim == -1 else dim for dim in t.shape] for size in (1, 2, 4)] for t in inputs}


def test_this_host_has_the_cpu_backend() -> None:
    assert "onnxruntime" in USABLE


@pytest.mark.parametrize("entry", CATALOG)
def test_a_probe_is_facts_that_the_registry_understands(entry: str) -> None:
    probe = open_backend(entry).probe()
    facts = BackendFacts.model_validate({**probe._asdict(), "name": entry, "formats": CATALOG[entry].formats})
    assert facts.usable or facts.reason
    assert set(facts.formats) <= set(Format)
    assert set(facts.targets) <= set(Target)


def test_a_usable_backend_says_what_it_is(name: str) -> None:
    probe = open_backend(name).probe()
    assert probe.version
    assert probe.targets
    assert probe.providers


def test_every_format_finds_its_backends() -> None:
    found = {name: backend for backend, entry in CATALOG.items() for name in entry.formats}
    assert found == {"onnx": "onnxruntime", "mindir": "mindspore", "mindspore-ckpt": "mindspore",
                     "tensorrt-plan": "tensorrt_plan", "om": "ascend_acl"}  # fmt: skip
    with pytest.raises(BackendError, match="no backend is named 'nothing'") as caught:
        open_backend("nothing")
    assert caught.value.code == "backend_unavailable"


def test_a_session_tells_its_signature_and_computes(name: str, tmp_path: Path) -> None:
    session = load(name, tmp_path, onnx_models.linear())
    assert session.inputs == (TensorInfo("x", "FP32", (-1, 3)),)
    assert session.outputs == (TensorInfo("y", "FP32", (-1, 2)),)
    (result,) = session.run({"x": np.array([[1, 0, 0], [1, 1, 1]], np.float32)}, ["y"])
    assert result.tolist() == [[1, 10], [6, 60]]


@pytest.mark.parametrize("datatype", [kind for kind in NUMPY_DTYPES if kind not in ("BYTES", "FP8E8M0")])
def test_every_number_datatype_goes_in_and_out_bit_for_bit(name: str, tmp_path: Path, datatype: str) -> None:
    if name == "tensorrt_plan" and datatype not in TENSORRT_DATATYPES.values():
        with pytest.raises(BackendError):
            load(name, tmp_path, onnx_models.one_op("Identity", ["N", 4], datatype))
        return
    if name == "ascend_acl" and datatype in RAW - {"BF16"}:
        pytest.skip("the simulated pyACL has no 8-bit floats")
    session = load(name, tmp_path, onnx_models.one_op("Identity", ["N", 4], datatype))
    assert session.inputs[0].datatype == datatype
    size = np.dtype(NUMPY_DTYPES[datatype]).itemsize
    raw = bytes([0, 1] * (4 * size)) if datatype == "BOOL" else bytes(range(1, 8 * size + 1))
    given = np.frombuffer(raw[: 8 * size], NUMPY_DTYPES[datatype]).reshape(2, 4)
    (result,) = session.run({"x": given}, ["y"])
    assert result.shape == (2, 4)
    assert result.tobytes() == given.tobytes()


@with_any_tensor
@pytest.mark.parametrize("datatype", ["FP32", "BF16", "BYTES"])
def test_empty_and_scalar_tensors(name: str, tmp_path: Path, datatype: str) -> None:
    dtype = NUMPY_DTYPES[datatype]
    session = load(name, tmp_path / "empty", onnx_models.one_op("Identity", ["N", 4], datatype))
    (result,) = session.run({"x": np.empty((0, 4), dtype)}, ["y"])
    assert result.shape == (0, 4)
    session = load(name, tmp_path / "scalar", onnx_models.one_op("Identity", [], datatype))
    scalar = np.full((), b"a" if datatype == "BYTES" else 1, dtype)
    (result,) = session.run({"x": scalar}, ["y"])
    assert result.shape == ()
    assert result.tolist() == scalar.tolist()


@with_any_tensor
def test_strings_are_bytes_outside(name: str, tmp_path: Path) -> None:
    session = load(name, tmp_path, onnx_models.one_op("Identity", ["N"], "BYTES"))
    given = np.array([b"", "é✓".encode(), b"a\0b"], dtype=object)
    (result,) = session.run({"x": given}, ["y"])
    assert result.tolist() == given.tolist()
    with pytest.raises(BackendError, match="not UTF-8") as caught:
        session.run({"x": np.array([b"\xff"], dtype=object)}, ["y"])
    assert caught.value.code == "bad_payload"


@with_any_tensor
def test_mixed_datatypes_and_the_order_of_outputs(name: str, tmp_path: Path) -> None:
    session = load(name, tmp_path, onnx_models.two_by_two())
    ones = np.ones((2, 3), np.float32)
    feeds = {"a": ones, "b": ones, "text": np.array([b"t"], dtype=object)}
    copy, total = session.run(feeds, ["copy", "sum"])
    assert copy.tolist() == [b"t"]
    assert total.tolist() == [[2, 2, 2], [2, 2, 2]]


@where_a_bad_index_fails_the_run
def test_a_failing_run_raises_and_the_session_goes_on(name: str, tmp_path: Path) -> None:
    session = load(name, tmp_path, onnx_models.gather_rows())
    with pytest.raises(BackendError) as caught:
        session.run({"x": np.array([99], np.int64)}, ["y"])
    assert caught.value.code == "run_failed"
    assert caught.value.message
    (result,) = session.run({"x": np.array([1], np.int64)}, ["y"])
    assert result.tolist() == [[2, 3]]


def test_threads_share_a_session(name: str, tmp_path: Path) -> None:
    session = load(name, tmp_path, onnx_models.linear())
    assert session.concurrent is (name not in SIMULATED)

    def run(value: int) -> list[list[float]]:
        return session.run({"x": np.full((1, 3), value, np.float32)}, ["y"])[0].tolist()  # type: ignore[no-any-return]

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(run, range(200))) == [[[6 * value, 60 * value]] for value in range(200)]


def test_the_latency_profile_computes_the_same(name: str, tmp_path: Path) -> None:
    session = load(name, tmp_path, onnx_models.linear(), LoadOptions(profile="latency", cores=2))
    assert session.run({"x": np.ones((1, 3), np.float32)}, ["y"])[0].tolist() == [[6, 60]]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"garbage" * 100,
        onnx_models.linear()[:60],
        onnx_models.overflowing_dimensions(),
        onnx_models.sequence_output(),
        onnx_models.external("/etc/passwd"),
        onnx_models.external("../secret.bin"),
        onnx_models.external("missing.bin"),
    ],
    ids=["empty", "garbage", "truncated", "overflow", "sequence", "absolute", "dotdot", "missing"],
)
def test_a_bad_artifact_is_refused_with_words(name: str, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "secret.bin").write_bytes(bytes(12))
    with pytest.raises(BackendError) as caught:
        load(name, tmp_path / "artifact", content)
    assert caught.value.code == "load_failed"
    assert 10 < len(caught.value.message) < 600


def test_a_target_that_this_build_has_no_provider_for_is_never_silently_the_cpu(name: str, tmp_path: Path) -> None:
    unavailable = {"gpu", "ascend910"} - set(open_backend(name).probe().targets)
    for target in unavailable:
        with pytest.raises(BackendError) as caught:
            load(name, tmp_path, onnx_models.linear(), LoadOptions(target=target))
        assert caught.value.code in {"backend_unavailable", "load_failed"}


def test_closing_twice_is_fine(name: str, tmp_path: Path) -> None:
    session = load(name, tmp_path, onnx_models.linear())
    session.close()
    session.close()
