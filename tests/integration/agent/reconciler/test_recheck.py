"""Before it loads what it has, an agent compares it with what its host is now; a load that fails looks again."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.adapters.deployment_steps import DeploymentSteps
from agent.adapters.disk.artifact_cache import ArtifactCache
from agent.config.settings import AgentConfig
from agent.core.slots import Choice
from agent.errors import PermanentError
from registry.contracts.catalogue.manifest import Requirements
from registry.contracts.codes import DeploymentCode as Code
from registry.contracts.device.messages import DesiredModel, Profile
from registry.contracts.fit.platforms import BackendFacts, Platform
from registry.contracts.wire import canonical_json, digest_of
from tests.fakes.registry_simulator import one_file_manifest

NEVER = threading.Event()
DATA = b"no model"


def host(opset: int | None, *, usable: bool = True) -> Platform:
    ort = BackendFacts(
        name="onnxruntime", usable=usable, reason="" if usable else "it went", formats=("onnx",), targets=("cpu",),
        max_onnx_opset=opset,
    )  # fmt: skip
    return Platform(os="linux", arch="x86_64", backends=(ort,))


def choice(backend: str = "onnxruntime") -> Choice:
    manifest = one_file_manifest(DATA)
    variant = manifest.variants[0].model_copy(update={"requirements": Requirements(onnx_opsets={"": 17})})
    return Choice(
        model=manifest.model, version=manifest.version, manifest=manifest.canonical_digest(), variant=variant,
        variant_digest=variant.canonical_digest(), backend=backend, profile=Profile.THROUGHPUT,
    )  # fmt: skip


class Agent:
    """Steps whose host is what the test says."""

    def __init__(self, folder: Path, first: Platform, again: Platform, interpreter: Path) -> None:
        self.cache = cache = ArtifactCache(folder, limit=1 << 40, reserve=0)
        cache.open()
        file = cache.files(choice().variant_digest) / choice().variant.entry
        file.parent.mkdir(parents=True)
        file.write_bytes(DATA)
        self.told: list[Platform] = []
        self.probes = 0
        config = AgentConfig.model_validate({"device": "edge-1", "worker": {"interpreter": interpreter}})
        self.steps = DeploymentSteps(
            config, cache, None, lambda: first, probe_again=self._again(again), tell_facts=self.told.append
        )

    def _again(self, facts: Platform) -> Callable[[], Platform]:
        def probe() -> Platform:
            self.probes += 1
            return facts

        return probe

    def load(self) -> PermanentError:
        with pytest.raises(PermanentError) as caught:
            self.steps.warm(choice(), None, NEVER)
        return caught.value


def test_what_does_not_fit_the_host_of_today_is_not_loaded(tmp_path: Path) -> None:
    error = Agent(tmp_path, host(9), host(9), tmp_path / "never-started").load()
    assert error.code == Code.VARIANT_UNFIT
    assert "opset_too_new" in error.message


def test_a_backend_that_went_makes_the_agent_look_again_and_ask_for_another_variant(tmp_path: Path) -> None:
    agent = Agent(tmp_path, host(17), host(17, usable=False), tmp_path / "not-there")
    error = agent.load()
    assert error.code == Code.VARIANT_UNFIT
    assert "backend_unavailable" in error.message
    assert [facts.backends[0].usable for facts in agent.told] == [False]
    agent.load()
    assert agent.probes == 1


def test_a_host_that_is_what_it_was_keeps_the_error_of_the_load(tmp_path: Path) -> None:
    agent = Agent(tmp_path, host(17), host(17), tmp_path / "not-there")
    assert agent.load().code == Code.BACKEND_UNAVAILABLE
    assert agent.load().code == Code.BACKEND_UNAVAILABLE
    assert (agent.probes, agent.told) == (1, [])


def test_a_variant_of_a_format_from_a_newer_registry_does_not_keep_the_agent_from_the_others(tmp_path: Path) -> None:
    agent = Agent(tmp_path, host(17), host(17), Path(sys.executable))
    document = one_file_manifest(b"a model").to_json()
    document["variants"].insert(0, {**document["variants"][0], "name": "newer", "format": "weights-of-2031"})
    data = canonical_json(document)
    agent.cache.keep_manifest(data)
    desired = DesiredModel(version=document["version"], manifest=digest_of(data))
    assert agent.steps.resolve(document["model"], desired, NEVER).variant.name == document["variants"][1]["name"]
    with pytest.raises(PermanentError, match="format_unknown: needs weights-of-2031"):
        agent.steps.resolve(document["model"], desired.model_copy(update={"variant": "newer"}), NEVER)


def test_a_bad_file_on_a_cpu_says_nothing_about_the_host(tmp_path: Path) -> None:
    agent = Agent(tmp_path, host(17), host(9), Path(sys.executable))
    assert agent.load().code == Code.LOAD_FAILED
    assert agent.probes == 0
