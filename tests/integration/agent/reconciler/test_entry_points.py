"""Code that came with a checkpoint, in real workers with a real MindSpore: filled strictly, run only when signed."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from agent.adapters import signatures
from agent.adapters.deployment_steps import DeploymentSteps
from agent.adapters.disk.artifact_cache import ArtifactCache
from agent.adapters.network.registry_client import RegistryClient
from agent.backends.base import VerifiedEntryPoint
from agent.config.settings import AgentConfig
from agent.core.slots import Choice
from agent.errors import AgentError, PermanentError
from agent.worker.channel import ArenaTensor
from agent.worker.handle import start_worker
from agent.worker.measure import Measurement
from agent.worker.spec import WorkerSpec
from registry.contracts.catalogue.entry_points import EntryCode
from registry.contracts.catalogue.manifest import Format, Manifest, Target, TensorSpec
from registry.contracts.codes import DeploymentCode as Code
from registry.contracts.device.messages import DesiredModel
from registry.contracts.fit.platforms import BackendFacts, Platform
from registry.contracts.tensors import Datatype
from registry.contracts.wire import digest_of
from tests.fakes.registry_simulator import RegistrySimulator
from tests.support.clients import worker_client
from tests.support.models.checkpoints import safetensors
from tests.support.models.mindspore_python import PYTHON, needs_mindspore
from tests.support.models.signing import Signer, signed_manifest

OWNER = Signer(1)
CODE = EntryCode(module="network.py", function="create", arguments={"classes": 3})
X = TensorSpec(name="x", datatype=Datatype.FP32, shape=(-1, 4))
Y = TensorSpec(name="y", datatype=Datatype.FP32, shape=(-1, 3))
SHAPES = {"scale.weight": (3, 4), "scale.bias": (3,), "shift": (3,)}
HALVES = safetensors(SHAPES, 0.5)
KNOWN = Measurement(run_us=2000.0, max_batch=2, lanes=1, fixed=True)
NEVER = threading.Event()
MODULE = '''
import mindspore
from mindspore import nn, Parameter, Tensor

class Own(nn.Cell):
    """x W' + b, negative numbers to 0, and a shift that no layer of the catalogue has."""

    def __init__(self, classes):
        super().__init__()
        self.scale = nn.Dense(4, classes)
        self.shift = Parameter(Tensor([0.0] * classes, mindspore.float32), name="shift")
        self.relu = nn.ReLU()

    def construct(self, x):
        return self.relu(self.scale(x)) + self.shift

def create(classes):
    return Own(classes)
