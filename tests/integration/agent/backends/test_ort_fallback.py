"""Builds of ONNX Runtime that list an accelerator which does not work: real packages, where one is named.

MODELFLEET_ONNXRUNTIME_GPU_PYTHON and MODELFLEET_ONNXRUNTIME_CANN_PYTHON name the Python of an environment with
onnxruntime-gpu or onnxruntime-cann. On a host without their hardware both list it and fall back to the CPU in silence.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from agent.errors import AgentError
from agent.worker.handle import probe_backend, start_worker
from agent.worker.spec import WorkerSpec
from tests.support.models import onnx_models

BUILDS = {
    "MODELFLEET_ONNXRUNTIME_GPU_PYTHON": ("gpu", "CUDAExecutionProvider"),
    "MODELFLEET_ONNXRUNTIME_CANN_PYTHON": ("ascend310", "CANNExecutionProvider"),
}
_ASK = "import onnxruntime; print(*onnxruntime.get_available_providers())"


@pytest.fixture(params=BUILDS)
def build(request: pytest.FixtureRequest) -> tuple[str, str, str]:
    """(interpreter, target, provider)."""
    python = os.environ.get(request.param)
    if not python:
        pytest.skip(f"{request.param} names no Python")
    return (python, *BUILDS[request.param])


def test_a_provider_that_is_listed_and_falls_back_is_not_a_fact(build: tuple[str, str, str], tmp_path: Path) -> None:
    python, target, provider = build
    told = subprocess.run([python, "-c", _ASK], capture_output=True, text=True, check=True, timeout=60)
    assert provider in told.stdout.split()
    facts = probe_backend("onnxruntime", python)
    assert facts.usable
    if provider in facts.providers:
        pytest.skip(f"{provider} really works on this host")
    assert facts.targets == ("cpu",)
    assert f"{provider} is listed and does not work: " in facts.reason
    directory = onnx_models.write(tmp_path / "artifact", onnx_models.linear())
    spec = WorkerSpec("test", "onnxruntime", directory, "model.onnx", target=target, interpreter=python)
    with pytest.raises(AgentError) as caught:
        start_worker(spec).close(5.0)
    assert caught.value.code == "backend_unavailable"
