"""Checkpoints in real workers with a real MindSpore, on the CPU; skipped where there is none."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from agent.errors import AgentError
from agent.worker.channel import ArenaTensor
from agent.worker.handle import probe_backend, start_worker
from agent.worker.measure import Measurement
from agent.worker.spec import WorkerSpec
from registry.contracts.catalogue import networks
from registry.contracts.catalogue.manifest import Network, TensorSpec
from registry.contracts.tensors import Datatype
from registry.mindspore_networks import table
from tests.support.clients import worker_client
from tests.support.models.checkpoints import safetensors
from tests.support.models.mindspore_python import PYTHON, needs_mindspore
from tests.support.paths import ROOT

pytestmark = needs_mindspore
LENET = Network(name="lenet5", arguments={"num_class": 10, "num_channel": 1})
X = TensorSpec(name="picture", datatype=Datatype.FP32, shape=(-1, 1, 32, 32))
Y = TensorSpec(name="digit", datatype=Datatype.FP32, shape=(-1, 10))
KNOWN = Measurement(run_us=2000.0, max_batch=2, lanes=1, fixed=True)


def mindspore_models(order: str, out: Path) -> None:
    script = ROOT / "tests" / "support" / "models" / "mindspore_models.py"
    catalogue = Path(table.__file__).parent
    command = [PYTHON, "-I", str(script), order, str(catalogue), str(out)]
    done = subprocess.run(command, timeout=100, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoints")
    mindspore_models("checkpoints", folder)
    return folder


def spec(folder: Path, file: Path, **options: object) -> WorkerSpec:
    artifact = folder / "artifact"
    artifact.mkdir()
    shutil.copy(file, artifact / file.name)
    standard = {"interpreter": PYTHON, "inputs": (X,), "outputs": (Y,), "network": LENET, "known": KNOWN}
    return WorkerSpec("lenet", "mindspore", str(artifact), file.name, **{**standard, **options})  # type: ignore[arg-type]


def test_the_probe_names_the_catalogues_networks() -> None:
    assert probe_backend("mindspore", PYTHON).networks == networks.networks()


def test_mindspore_builds_the_networks_that_publishing_expects(tmp_path: Path) -> None:
    mindspore_models("catalogue", tmp_path / "found.json")
    found = json.loads((tmp_path / "found.json").read_text())
    assert sorted(found) == list(networks.networks())
    for name, facts in found.items():
        shapes = {key: tuple(shape) for key, shape in facts["parameters"].items()}
        assert shapes == networks.parameters(Network(name=name))
        assert tuple(facts["takes"]) == networks.takes(Network(name=name))


@pytest.mark.parametrize(
    ("file", "tolerance"),
    [("good.ckpt", 1e-6), ("good.safetensors", 1e-6), ("trained.ckpt", 1e-6), ("half.ckpt", 1e-2)],
)
def test_a_checkpoint_answers_as_the_network_that_was_saved(
    tmp_path: Path, checkpoints: Path, file: str, tolerance: float
) -> None:
    golden = np.load(checkpoints / "golden.npz")
    worker = start_worker(spec(tmp_path, checkpoints / file, known=None))
    try:
        assert (worker.inputs, worker.outputs) == ((X,), (Y,))
        assert worker.provider == "MindSpore CPU"
        assert len(worker.lanes) == 1
        for count in (1, 5, 3):
            items = golden["inputs"][:count]
            reply = worker_client.arena(worker, ArenaTensor("picture", "FP32", items.shape, items.tobytes()))["digit"]
            answer = np.frombuffer(reply.data, np.float32).reshape(reply.shape)
            assert np.abs(answer - golden["outputs"][:count]).max() <= tolerance
    finally:
        worker.close(5.0)


@pytest.mark.parametrize(
    ("file", "network", "code", "words"),
    [
        ("missing.ckpt", LENET, "checkpoint_mismatch", "missing: fc3.bias"),
        ("extra.ckpt", LENET, "checkpoint_mismatch", "not of this network: fc9.bias"),
        ("shapes.ckpt", LENET, "checkpoint_mismatch", r"of another shape: fc3.bias is \[12\], not \[10\]"),
        ("good.ckpt", Network(name="resnet18"), "checkpoint_mismatch", "not one of the network resnet18"),
        ("good.ckpt", Network(name="lenet99"), "load_failed", "no network is called 'lenet99' here"),
        ("good.ckpt", Network(name="lenet5", arguments={"depth": 3}), "load_failed", "cannot be built: .*depth"),
        ("good.ckpt", None, "load_failed", "names no network"),
        ("cut.ckpt", LENET, "load_failed", "MindSpore cannot read the checkpoint"),
    ],
)
def test_a_checkpoint_that_does_not_fill_its_network_never_serves(
    tmp_path: Path, checkpoints: Path, file: str, *, network: Network | None, code: str, words: str
) -> None:
    with pytest.raises(AgentError, match=words) as refused:
        start_worker(spec(tmp_path, checkpoints / file, network=network))
    assert refused.value.code == code


def test_another_input_than_the_manifests_is_a_mismatch(tmp_path: Path, checkpoints: Path) -> None:
    other = X.model_copy(update={"shape": (-1, 1, 28, 28)})
    with pytest.raises(AgentError) as refused:
        start_worker(spec(tmp_path, checkpoints / "good.ckpt", inputs=(other,)))
    assert refused.value.code == "signature_mismatch"


def test_a_network_that_takes_any_size_is_loaded_with_the_manifests(tmp_path: Path) -> None:
    network = Network(name="mobilenet_v2", arguments={"num_classes": 5, "width_mult": 0.25})
    (tmp_path / "small.safetensors").write_bytes(safetensors(networks.parameters(network), 0.5))
    x = TensorSpec(name="x", datatype=Datatype.FP32, shape=(-1, 3, 48, 64))
    y = TensorSpec(name="y", datatype=Datatype.FP32, shape=(-1, 5))
    worker = start_worker(spec(tmp_path, tmp_path / "small.safetensors", inputs=(x,), outputs=(y,), network=network))
    try:
        assert (worker.inputs, worker.outputs) == ((x,), (y,))
        items = np.zeros((3, 3, 48, 64), np.float32)
        reply = worker_client.arena(worker, ArenaTensor("x", "FP32", items.shape, items.tobytes()))["y"]
        assert reply.shape == (3, 5)
    finally:
        worker.close(5.0)


def test_a_fixed_batch_is_not_exceeded_in_silence(tmp_path: Path, checkpoints: Path) -> None:
    fixed = X.model_copy(update={"shape": (2, 1, 32, 32)})
    two = Y.model_copy(update={"shape": (2, 10)})
    worker = start_worker(spec(tmp_path, checkpoints / "good.ckpt", inputs=(fixed,), outputs=(two,), known=None))
    try:
        items = np.zeros((3, 1, 32, 32), np.float32)
        refused = worker_client.arena(worker, ArenaTensor("picture", "FP32", items.shape, items.tobytes()))
        assert refused[0] == "wrong_shape"
    finally:
        worker.close(5.0)
