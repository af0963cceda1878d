"""What rots on this host's disk is found when it is read, set aside and brought again; it never answers."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import onnx
import pytest

from agent.adapters import deployment_steps as steps_module
from agent.adapters.deployment_steps import DeploymentSteps
from agent.adapters.disk.artifact_cache import MAX_DAMAGED_BYTES, MAX_DAMAGED_FILES, ArtifactCache
from agent.adapters.disk.checked_files import drop_changed, keep_sums
from agent.adapters.disk.damage import Damage
from agent.adapters.network.registry_client import RegistryClient
from agent.app.inspector import Inspector
from agent.backends.base import LoadOptions
from agent.backends.ort import OnnxRuntime
from agent.config.settings import AgentConfig
from agent.core.slots import Choice, SlotRecord
from agent.errors import TransientError
from registry.contracts.catalogue.manifest import FileRef, Manifest
from registry.contracts.codes import DeploymentCode
from registry.contracts.device.messages import DesiredModel
from registry.contracts.wire import digest_of, hex_of
from tests.fakes.registry_simulator import RegistrySimulator, one_file_manifest
from tests.integration.agent.reconciler.test_pull import HOST
from tests.support.models import onnx_models

NEVER = threading.Event()
WEIGHTS = os.urandom(3 << 20)


@pytest.fixture
def registry() -> Iterator[RegistrySimulator]:
    simulator = RegistrySimulator(token="secret").start()
    yield simulator
    simulator.stop()


class Device:
    """One version of two files in one cache: a model and 3 MiB beside it."""

    def __init__(self, folder: Path, registry: RegistrySimulator) -> None:
        self.damage = Damage()
        self.cache = ArtifactCache(folder, limit=1 << 40, reserve=0, damage=self.damage)
        self.cache.open()
        self.client = RegistryClient(registry.url, "edge-1", token="secret", ca_file=None, timeout_s=5)
        self.steps = DeploymentSteps(
            AgentConfig(device="edge-1"), self.cache, self.client, lambda: HOST, damage=self.damage
        )
        self.registry = registry
        model = onnx_models.linear()
        manifest = one_file_manifest(model)
        beside = FileRef(path="sub/weights", digest=digest_of(WEIGHTS), size=len(WEIGHTS))
        variant = manifest.variants[0].model_copy(update={"files": (*manifest.variants[0].files, beside)})
        self.manifest: Manifest = manifest.model_copy(update={"variants": (variant,)})
        registry.publish(self.manifest, model, WEIGHTS)
        desired = DesiredModel(version=manifest.version, manifest=self.manifest.canonical_digest())
        self.choice: Choice = self.steps.resolve(manifest.model, desired, NEVER)
        self.pull()

    def pull(self) -> int:
        """How many requests for blobs that took."""
        before = len(self.registry.requests("blobs"))
        self.steps.download(self.choice, set(), NEVER)
        self.steps.verify(self.choice, NEVER)
        return len(self.registry.requests("blobs")) - before

    def file(self, name: str = "sub/weights") -> Path:
        return self.cache.files(self.choice.variant_digest) / name

    def damaged(self) -> TransientError:
        with pytest.raises(TransientError) as caught:
            self.steps.verify(self.choice, NEVER)
        assert caught.value.code == DeploymentCode.DIGEST_MISMATCH
        return caught.value


@pytest.fixture
def device(tmp_path: Path, registry: RegistrySimulator) -> Iterator[Device]:
    made = Device(tmp_path / "cache", registry)
    yield made
    made.client.close()


def flip(file: Path, bit: int = 3) -> None:
    """Other bytes, the same length and the same times."""
    status = file.stat()
    mode = status.st_mode
    file.chmod(0o600)
    data = bytearray(file.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    with file.open("r+b") as stream:
        stream.write(data)
    file.chmod(mode)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_a_file_that_rots_after_it_was_verified_is_found_at_the_next_load_by_the_same_agent(device: Device) -> None:
    device.steps.verify(device.choice, NEVER)
    for bit in (0, 8 * len(WEIGHTS) - 1, 4 * len(WEIGHTS)):
        flip(device.file(), bit)
        assert "sub/weights" in device.damaged().message
        assert device.pull() == 1, "only what is damaged comes again"
        assert device.file().read_bytes() == WEIGHTS
    assert device.damage.counts() == {"cache": 3}


def test_a_damaged_file_is_set_aside_within_bounds(device: Device) -> None:
    flip(device.file())
    device.damaged()
    aside = device.cache.files(device.choice.variant_digest).parents[2] / "damaged"
    assert [path.name for path in aside.iterdir()] == [hex_of(digest_of(WEIGHTS))]
    for number in range(MAX_DAMAGED_FILES + 3):
        (aside / f"{number}").write_bytes(b"x")
    with (aside / "huge").open("wb") as stream:
        stream.truncate(MAX_DAMAGED_BYTES)
    device.pull()
    flip(device.file())
    device.damaged()
    kept = list(aside.iterdir())
    assert len(kept) <= MAX_DAMAGED_FILES
    assert sum(path.stat().st_size for path in kept) <= MAX_DAMAGED_BYTES


@pytest.mark.parametrize("works", [True, False], ids=["the load works", "the load fails"])
def test_a_file_that_changes_between_the_check_and_the_load_is_no_fault_of_the_version(
    device: Device, monkeypatch: pytest.MonkeyPatch, works: bool
) -> None:
    real = steps_module.start_worker

    def start(spec: object) -> object:
        worker = real(spec) if works else None  # type: ignore[arg-type]
        flip(device.file())
        if worker is None:
            raise steps_module.PermanentError(DeploymentCode.LOAD_FAILED, "it reads as nonsense")
        return worker

    monkeypatch.setattr(steps_module, "start_worker", start)
    with pytest.raises(TransientError) as caught:
        device.steps.warm(device.choice, None, NEVER)
    assert caught.value.code == DeploymentCode.DIGEST_MISMATCH
    assert device.pull() == 1


def test_the_check_in_the_background_finds_rot_and_says_what_to_pull(device: Device) -> None:
    told: list[Choice] = []
    record = SlotRecord(model="lenet", active=device.choice, previous=device.choice)
    inspector = Inspector(device.cache, lambda: [record], told.append, bytes_per_s=1 << 30, every_s=3600)
    inspector.look()
    assert told == []
    flip(device.file())
    inspector.look()
    assert told == [device.choice]
    device.pull()
    inspector.look()
    assert told == [device.choice]


def external_model(folder: Path) -> Path:
    """y = x + 1, whose ones are in a file of their own, large enough for ONNX Runtime to map it."""
    helper = onnx.helper
    ones = onnx.numpy_helper.from_array(np.ones((64, 1024), np.float32), "w")
    shape = onnx.TensorProto.FLOAT, [64, 1024]
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", *shape)],
        [helper.make_tensor_value_info("y", *shape)],
        [ones],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, folder / "model.onnx", save_as_external_data=True, location="weights", size_threshold=0)
    return folder / "weights"


def test_external_data_that_rots_under_a_loaded_model_changes_no_answer(tmp_path: Path) -> None:
    data = external_model(tmp_path)
    session = OnnxRuntime().load(str(tmp_path), "model.onnx", LoadOptions())
    data.write_bytes(np.full((64, 1024), 7, np.float32).tobytes())
    (answer,) = session.run({"x": np.zeros((64, 1024), np.float32)}, ["y"])
    session.close()
    assert np.array_equal(answer, np.ones((64, 1024), np.float32))


def written(folder: Path) -> Path:
    folder.mkdir()
    for name in ("engine.plan", "other.plan", "timing.cache"):
        (folder / name).write_bytes(name.encode() * 1000)
    keep_sums(folder)
    return folder


Change = Callable[[Path], object]


@pytest.mark.parametrize(
    ("change", "damaged"),
    [
        (flip, ["engine.plan"]),
        (lambda file: file.write_bytes(b"compiled for another shape"), []),
        (lambda file: (file.unlink(), file.symlink_to("/etc/passwd")), ["engine.plan"]),
    ],
    ids=["rotten", "written anew by the backend", "a link"],
)
def test_what_a_backend_compiled_is_used_only_as_it_was_written_down(
    tmp_path: Path, change: Change, damaged: list[str]
) -> None:
    folder = written(tmp_path / "engines")
    assert drop_changed(folder) == []
    assert len(list(folder.iterdir())) == 3
    change(folder / "engine.plan")
    (folder / "strange").write_bytes(b"?")
    assert drop_changed(folder) == damaged
    assert sorted(path.name for path in folder.iterdir()) == ["other.plan", "timing.cache"]


def test_engines_whose_sums_are_gone_or_damaged_are_compiled_again(tmp_path: Path) -> None:
    folder = written(tmp_path / "engines")
    sums = tmp_path / "engines.json"
    sums.write_text(json.dumps({"engine.plan": 5}))
    drop_changed(folder)
    assert list(folder.iterdir()) == []


def in_place_of(path: Path, what: str) -> None:
    """Nothing, or something else, where a file or folder of the cache was."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    match what:
        case "file":
            path.write_bytes(b"x")
        case "folder":
            (path / "inside").mkdir(parents=True)
        case "pipe":
            os.mkfifo(path)
        case "dangling link":
            path.symlink_to(path.parent / "gone" / "away")


