"""One version in two forms, ONNX and MindIR, on one device that runs both: the same digits from either."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from PIL import Image

from scripts.demo.client import FleetClient
from scripts.demo.processes import Fleet, wait_until
from tests.e2e.conftest import DEVICE, LENET
from tests.support.mindspore_python import PYTHON, needs_mindspore

pytestmark = needs_mindspore
SCRIPT = Path(__file__).parents[1] / "support" / "mindspore_models.py"
DIGITS = sorted((LENET / "digits").glob("*.png"))
PUBLISH = """
model = "lenet"
version = "1.0.0"
[[variant]]
file = "lenet.onnx"
target = "cpu"
[[variant]]
file = "lenet.mindir"
target = "cpu"
[[variant.inputs]]
name = "x"
datatype = "FP32"
shape = [-1, 1, 28, 28]
[[variant.outputs]]
name = "y"
datatype = "FP32"
shape = [-1, 10]
"""


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Like the other fleets; the device has a Python with MindSpore, and lenet@1.0.0 is published in both forms."""
    folder = tmp_path_factory.mktemp("fleet")
    model = onnx.load(LENET / "lenet.onnx")
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    np.savez(folder / "weights.npz", **weights)  # type: ignore[arg-type]  # NumPy's stub takes them for its switch
    command = [PYTHON, "-I", str(SCRIPT), "lenet", str(folder / "weights.npz"), str(folder / "lenet.mindir")]
    subprocess.run(command, check=True, timeout=100, capture_output=True)
    (folder / "lenet.onnx").write_bytes((LENET / "lenet.onnx").read_bytes())
    (folder / "lenet.toml").write_text(PUBLISH)
    with Fleet(folder) as running:
        running.start_broker()
        running.start_registry()
        interpreters = json.dumps({"mindspore": PYTHON})
        token = running.add_device(DEVICE)
        running.start_agent(DEVICE, token, MODELFLEET_AGENT_WORKER__INTERPRETERS=interpreters)
        wait_until(lambda: running.registry("devices", "show", DEVICE)["facts"], "the device's facts", 60)
        running.registry("publish", str(folder / "lenet.toml"))
        yield running


def answers(fleet: Fleet, client: FleetClient, variant: str) -> list[np.ndarray]:
    """Every digit through one variant, once the device serves it."""
    fleet.registry("deploy", "lenet@1.0.0", "--device", DEVICE, "--variant", variant, "--wait")
    served = fleet.registry("devices", "show", DEVICE)["reported"]["models"]["lenet"]
    assert (served["variant"], served["state"]) == (variant, "serving")
    grey = [np.asarray(Image.open(file).convert("L"), np.float32).reshape(1, 1, 28, 28) for file in DIGITS]
    return [client.ask_tensors(DEVICE, "lenet", x=pixels / np.float32(255)).tensors["y"] for pixels in grey]


def test_a_device_with_two_environments_offers_both(fleet: Fleet) -> None:
    backends = {b["name"]: b for b in fleet.registry("devices", "show", DEVICE)["facts"]["backends"]}
    assert backends["onnxruntime"]["usable"]
    assert backends["mindspore"]["usable"]
    assert "cpu" in backends["mindspore"]["targets"]


def test_mindir_and_onnx_agree_over_mqtt(fleet: Fleet, client: FleetClient) -> None:
    through_mindspore = np.concatenate(answers(fleet, client, "mindir-cpu"))
    through_onnx = np.concatenate(answers(fleet, client, "onnx-cpu"))
    assert np.abs(through_mindspore - through_onnx).max() < 1e-4
    assert [str(digit) for digit in through_mindspore.argmax(1)] == [file.stem.split("-")[1] for file in DIGITS]
