"""MindIR models in real workers with a real MindSpore, on the CPU; skipped where there is none."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

from agent.errors import AgentError
from agent.worker.channel import ArenaTensor
from agent.worker.handle import probe_backend, start_worker
from agent.worker.measure import Measurement
from agent.worker.spec import Worker, WorkerSpec
from registry.contracts.catalogue.manifest import TensorSpec
from registry.contracts.tensors import Datatype
from tests.support.clients import worker_client
from tests.support.models.mindspore_python import PYTHON, needs_mindspore
from tests.support.paths import ROOT

pytestmark = needs_mindspore

LENET = ROOT / "scripts" / "models" / "lenet" / "lenet.onnx"
X = TensorSpec(name="x", datatype=Datatype.FP32, shape=(-1, 1, 28, 28))
Y = TensorSpec(name="y", datatype=Datatype.FP32, shape=(-1, 10))
KNOWN = Measurement(run_us=2000.0, max_batch=2, lanes=1, fixed=True)


def mindspore_models(*arguments: object) -> None:
    script = ROOT / "tests" / "support" / "models" / "mindspore_models.py"
    subprocess.run([PYTHON, "-I", str(script), *map(str, arguments)], check=True, timeout=100, capture_output=True)


@pytest.fixture(scope="module")
def lenet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """LeNet as MindIR, with the weights of the ONNX file."""
    folder = tmp_path_factory.mktemp("lenet")
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(LENET).graph.initializer}
    np.savez(folder / "weights.npz", **weights)  # type: ignore[arg-type]  # NumPy's stub takes them for its switch
    mindspore_models("lenet", folder / "weights.npz", folder / "lenet.mindir")
    return folder / "lenet.mindir"


@pytest.fixture(scope="module")
def spoilt(lenet: Path) -> Path:
    folder = lenet.parent / "spoilt"
    folder.mkdir()
    mindspore_models("spoil", lenet, folder)
    return folder


def spec(folder: Path, file: Path, **options: object) -> WorkerSpec:
    artifact = folder / f"artifact-{file.stem}"
    artifact.mkdir()
    shutil.copy(file, artifact / "model.mindir")
    standard = {"interpreter": PYTHON, "inputs": (X,), "outputs": (Y,), "known": KNOWN}
    return WorkerSpec("lenet", "mindspore", str(artifact), "model.mindir", **{**standard, **options})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory, lenet: Path) -> Iterator[Worker]:
    started = start_worker(spec(tmp_path_factory.mktemp("worker"), lenet, known=None, cores=2))
    yield started
    started.close(5.0)


def test_the_probe_finds_the_cpu_by_computing_on_it() -> None:
    facts = probe_backend("mindspore", PYTHON)
    assert facts.usable, facts.reason
    assert "cpu" in facts.targets
    assert facts.version


def test_a_mindir_gives_what_its_onnx_sibling_gives_under_the_manifests_names(worker: Worker) -> None:
    session = onnxruntime.InferenceSession(LENET, providers=["CPUExecutionProvider"])
    assert (worker.inputs, worker.outputs) == ((X,), (Y,))
    for count in (1, 2, 7):
        items = np.random.default_rng(count).random((count, 1, 28, 28), dtype=np.float32)
        reply = worker_client.arena(worker, ArenaTensor("x", "FP32", items.shape, items.tobytes()))["y"]
        mine = np.frombuffer(reply.data, np.float32).reshape(reply.shape)
        (reference,) = session.run(None, {"x": items})
        assert np.abs(mine - reference).max() < 1e-4
        assert (mine.argmax(1) == reference.argmax(1)).all()


def test_one_lane_and_a_worker_that_is_confined(worker: Worker) -> None:
    assert len(worker.lanes) == 1
    assert worker.provider == "MindSpore CPU"
    assert worker.confined.startswith(("landlock", "no Landlock: "))


def test_neighbouring_slots_are_answered_each_for_itself(worker: Worker) -> None:
    items = np.random.default_rng(0).random((8, 1, 28, 28), dtype=np.float32)
    for slot, item in enumerate(items):
        worker_client.put(worker, slot, item)
    assert sorted(worker_client.ring(worker, range(8))) == list(range(8))
    session = onnxruntime.InferenceSession(LENET, providers=["CPUExecutionProvider"])
    (reference,) = session.run(None, {"x": items})
    mine = [worker_client.get(worker, slot) for slot in range(8)]
    assert np.abs(np.array(mine, np.float32) - reference).max() < 1e-4


def test_a_fixed_batch_is_not_exceeded_in_silence(tmp_path: Path) -> None:
    conv = ROOT / "tests" / "data" / "conv.mindir"
    running = start_worker(spec(tmp_path, conv, inputs=(), outputs=()))
    try:
        assert running.inputs[0].shape == (1, 1, 8, 8)
        items = np.zeros((3, 1, 8, 8), np.float32)
        refused = worker_client.arena(
            running, ArenaTensor(running.inputs[0].name, "FP32", items.shape, items.tobytes())
        )
        assert refused[0] == "wrong_shape"
    finally:
        running.close(5.0)


def test_a_network_that_returns_a_tuple_has_as_many_outputs(tmp_path: Path) -> None:
    two = ROOT / "tests" / "data" / "two.mindir"
    names = [TensorSpec(name=name, datatype=Datatype.FP32, shape=(2, 3)) for name in ("a", "b", "sum", "product")]
    running = start_worker(spec(tmp_path, two, inputs=tuple(names[:2]), outputs=tuple(names[2:]), known=None))
    try:
        raw = np.full((2, 3), 3, np.float32).tobytes()
        given = [ArenaTensor(name, "FP32", (2, 3), raw) for name in ("a", "b")]
        reply = worker_client.arena(running, *given, outputs=["product", "sum"])
        found = {name: np.frombuffer(tensor.data, np.float32).tolist() for name, tensor in reply.items()}
        assert found == {"product": [9.0] * 6, "sum": [6.0] * 6}
    finally:
        running.close(5.0)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("custom", "'Custom' can load and run code"),
        ("disguised", "'Custom' can load and run code"),
        ("inner", "'PyExecute' can load and run code"),
        ("python", "names a Python object"),
        ("outside", "outside the artifact"),
        ("hidden", "outside the artifact"),
        ("empty", "no graph with outputs"),
    ],
)
def test_a_mindir_that_could_run_code_is_never_loaded(tmp_path: Path, spoilt: Path, name: str, words: str) -> None:
    with pytest.raises(AgentError, match=words) as refused:
        start_worker(spec(tmp_path, spoilt / f"{name}.mindir"))
    assert refused.value.code == "load_failed"


@pytest.mark.parametrize(
    "content", [b"", b"garbage" * 100, "truncated", LENET], ids=["empty", "garbage", "cut", "onnx"]
)
def test_a_file_that_is_no_mindir_is_refused_with_words(
    tmp_path: Path, lenet: Path, content: bytes | str | Path
) -> None:
    data = content.read_bytes() if isinstance(content, Path) else content
    file = tmp_path / "bad.mindir"
    file.write_bytes(lenet.read_bytes()[:100_000] if isinstance(data, str) else data)
    with pytest.raises(AgentError, match="MindIR") as refused:
        start_worker(spec(tmp_path, file))
    assert refused.value.code == "load_failed"


def test_another_shape_than_the_manifests_is_a_mismatch(tmp_path: Path, lenet: Path) -> None:
    other = TensorSpec(name="x", datatype=Datatype.FP32, shape=(-1, 3, 28, 28))
    with pytest.raises(AgentError) as refused:
        start_worker(spec(tmp_path, lenet, inputs=(other,)))
    assert refused.value.code == "signature_mismatch"


def test_a_device_that_is_not_there_is_refused_never_replaced_by_the_cpu(tmp_path: Path, lenet: Path) -> None:
    missing = {"gpu", "ascend910"} - set(probe_backend("mindspore", PYTHON).targets)
    for number, target in enumerate(sorted(missing)):
        folder = tmp_path / str(number)
        folder.mkdir()
        with pytest.raises(AgentError, match="MindSpore cannot use") as refused:
            start_worker(spec(folder, lenet, target=target))
        assert refused.value.code == "backend_unavailable"


def test_too_little_address_space_is_said(tmp_path: Path, lenet: Path) -> None:
    with pytest.raises(AgentError, match=r"[Mm]emory") as refused:
        start_worker(spec(tmp_path, lenet, memory_bytes=1 << 30))
    assert refused.value.code == "out_of_memory"
