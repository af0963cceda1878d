"""Jobs of kind evaluate on a real worker: what a validation set scores, and what it is refused for."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agent.adapters.disk.artifact_cache import ArtifactCache
from agent.adapters.network.registry_client import RegistryClient
from agent.config.settings import AgentConfig
from agent.errors import PermanentError, StepCancelledError, TransientError
from agent.jobs.context import JobContext
from agent.jobs.evaluate import evaluate
from registry.contracts.device.deployments import Job, JobKind
from registry.contracts.fit.platforms import BackendFacts, Platform
from registry.contracts.tensor_file import Tensor, write_tensors
from registry.contracts.tensors import NUMPY_NAME, Datatype
from registry.contracts.wire import digest_of
from tests.fakes.registry_simulator import RegistrySimulator, one_file_manifest
from tests.support.models import onnx_models

HOST = Platform(
    os="linux",
    arch="x86_64",
    backends=(BackendFacts(name="onnxruntime", usable=True, formats=("onnx",), targets=("cpu",)),),
)
X = np.array([[1, 0, 0], [-1, 0, 0], [0, 2, 0], [0, 0, -3], [1, 1, 1]], "<f4")
"""Through onnx_models.linear: the second class wins where the sum is positive, else the first."""
CLASSES = [1, 0, 1, 0, 1]


def tensor(values: Any, datatype: Datatype = Datatype.FP32) -> Tensor:
    array = np.asarray(values, NUMPY_NAME[datatype])
    return Tensor(datatype, array.shape, array.tobytes())


def digits(**changes: Tensor) -> bytes:
    return write_tensors({"in/x": tensor(X), "labels": tensor(CLASSES, Datatype.INT64), **changes})


class Device:
    """An agent's parts that a job gets, against a registry that has one version and one validation set."""

    def __init__(self, folder: Path, registry: RegistrySimulator) -> None:
        self.registry = registry
        self.folder = folder
        self.client = RegistryClient(registry.url, "edge-1", token="secret", ca_file=None, timeout_s=5)
        self.told: list[str] = []

    def publish(self, model: bytes, inputs: list[Any], outputs: list[Any]) -> None:
        variant = {"inputs": inputs, "outputs": outputs}
        self.manifest = one_file_manifest(model, model="linear", version="1", **variant)
        self.registry.publish(self.manifest, model)

    def evaluate(self, content: bytes, metric: str = "accuracy", **changes: Any) -> dict[str, Any]:
        self.registry.publish(self.manifest, content)
        job = Job(
            kind=JobKind.EVALUATE,
            model="linear",
            version="1",
            manifest=self.manifest.canonical_digest(),
            dataset=digest_of(content),
            dataset_bytes=len(content),
            metric=metric,
        )
        job = job.model_copy(update=changes)
        folder = self.folder / f"job{len(list(self.folder.iterdir()))}"
        folder.mkdir()
        cache = ArtifactCache(self.folder / "cache", limit=1 << 40, reserve=0)
        cache.open()
        context = JobContext(
            id="evaluate-1",
            config=AgentConfig(device="edge-1"),
            cache=cache,
            registry=self.client,
            facts=lambda: HOST,
            folder=folder,
            cancel=threading.Event(),
            progress=lambda _done, text: self.told.append(text),
        )
        return evaluate(job, self.changed(context))

    changed: Callable[[JobContext], JobContext] = staticmethod(lambda context: context)


def spec(name: str, *shape: int, datatype: str = "FP32") -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": shape}


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Device]:
    registry = RegistrySimulator(token="secret").start()
    found = Device(tmp_path, registry)
    found.publish(onnx_models.linear(), [spec("x", -1, 3)], [spec("y", -1, 2)])
    yield found
    found.client.close()
    registry.stop()


def test_a_validation_set_is_scored_by_the_variant_that_fits(device: Device) -> None:
    result = device.evaluate(digits())
    assert (result["value"], result["items"], result["variant"]) == (1.0, 5, "onnx-cpu")
    assert result["backend"] == "onnxruntime/CPUExecutionProvider"
    assert result["seconds"] >= 0
    assert device.told[-1] == "5 of 5 items"
    wrong = digits(labels=tensor([1, 1, 1, 1, 1], Datatype.UINT8))
    assert device.evaluate(wrong)["value"] == 0.6
    assert device.evaluate(wrong, source="onnx-cpu")["value"] == 0.6
    assert device.evaluate(wrong, "macro_f1")["value"] == pytest.approx((0.75 + 0) / 2)


def test_agreement_is_with_the_expected_scores(device: Device) -> None:
    content = write_tensors({"in/any": tensor(X), "out/y": tensor(np.tile([0.1, 0.9], (5, 1)))})
    assert device.evaluate(content, "agreement")["value"] == 0.6
    with pytest.raises(PermanentError, match="needs labels"):
        device.evaluate(content)
    with pytest.raises(PermanentError, match="needs out/y"):
        device.evaluate(digits(), "agreement")


def test_many_items_go_in_batches_and_a_fixed_batch_is_filled_up(device: Device) -> None:
    many = write_tensors({"in/x": tensor(np.tile(X, (50, 1))), "labels": tensor(CLASSES * 50, Datatype.INT32)})
    assert device.evaluate(many)["items"] == 250
    assert device.told[-1] == "250 of 250 items"
    device.publish(onnx_models.linear(3), [spec("x", 3, 3)], [spec("y", 3, 2)])
    assert device.evaluate(many)["value"] == 1.0
    assert device.told[-1] == "250 of 250 items"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"no such file", "its header"),
        (digits(labels=tensor([0, 1, 2, 0, 0], Datatype.INT64)), "not all from 0 to 1"),
        (digits(labels=tensor([0, 1, -1, 0, 0], Datatype.INT64)), "not all from 0 to 1"),
        (digits(**{"in/x": tensor(np.zeros((5, 4)))}), r"FP32 \[4\], the model takes FP32 \[3\]"),
        (digits(**{"in/x": tensor(np.zeros((5, 3)), Datatype.FP64)}), "FP64"),
        (digits(**{"in/z": tensor(X)}), ""),
    ],
)
def test_a_set_that_does_not_go_with_the_model_is_refused(device: Device, content: bytes, says: str) -> None:
    if not says:
        assert device.evaluate(content)["value"] == 1.0, "inputs that the model does not have are not looked at"
        return
    with pytest.raises(PermanentError, match=says) as error:
        device.evaluate(content)
    assert error.value.code == "bad_option"


def test_metrics_that_are_not_there_and_bytes_that_are_not_the_sets_are_refused(device: Device) -> None:
    with pytest.raises(PermanentError, match="no metric 'luck'"):
        device.evaluate(digits(), "luck")
    with pytest.raises(PermanentError):
        device.evaluate(digits(), dataset_bytes=0)
    with pytest.raises((TransientError, PermanentError)):
        device.evaluate(digits(), dataset=digest_of(b"another"))


def test_a_cancelled_evaluation_stops_and_leaves_no_worker(device: Device) -> None:
    def cancelling(context: JobContext) -> JobContext:
        def progress(_done: float | None, text: str) -> None:
            if "items" in text:
                context.cancel.set()

        return replace(context, progress=progress)

    device.changed = cancelling
    many = write_tensors({"in/x": tensor(np.tile(X, (50, 1))), "labels": tensor(CLASSES * 50, Datatype.INT32)})
    with pytest.raises(StepCancelledError):
        device.evaluate(many)
