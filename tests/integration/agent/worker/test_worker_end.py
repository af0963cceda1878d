"""A worker that is asked to end gives its model and its device back first, on a SIMULATED Ascend."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from agent.worker.handle import start_worker
from agent.worker.measure import Measurement
from agent.worker.spec import WorkerSpec
from tests.fakes.simulated_acl.om import SIMULATED_CANN, simulated_om
from tests.support.clients import worker_client
from tests.support.models import onnx_models

MEASURED = Measurement(run_us=100.0, max_batch=1, lanes=1, fixed=True)


def om_spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes) -> WorkerSpec:
    """Measured before, so that it is loaded once."""
    monkeypatch.setenv("ASCEND_TOOLKIT_HOME", str(SIMULATED_CANN))
    (tmp_path / "om").mkdir()
    (tmp_path / "om" / "model.om").write_bytes(content)
    return WorkerSpec(
        "test", "ascend_acl", str(tmp_path / "om"), "model.om", target="ascend310", slots=4, known=MEASURED
    )


def test_a_worker_that_ends_closes_its_model_and_finalizes_the_simulated_acl(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = start_worker(om_spec(tmp_path, monkeypatch, simulated_om(onnx_models.linear(1), tell_end=1)))
    worker_client.put(worker, 0, np.ones(3, np.float32))
    assert worker_client.ring(worker, [0]) == [0]
    worker.close(10.0)
    assert worker.exit_reason() == "exit status 0: simulated acl.finalize: nothing is left"


def test_a_simulated_teardown_that_fails_is_told_as_the_last_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = simulated_om(onnx_models.linear(1), calls={"rt.reset_device": 507899})
    worker = start_worker(om_spec(tmp_path, monkeypatch, content))
    worker.close(10.0)
    assert "exit status 1" in worker.exit_reason()
    assert "acl.rt.reset_device failed with 507899" in worker.exit_reason()
