"""A real worker process that serves an OM file on a SIMULATED Ascend, which it finds as it would find CANN."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from agent.backends.catalog import CATALOG
from agent.errors import AgentError
from agent.worker.handle import probe_backend, start_worker
from agent.worker.spec import Worker, WorkerSpec
from registry.contracts.catalogue.manifest import FileRef, Format, Requirements, Target, TensorSpec, Variant
from registry.contracts.fit.platforms import BackendFacts, CannFacts, Platform
from registry.contracts.fit.resolution import FitOutcome, judge
from tests.fakes.simulated_acl.om import SIMULATED_CANN, SIMULATED_SOC, simulated_om
from tests.support.clients import worker_client
from tests.support.models import onnx_models

Start = Callable[[bytes], Worker]


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    workers: list[Worker] = []
    monkeypatch.setenv("ASCEND_TOOLKIT_HOME", str(SIMULATED_CANN))

    def _start(content: bytes) -> Worker:
        (tmp_path / "om").mkdir()
        (tmp_path / "om" / "model.om").write_bytes(content)
        spec = WorkerSpec(
            "test",
            "ascend_acl",
            str(tmp_path / "om"),
            "model.om",
            target="ascend310",
            slots=16,
            max_batch=8,
            independent=True,
        )
        workers.append(start_worker(spec))
        return workers[-1]

    yield _start
    for worker in workers:
        worker.close(5.0)


def test_a_worker_measures_and_serves_a_simulated_om(start: Start) -> None:
    worker = start(simulated_om(onnx_models.linear(), gears=(1, 2, 4, 8)))
    assert worker.provider == SIMULATED_SOC
    assert worker.inputs == (TensorSpec(name="x", datatype="FP32", shape=(-1, 3)),)
    assert len(worker.lanes) == 1
    assert 1 <= worker.max_batch <= 8
    for slot in range(16):
        worker_client.put(worker, slot, np.array([slot, 0, 1], np.float32))
    assert worker_client.ring(worker, range(16)) == list(range(16))
    assert [worker_client.get(worker, slot) for slot in range(16)] == [[s + 3, 10 * s + 30] for s in range(16)]


def test_a_worker_serves_a_static_simulated_om(start: Start) -> None:
    worker = start(simulated_om(onnx_models.linear(1)))
    assert (worker.max_batch, worker.inputs[0].shape) == (1, (1, 3))
    worker_client.put(worker, 0, np.ones(3, np.float32))
    assert worker_client.ring(worker, [0]) == [0]
    assert worker_client.get(worker, 0) == [6, 60]


def test_a_worker_says_why_a_simulated_om_does_not_load(start: Start) -> None:
    with pytest.raises(AgentError, match=r"artifact_fault.*507008") as caught:
        start(simulated_om(onnx_models.linear(1), soc="Ascend310B4"))
    assert caught.value.code == "load_failed"


def test_a_run_that_fails_on_the_simulated_device_names_the_vendors_number(start: Start) -> None:
    worker = start(simulated_om(onnx_models.gather_rows(), gears=(1, 2)))
    worker_client.put(worker, 0, np.array(99, np.int64))
    worker_client.ring(worker, [0])
    code, text = worker.layout.error(worker.memory, 0)
    assert code == "run_failed"
    assert "acl.mdl.execute failed with 507011" in text


def om_variant(target: Target) -> Variant:
    file = FileRef(path="model.om", digest="sha256:" + "a" * 64, size=1)
    built_for = Requirements(soc_version=SIMULATED_SOC, cann_version="7.0.0")
    return Variant(name="om", format=Format.OM, target=target, entry="model.om", files=(file,), requirements=built_for)


def test_a_simulated_host_is_probed_and_any_other_is_told_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASCEND_TOOLKIT_HOME", str(SIMULATED_CANN))
    facts = probe_backend("ascend_acl")
    assert (facts.usable, facts.providers, facts.formats) == (True, (SIMULATED_SOC,), ("om",))
    assert facts.targets == ("ascend310",)
    host = Platform(os="linux", arch="aarch64", backends=(facts,), cann=CannFacts(version="8.0.RC1"))
    assert judge(om_variant(Target.ASCEND310), host).outcome is FitOutcome.PASS
    assert judge(om_variant(Target.ASCEND910), host).outcome is not FitOutcome.PASS
    monkeypatch.setenv("ASCEND_TOOLKIT_HOME", "relative/folder")
    monkeypatch.delenv("ASCEND_HOME_PATH", raising=False)
    missing: BackendFacts = probe_backend("ascend_acl")
    assert not missing.usable
    assert CATALOG["ascend_acl"].install in missing.reason