'''
"""With weights of a half: y = max(0, sum(x) / 2 + 0.5) + 0.5."""


def write(folder: Path, module: str, checkpoint: bytes = HALVES) -> Path:
    artifact = folder / "artifact"
    artifact.mkdir()
    (artifact / "model.safetensors").write_bytes(checkpoint)
    (artifact / "network.py").write_text(module)
    return artifact


def spec(artifact: Path, **options: object) -> WorkerSpec:
    """As after a verified signature around what lies there."""
    digest = digest_of((artifact / "network.py").read_bytes())
    standard = {
        "interpreter": PYTHON, "inputs": (X,), "outputs": (Y,), "known": KNOWN,
        "entry_point": VerifiedEntryPoint("network.py", "create", {"classes": 3}, digest),
    }  # fmt: skip
    return WorkerSpec("own", "mindspore", str(artifact), "model.safetensors", **{**standard, **options})  # type: ignore[arg-type]


def refused(worker: WorkerSpec, words: str) -> str:
    with pytest.raises(AgentError, match=words) as error:
        start_worker(worker)
    return error.value.code


@needs_mindspore
def test_signed_code_builds_the_network_that_the_checkpoint_fills(tmp_path: Path) -> None:
    worker = start_worker(spec(write(tmp_path, MODULE), known=None))
    try:
        assert (worker.inputs, worker.outputs) == ((X,), (Y,))
        assert worker.provider == "MindSpore CPU"
        for count in (1, 5):
            items = np.arange(count * 4, dtype=np.float32).reshape(count, 4) - 6
            reply = worker_client.arena(worker, ArenaTensor("x", "FP32", items.shape, items.tobytes()))["y"]
            answer = np.frombuffer(reply.data, np.float32).reshape(reply.shape)
            wanted = np.maximum(items.sum(1, keepdims=True) / 2 + 0.5, 0) + 0.5
            assert np.allclose(answer, np.repeat(wanted, 3, axis=1), atol=1e-6)
    finally:
        worker.close(5.0)


@needs_mindspore
def test_code_of_several_inputs_and_outputs_keeps_the_manifests_names_types_and_open_sizes(tmp_path: Path) -> None:
    module = (
        "from mindspore import nn\n"
        "class Two(nn.Cell):\n"
        "    def __init__(self):\n        super().__init__()\n        self.dense = nn.Dense(4, 3)\n"
        "    def construct(self, ids, x):\n        return ids + 1, self.dense(x)\n"
        "def create(classes):\n    return Two()\n"
    )
    ids = TensorSpec(name="ids", datatype=Datatype.INT32, shape=(-1, -1))
    more = TensorSpec(name="more", datatype=Datatype.INT32, shape=(-1, -1))
    artifact = write(tmp_path, module, safetensors({"dense.weight": (3, 4), "dense.bias": (3,)}, 1.0))
    worker = start_worker(spec(artifact, inputs=(ids, X), outputs=(more, Y)))
    try:
        assert (worker.inputs, worker.outputs) == ((ids, X), (more, Y))
    finally:
        worker.close(5.0)


@needs_mindspore
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"shift": None}, "missing: shift.*"),
        ({"other": (1,)}, "not of this network: other"),
        ({"shift": (4,)}, r"of another shape: shift is \[4\], not \[3\]"),
    ],
)
def test_a_checkpoint_that_does_not_fill_what_the_code_builds_never_serves(
    tmp_path: Path, change: dict[str, tuple[int, ...] | None], words: str
) -> None:
    shapes = {name: shape for name, shape in {**SHAPES, **change}.items() if shape is not None}
    worker = spec(write(tmp_path, MODULE, safetensors(shapes, 0.5)))
    assert refused(worker, f"network that network.py:create builds: {words}") == Code.CHECKPOINT_MISMATCH


@needs_mindspore
@pytest.mark.parametrize(
    ("module", "words"),
    [
        ("def create(classes):\n    raise KeyError('weights of 1998')", "network.py:create failed: KeyError: .*1998"),
        ("import sys\nsys.exit(0)", "network.py:create failed: SystemExit"),
        ("import neighbour", "failed: ModuleNotFoundError"),
        ("def create(classes:", "failed: SyntaxError"),
        ("def create(classes):\n    return 7", "gave a int, not a mindspore.nn.Cell"),
        ("def other(classes):\n    return 7", "failed: AttributeError.*create"),
        ("def create():\n    return 7", "failed: TypeError.*classes"),
    ],
)
def test_code_that_fails_says_what_it_raised(tmp_path: Path, module: str, words: str) -> None:
    artifact = write(tmp_path, module)
    (artifact / "neighbour.py").write_text("")
    assert refused(spec(artifact), words) == Code.LOAD_FAILED


@needs_mindspore
def test_code_reaches_neither_the_agents_files_nor_a_listening_port_nor_another_program(tmp_path: Path) -> None:
    """As far as this host's Landlock goes; where there is none, the limits alone keep it from writing."""
    secret = tmp_path / "token"
    secret.write_text("secret")
    attempts = (
        f"open({str(secret)!r}).read()",
        f"open({str(tmp_path / 'artifact' / 'new')!r}, 'w').write('x' * 9)",
        "__import__('subprocess').run(['/bin/true'])",
        "__import__('socket').create_connection(('127.0.0.1', 9))",
    )
    module = (
        "found = []\n"
        f"for text in {attempts!r}:\n"
        "    try:\n        eval(text)\n        found.append('done')\n"
        "    except OSError as error:\n        found.append(type(error).__name__)\n"
        "def create(classes):\n    raise RuntimeError(','.join(found))\n"
    )
    worker = spec(write(tmp_path, module))
    with pytest.raises(PermanentError) as error:
        start_worker(worker)
    found = error.value.message.rsplit(" ", 1)[-1].split(",")
    assert found[1] in ("PermissionError", "OSError")
    confined = confinement()
    if confined.startswith("landlock"):
        tcp = "PermissionError" if int(confined.split()[1].rstrip(",")) >= 4 else "ConnectionRefusedError"
        assert found == ["PermissionError", "PermissionError", "PermissionError", tcp]


def confinement() -> str:
    """What holds a worker on this host, asked in a process of its own: it holds for good."""
    ask = "from registry import sandbox; sandbox.limit(None); print(sandbox.confine([]))"
    return subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=True).stdout.strip()


@needs_mindspore
def test_a_module_that_changed_after_it_was_verified_does_not_run(tmp_path: Path) -> None:
    """Its exception would be in the message if anything of it had run."""
    artifact = write(tmp_path, MODULE)
    worker = spec(artifact)
    (artifact / "network.py").write_text("raise RuntimeError('it ran')")
    assert refused(worker, "is not the one that was signed; nothing of it was run") == Code.ENTRY_POINT_SIGNATURE


def test_code_is_never_loaded_into_the_agents_own_process(tmp_path: Path) -> None:
    marks = write(tmp_path, f"open({str(tmp_path / 'ran')!r}, 'w').close()")
    assert refused(spec(marks, execution="inline"), "only in a worker process") == Code.ENTRY_POINT_DISABLED
    assert not (tmp_path / "ran").exists()


class Device:
    """The slow steps of an agent that trusts these keys, against a registry that holds one signed version."""

    def __init__(self, folder: Path, registry: RegistrySimulator, *keys: str) -> None:
        entry_points = {"enabled": bool(keys), "trusted_keys": keys}
        worker = {"interpreters": {"mindspore": PYTHON or "python"}}
        config = AgentConfig.model_validate({"device": "edge-1", "entry_points": entry_points, "worker": worker})
        backend = BackendFacts(
            name="mindspore", usable=True, version="2.10.0", formats=(Format.MINDSPORE_CKPT,), targets=(Target.CPU,),
            entry_points=signatures.trusted(config.entry_points),
        )  # fmt: skip
        cache = ArtifactCache(folder / "data", limit=1 << 40, reserve=0)
        cache.open()
        self._client = RegistryClient(registry.url, "edge-1", token=None, ca_file=None, timeout_s=5)
        host = Platform(os="linux", arch="x86_64", backends=(backend,))
        self.cache, self.steps = cache, DeploymentSteps(config, cache, self._client, lambda: host)

    def __enter__(self) -> Device:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def resolve(self, manifest: Manifest) -> Choice:
        wish = DesiredModel(version=manifest.version, manifest=manifest.canonical_digest())
        return self.steps.resolve(manifest.model, wish, NEVER)

    def bring(self, manifest: Manifest) -> Choice:
        choice = self.resolve(manifest)
        self.steps.download(choice, set(), NEVER)
        self.steps.verify(choice, NEVER)
        return choice


@pytest.fixture
def registry() -> Iterator[RegistrySimulator]:
    simulator = RegistrySimulator().start()
    yield simulator
    simulator.stop()


def published(registry: RegistrySimulator, module: str, signer: Signer = OWNER) -> Manifest:
    manifest = signed_manifest(signer, HALVES, module.encode(), CODE, x=X, y=Y)
    registry.publish(manifest, HALVES, module.encode())
    return manifest


@needs_mindspore
def test_a_device_that_trusts_the_signer_brings_and_serves_the_model(
    tmp_path: Path, registry: RegistrySimulator
) -> None:
    with Device(tmp_path, registry, OWNER.text) as device:
        worker = device.steps.warm(device.bring(published(registry, MODULE)), KNOWN, NEVER)
    try:
        items = np.ones((2, 4), np.float32)
        reply = worker_client.arena(worker, ArenaTensor("x", "FP32", items.shape, items.tobytes()))["y"]
        assert np.frombuffer(reply.data, np.float32).tolist() == [3.0] * 6
    finally:
        worker.close(5.0)


@pytest.mark.parametrize(
    ("keys", "code"),
    [((), Code.ENTRY_POINT_DISABLED), ((Signer(2).text,), Code.ENTRY_POINT_UNTRUSTED)],
)
def test_code_that_may_not_run_here_is_refused_before_anything_is_downloaded(
    tmp_path: Path, registry: RegistrySimulator, keys: tuple[str, ...], code: Code
) -> None:
    with Device(tmp_path, registry, *keys) as device, pytest.raises(PermanentError) as error:
        device.resolve(published(registry, MODULE))
    assert error.value.code == code
    assert registry.requests("blobs") == []


def tampered(registry: RegistrySimulator, ran: Path) -> Manifest:
    """A registry that was taken over: other code under the signature of the true one."""
    true = published(registry, MODULE)
    module = f"open({str(ran)!r}, 'w').close()\n{MODULE}".encode()
    false = signed_manifest(OWNER, HALVES, module, CODE, x=X, y=Y)
    entry_point = true.variants[0].entry_point
    false = false.model_copy(update={"variants": (false.variants[0].model_copy(update={"entry_point": entry_point}),)})
    registry.publish(false, HALVES, module)
    return false


def test_nothing_of_a_module_runs_when_the_signature_is_not_one_of_it(
    tmp_path: Path, registry: RegistrySimulator
) -> None:
    false = tampered(registry, tmp_path / "ran")
    with Device(tmp_path, registry, OWNER.text) as device, pytest.raises(PermanentError) as error:
        device.resolve(false)
    assert error.value.code == Code.ENTRY_POINT_SIGNATURE
    assert registry.requests("blobs") == []
    assert not (tmp_path / "ran").exists()


def test_what_was_chosen_before_is_verified_again_before_it_is_loaded(
    tmp_path: Path, registry: RegistrySimulator
) -> None:
    """After a restart with other settings, or with a journal that says what no registry said."""
    manifest = published(registry, MODULE)
    with Device(tmp_path, registry, OWNER.text) as device:
        choice = device.bring(manifest)
    for keys, code in (((), Code.ENTRY_POINT_DISABLED), ((Signer(2).text,), Code.ENTRY_POINT_UNTRUSTED)):
        with Device(tmp_path, registry, *keys) as device, pytest.raises(PermanentError) as error:
            device.steps.warm(choice, KNOWN, NEVER)
        assert error.value.code == code
    moved = choice.model_copy(update={"model": "other"})
    with Device(tmp_path, registry, OWNER.text) as device, pytest.raises(PermanentError) as error:
        device.steps.warm(moved, KNOWN, NEVER)
    assert error.value.code == Code.ENTRY_POINT_SIGNATURE
