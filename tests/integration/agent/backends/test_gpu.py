"""What needs an NVIDIA GPU: run wherever one is, skipped with the probe's own reason elsewhere."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from agent.worker.handle import probe_backend, start_worker
from agent.worker.spec import WorkerSpec
from tests.support.clients import worker_client
from tests.support.models import onnx_models

pytestmark = pytest.mark.gpu


def on_gpu(backend: str) -> tuple[str, ...]:
    """The providers of a backend that works on a GPU here."""
    facts = probe_backend(backend)
    if "gpu" not in facts.targets:
        pytest.skip(f"{backend} has no GPU here: {facts.reason or 'no provider for one is installed'}")
    return facts.providers


@pytest.mark.parametrize("provider", ["CUDAExecutionProvider", "TensorrtExecutionProvider"])
def test_onnx_computes_on_the_gpu(tmp_path: Path, provider: str) -> None:
    if provider not in on_gpu("onnxruntime"):
        pytest.skip(f"{provider} does not work here")
    directory = onnx_models.write(tmp_path / "artifact", onnx_models.linear())
    spec = WorkerSpec(
        "test",
        "onnxruntime",
        directory,
        "model.onnx",
        target="gpu",
        settings={"provider": provider},
        engines=str(tmp_path / "engines"),
        load_timeout_s=110,
        slots=16,
    )
    worker = start_worker(spec)
    try:
        assert worker.provider.startswith(provider)
        worker_client.put(worker, 0, np.ones(3, np.float32))
        assert worker_client.ring(worker, [0]) == [0]
        assert worker_client.get(worker, 0) == pytest.approx([6, 60], rel=1e-3)
    finally:
        worker.close(10.0)


def test_a_gpu_host_says_which_tensorrt_runs_plans() -> None:
    (provider,) = on_gpu("tensorrt_plan")
    assert provider.startswith("TensorRT ")
