"""An observation that failed is not a fact: it is looked at again, and takes nothing away."""

from __future__ import annotations

import sys
import threading
from datetime import datetime, timezone
from pathlib import Path

import pytest

from agent.adapters.facts import hardware
from agent.adapters.facts.vendor_tool import ToolError
from agent.app.doctor import fact_lines
from agent.core.fitness import unfit
from agent.errors import TransientError
from agent.worker.handle import probe_backend
from registry.contracts.catalogue.manifest import Format, Target
from registry.contracts.codes import DeploymentCode as Code
from registry.contracts.codes import ResolutionCode
from registry.contracts.device.messages import DesiredModel
from registry.contracts.fit.fitting import FitOutcome
from registry.contracts.fit.platforms import BackendFacts, CudaFacts, Platform
from registry.contracts.fit.resolution import judge
from tests.fakes.registry_simulator import one_file_manifest
from tests.integration.agent.reconciler.test_recheck import Agent, choice, host

NEVER = threading.Event()
NOW = datetime(2026, 1, 1, tzinfo=timezone.utc)
ONNX, CPU = (Format.ONNX,), (Target.CPU,)
SICK = {
    "it stalls": "sleep 30",
    "it is killed": "kill -9 $$",
    "it ends": "exit 0",
    "it talks nonsense": "printf nonsense >&0",
    "it answers half": """printf '{"protocol": 1, "probed": {"usab' >&0""",
}


@pytest.mark.parametrize("script", SICK.values(), ids=SICK)
def test_a_probe_that_gives_no_answer_says_nothing_of_the_backend(tmp_path: Path, script: str) -> None:
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\n{script}\n")
    python.chmod(0o755)
    facts = probe_backend("onnxruntime", str(python), timeout_s=1.0)
    assert (facts.usable, facts.unknown) == (False, True)
    assert facts.reason


def test_an_answer_is_a_fact_also_when_it_is_no(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not probe_backend("onnxruntime").unknown
    missing = probe_backend("ascend_acl")
    assert (missing.usable, missing.unknown) == (False, False)


class Probes:
    """What the next looks at the backends and at the GPU find."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.works, self.answers = True, True
        self.asked: list[str] = []
        self.gpu: CudaFacts | None = CudaFacts(gpus=1, name="L4", compute_capability="8.9")
        monkeypatch.setattr(hardware, "probe_backend", self.probe)
        monkeypatch.setattr(hardware, "probe_nvidia", lambda _: (self.gpu, "" if self.gpu else "NVML did not answer"))

    def probe(self, name: str, _: str) -> BackendFacts:
        self.asked.append(name)
        formats = ONNX if name == "onnxruntime" else ()
        if not self.answers and formats:
            return BackendFacts(name=name, usable=False, unknown=True, reason="no answer within 20 s", formats=formats)
        return BackendFacts(name=name, usable=self.works, formats=formats, targets=CPU)


@pytest.fixture
def probes(monkeypatch: pytest.MonkeyPatch) -> Probes:
    return Probes(monkeypatch)


def look(folder: Path, boot: str = "1", *, fresh: bool = False) -> Platform:
    return hardware.probe_host(
        python_of=lambda _: Path(sys.executable), cores=1, data_dir=folder, now=NOW, environ={"PATH": boot}, fresh=fresh
    )


def test_a_probe_that_stalls_at_a_boot_takes_nothing_away_then_or_later(tmp_path: Path, probes: Probes) -> None:
    before = look(tmp_path)
    probes.answers, probes.gpu = False, None
    stalled = look(tmp_path, boot="2")
    assert stalled.facts_digest() == before.facts_digest()
    assert stalled.failed() == ("backend.onnxruntime", "cuda")
    assert look(tmp_path, boot="2").facts_digest() == before.facts_digest(), "after a restart"
    assert look(tmp_path, boot="3", fresh=True).facts_digest() == before.facts_digest()
    assert "the last look failed: no answer within 20 s" in "\n".join(fact_lines(stalled, NOW))


def test_only_what_failed_is_looked_at_again_and_then_known(tmp_path: Path, probes: Probes) -> None:
    probes.answers = False
    first = look(tmp_path)
    assert first.failed() == ("backend.onnxruntime",)
    probes.asked.clear()
    look(tmp_path)
    assert probes.asked == ["onnxruntime"]
    probes.answers = True
    found = look(tmp_path)
    assert found.failed() == ()
    assert found.backends[0].usable
    probes.asked.clear()
    assert look(tmp_path).facts_digest() == found.facts_digest()
    assert probes.asked == []


def test_a_no_of_the_backend_itself_counts(tmp_path: Path, probes: Probes) -> None:
    look(tmp_path)
    probes.works = False
    assert not look(tmp_path, boot="2").backends[0].usable


def test_without_an_earlier_look_it_is_unknown_and_neither_fits_nor_fails(tmp_path: Path, probes: Probes) -> None:
    probes.answers = False
    facts = look(tmp_path)
    variant = one_file_manifest(b"m").variants[0]
    verdict = judge(variant, facts)
    assert verdict.outcome is FitOutcome.UNKNOWN
    assert [reason.code for reason in verdict.reasons] == [ResolutionCode.FACT_UNKNOWN]
    gone = facts.model_copy(update={"cuda": CudaFacts()})
    on_gpu = variant.model_copy(update={"target": Target.GPU})
    assert judge(on_gpu, gone).outcome is FitOutcome.FAIL, "there is certainly no GPU"


@pytest.mark.parametrize("damage", [b"", b"{", b"0" * 32 + b"\n{}"])
def test_a_kept_look_that_is_not_what_was_written_is_made_again(tmp_path: Path, damage: bytes, probes: Probes) -> None:
    first = look(tmp_path)
    (tmp_path / hardware.FILE).write_bytes(damage)
    assert look(tmp_path).facts_digest() == first.facts_digest()


def test_a_flipped_bit_in_a_kept_look_is_no_fact(tmp_path: Path, probes: Probes) -> None:
    first = look(tmp_path)
    file = tmp_path / hardware.FILE
    data = file.read_bytes()
    for bit in range(0, len(data) * 8, 397):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        file.write_bytes(bytes(changed))
        assert look(tmp_path).facts_digest() == first.facts_digest(), bit


def test_a_version_waits_for_what_is_not_known_and_what_served_is_loaded_all_the_same(tmp_path: Path) -> None:
    unknown = host(17, usable=False)
    backend = unknown.backends[0].model_copy(update={"unknown": True})
    evidence = {"backend.onnxruntime": hardware.Evidence(source="a probe", failed=True)}
    unknown = unknown.model_copy(update={"backends": (backend,), "evidence": evidence})
    agent = Agent(tmp_path, unknown, unknown, Path(sys.executable))
    manifest = one_file_manifest(b"no model")
    agent.cache.keep_manifest(manifest.canonical())
    desired = DesiredModel(version=manifest.version, manifest=manifest.canonical_digest())
    with pytest.raises(TransientError) as caught:
        agent.steps.resolve(manifest.model, desired, NEVER)
    assert caught.value.code == Code.FACTS_UNKNOWN
    assert agent.load().code == Code.LOAD_FAILED, "the load was tried: its file is no model"
    assert unfit(choice(), unknown) == ""


def test_a_vendor_tool_that_fails_leaves_the_accelerator_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    from agent.adapters.facts import accelerators as nvidia_facts

    def stall(*_: object, **__: object) -> str:
        raise ToolError("it did not answer within 10 s")

    monkeypatch.setattr(nvidia_facts, "run_tool", stall)
    assert nvidia_facts.probe_nvidia({})[0] is None
