"""Golden vectors come with the artifact, stay and go with it, and are never trusted unhashed."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.adapters.deployment_steps import DeploymentSteps
from agent.adapters.disk.artifact_cache import ArtifactCache
from agent.adapters.network.registry_client import RegistryClient
from agent.config.settings import AgentConfig
from agent.errors import TransientError
from registry.contracts.catalogue.manifest import FileRef, Format, Golden, Manifest, Target
from registry.contracts.codes import DeploymentCode
from registry.contracts.device.messages import DesiredModel
from registry.contracts.fit.platforms import BackendFacts, Platform
from registry.contracts.wire import digest_of
from tests.fakes.registry_simulator import RegistrySimulator, one_file_manifest

DATA = b"golden vectors"
NEVER = threading.Event()
BACKEND = BackendFacts(name="onnxruntime", version="1.20", usable=True, formats=(Format.ONNX,), targets=(Target.CPU,))
HOST = Platform(os="linux", arch="x86_64", backends=(BACKEND,))
REF = FileRef(path="golden.safetensors", digest=digest_of(DATA), size=len(DATA))


@pytest.fixture
def registry() -> Iterator[RegistrySimulator]:
    simulator = RegistrySimulator().start()
    yield simulator
    simulator.stop()


def published(registry: RegistrySimulator) -> Manifest:
    manifest = one_file_manifest(b"model").model_copy(update={"golden": Golden(file=REF, cases=1)})
    registry.publish(manifest, b"model", DATA)
    return manifest


def test_golden_vectors_come_once_are_hashed_and_go_with_the_variant(
    registry: RegistrySimulator, tmp_path: Path
) -> None:
    cache = ArtifactCache(tmp_path, limit=1 << 30, reserve=0)
    cache.open()
    client = RegistryClient(registry.url, "edge-1", token="secret", ca_file=None, timeout_s=5)
    steps = DeploymentSteps(AgentConfig(device="edge-1"), cache, client, lambda: HOST)
    manifest = published(registry)
    desired = DesiredModel(version=manifest.version, manifest=manifest.canonical_digest())
    choice = steps.resolve(manifest.model, desired, NEVER)
    assert choice.golden == manifest.golden
    steps.download(choice, set(), NEVER)
    asked = len(registry.requests("blobs"))
    steps.download(choice, set(), NEVER)
    assert len(registry.requests("blobs")) == asked
    assert steps.received(choice) == choice.variant.size
    steps.verify(choice, NEVER)
    path = cache.checked_golden(choice.variant_digest, REF, NEVER)
    assert path.read_bytes() == DATA
    path.chmod(0o600)
    path.write_bytes(b"GOLDEN vectors")
    with pytest.raises(TransientError) as refused:
        cache.checked_golden(choice.variant_digest, REF, NEVER)
    assert refused.value.code == DeploymentCode.DIGEST_MISMATCH
    steps.download(choice, set(), NEVER)
    assert cache.checked_golden(choice.variant_digest, REF, NEVER) == path
    cache.make_room(one_file_manifest(b"other").variants[0], digest_of(b"other"), set(), extra=1 << 30)
    assert not path.exists()
    client.close()
