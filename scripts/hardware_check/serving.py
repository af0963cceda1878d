"""A registry, a broker and one agent on this host: publish, deploy, ask over MQTT, compare with ONNX Runtime's CPU."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from registry.client.devices import Client
from scripts.demo.processes import Fleet, wait_until
from scripts.hardware_check.models import CheckModel
from scripts.hardware_check.report import CheckError, Step

DEVICE = "check"


@contextmanager
def running_fleet(folder: Path) -> Iterator[Fleet]:
    """Broker, registry and an agent that are online; what the host has is known."""
    with Fleet(folder) as fleet:
        fleet.start_broker()
        fleet.start_registry()
        fleet.start_agent(DEVICE, fleet.add_device(DEVICE), MODELFLEET_AGENT_HEALTH_INTERVAL_S="2")
        wait_until(lambda: fleet.registry("devices", "show", DEVICE).get("facts"), "the device's facts")
        yield fleet


def reference(model: CheckModel, items: NDArray[Any]) -> NDArray[Any]:
    """What ONNX Runtime's CPU provider answers, item by item."""
    session = ort.InferenceSession(str(model.path), providers=["CPUExecutionProvider"])
    return np.concatenate([session.run([model.output], {model.input: items[i : i + 1]})[0] for i in range(len(items))])


def difference(got: NDArray[Any], want: NDArray[Any]) -> float:
    """The largest |got - want| relative to max(1, |want|); infinite where one is NaN and the other is not."""
    if got.shape != want.shape:
        return float("inf")
    a, b = got.astype(np.float64), want.astype(np.float64)
    worst = np.abs(a - b) / np.maximum(1, np.abs(b))
    return float(np.where(np.isnan(worst), np.where(np.isnan(a) & np.isnan(b), 0, np.inf), worst).max(initial=0))


def publish_and_deploy(fleet: Fleet, target: str, model: CheckModel) -> float:
    """Version 1.0.0 with one variant for `target`; seconds from the deployment until the device says that it serves."""
    fleet.registry("publish", model.name, str(model.path), "--version", "1.0.0", "--target", target)
    return deploy(fleet, model.name, "1.0.0")


def deploy(fleet: Fleet, model: str, version: str, *options: str) -> float:
    """Seconds until the device says that it serves this version."""
    began = time.monotonic()
    fleet.registry("deploy", f"{model}@{version}", "--device", DEVICE, "--wait", *options)
    return time.monotonic() - began


def reported(fleet: Fleet, model: str) -> dict[str, Any]:
    """What the device says of the model: backend and provider, largest batch."""
    device = fleet.registry("devices", "show", DEVICE)
    found = _find(device, model)
    if found is None:
        raise CheckError(f"the device does not report {model}: {json.dumps(device)[:800]}")
    return found


def _find(document: Any, model: str) -> dict[str, Any] | None:
    """The report of a model, wherever it stands in the document."""
    if isinstance(document, dict):
        mine = document.get(model)
        if isinstance(mine, dict) and "backend" in mine:
            return mine
        if document.get("model") == model and "backend" in document:
            return document
    for value in document.values() if isinstance(document, dict) else document if isinstance(document, list) else ():
        found = _find(value, model)
        if found is not None:
            return found
    return None


def serve(
    step: Step, fleet: Fleet, models: list[CheckModel], provider: str, bring: Callable[[CheckModel], float]
) -> None:
    """Each model brought to the device and asked 64 times, values compared. CheckError when one is wrong.

    `bring` publishes and deploys a model and says how long the device took.
    """
    rows, faults = [], []
    with Client(f"mqtt://127.0.0.1:{fleet.broker_port}") as client:
        for model in models:
            seconds = bring(model)
            items = model.items(64)
            want = reference(model, items)
            got = [client.infer(DEVICE, model.name, {model.input: items[i : i + 1]}) for i in range(len(items))]
            worst = max(difference(a[model.output], want[i : i + 1]) for i, a in enumerate(got))
            same = sum(int(a[model.output].argmax()) == int(want[i].argmax()) for i, a in enumerate(got))
            latency = sorted(answer.seconds for answer in got)[len(got) // 2] * 1e3
            report = reported(fleet, model.name)
            ran = str(report["backend"])
            rows.append(
                (model.name, ran, report.get("max_batch"), f"{seconds:.1f} s", f"{worst:.2g}", f"{same} of {len(got)}",
                 f"{latency:.2f} ms")
            )  # fmt: skip
            if provider not in ran:
                faults.append(f"{model.name} runs on {ran}, not on {provider}")
            if worst > model.tolerance:
                faults.append(f"{model.name} differs by {worst:.2g}, more than {model.tolerance:g}")
            step.data[model.name] = {"runs_on": ran, "worst": worst, "same_class": same, "p50_ms": latency,
                                     "max_batch": report.get("max_batch"), "deploy_s": seconds}  # fmt: skip
    step.table(
        ("model", "ran on", "largest batch", "deployed in", "largest difference", "same class", "p50 one by one"), rows
    )
    step.say("The largest difference is to ONNX Runtime's CPU provider, relative to max(1, value).")
    if faults:
        raise CheckError("; ".join(faults))