@pytest.mark.parametrize("what", ["nothing", "file"])
@pytest.mark.parametrize(
    "where", [".", "artifacts", "artifacts/*", "artifacts/*/files", "staging", "partial", "manifests", "damaged"]
)
def test_a_cache_that_somebody_emptied_or_replaced_is_filled_again(device: Device, where: str, what: str) -> None:
    device.pull()
    root = device.cache.files(device.choice.variant_digest).parents[2]
    (doomed,) = [root] if where == "." else root.glob(where)
    in_place_of(doomed, what)
    with suppress(TransientError):  # the first look finds what is missing; the reconciler then tries again
        device.pull()
    device.pull()
    manifest = device.manifest.canonical()
    device.cache.keep_manifest(manifest)
    assert device.cache.manifest(digest_of(manifest)) == manifest


@pytest.mark.parametrize("what", ["folder", "pipe", "dangling link"])
def test_what_is_no_file_in_the_place_of_a_download_or_a_manifest_gives_way(device: Device, what: str) -> None:
    root = device.cache.files(device.choice.variant_digest).parents[2]
    manifest = device.manifest.canonical()
    in_place_of(root / "manifests" / f"{hex_of(digest_of(manifest))}.json", what)
    for ref in device.manifest.variants[0].files:
        in_place_of(root / "partial" / f"{hex_of(ref.digest)}.part", what)
    device.cache.keep_manifest(manifest)
    assert device.cache.manifest(digest_of(manifest)) == manifest
    device.pull()
