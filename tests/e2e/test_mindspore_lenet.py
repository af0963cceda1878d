"""LeNet-5, trained with MindSpore on real digits: checkpoint, MindIR and ONNX serve on a CPU and are equally good."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from registry.client.devices import Client
from registry.mindspore_networks import table
from scripts.demo.processes import wait_until
from tests.e2e.conftest import DEVICE
from tests.support.models.mindspore_python import PYTHON, needs_mindspore
from tests.support.programs.fleet import Fleet

pytestmark = [needs_mindspore, pytest.mark.timeout(500)]
SCRIPT = Path(__file__).parents[1] / "support" / "models" / "mindspore_training.py"
PUBLISH = """
model = "lenet"
version = "1.0.0"
aliases = ["mnist"]
[labels]
dataset = "digits"
[[variant]]
file = "lenet.ckpt"
target = "cpu"
[variant.network]
name = "lenet5"
arguments = { num_class = 10 }
[[variant]]
file = "lenet.mindir"
target = "cpu"
[[variant.inputs]]
name = "x"
datatype = "FP32"
shape = [-1, 1, 32, 32]
[[variant.outputs]]
name = "y"
datatype = "FP32"
shape = [-1, 10]
[[variant]]
file = "lenet.onnx"
target = "cpu"
"""
PROVIDERS = {
    "mindspore-ckpt-cpu": "MindSpore CPU",
    "mindir-cpu": "MindSpore CPU",
    "onnx-cpu": "CPUExecutionProvider",
}
"""What really computes each variant."""
FLOOR = 0.95
TOLERANCE = 1e-4


class Scored(NamedTuple):
    """What each variant was found to do, by its name."""

    answers: dict[str, np.ndarray]
    """Over MQTT, to every picture that was not trained on: [397, 10]."""
    evaluations: dict[str, dict[str, Any]]
    """What `registry evaluate` says of the device, while it serves that variant."""


def started(order: str, folder: Path) -> subprocess.Popen[str]:
    command = [PYTHON, "-I", str(SCRIPT), order, str(Path(table.__file__).parent), str(folder)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def wait(process: subprocess.Popen[str]) -> None:
    errors = process.communicate(timeout=300)[1]
    assert process.returncode == 0, errors[-3000:]


@pytest.fixture(scope="module")
def training(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, subprocess.Popen[str]]]:
    """Goes on while the fleet starts and its device looks at what it has; `trained` waits for the end."""
    folder = tmp_path_factory.mktemp("trained")
    process = started("train", folder)
    yield folder, process
    process.kill()
    process.communicate()


@pytest.fixture(scope="module")
def trained(training: tuple[Path, subprocess.Popen[str]]) -> Path:
    folder, process = training
    wait(process)
    wait(started("onnx", folder))
    (folder / "lenet.toml").write_text(PUBLISH)
    return folder


@pytest.fixture(scope="module")
def fleet(
    tmp_path_factory: pytest.TempPathFactory, training: object, request: pytest.FixtureRequest
) -> Iterator[Fleet]:
    """Like the other fleets; the device has a Python with MindSpore, and lenet@1.0.0 is published in three forms."""
    with Fleet(tmp_path_factory.mktemp("fleet")) as running:
        running.start_broker()
        running.start_registry()
        interpreters = json.dumps({"mindspore": PYTHON})
        token = running.add_device(DEVICE)
        running.start_agent(DEVICE, token, MODELFLEET_AGENT_WORKER__INTERPRETERS=interpreters)
        wait_until(lambda: running.registry("devices", "show", DEVICE)["facts"], "the device's facts", 60)
        trained = request.getfixturevalue("trained")
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("MODELFLEET_MINDSPORE_PYTHON", PYTHON)  # so that publishing measures the MindIR too
            running.registry("publish", str(trained / "lenet.toml"))
        yield running


@pytest.fixture(scope="module")
def scored(fleet: Fleet, trained: Path) -> Scored:
    """Each variant is deployed by name, asked over MQTT, and evaluated on the device that serves it now."""
    with np.load(trained / "test.npz") as test:
        pictures, labels = test["pictures"], test["labels"]
    np.savez(trained / "digits-test.npz", x=pictures, y=labels)
    fleet.registry("dataset", "add", "digits-test", str(trained / "digits-test.npz"))
    wanted = ("lenet@1.0.0", "--dataset", "digits-test", "--on", DEVICE, "--metric", "accuracy")
    found = Scored({}, {})
    with Client(f"mqtt://127.0.0.1:{fleet.broker_port}") as client:
        for variant, provider in PROVIDERS.items():
            fleet.registry("deploy", "lenet@1.0.0", "--device", DEVICE, "--variant", variant, "--wait")
            served = fleet.registry("devices", "show", DEVICE)["reported"]["models"]["lenet"]
            assert (served["variant"], served["state"]) == (variant, "serving")
            assert provider in json.dumps(served)
            parts = [client.infer(DEVICE, "lenet", {"x": part})["y"] for part in np.array_split(pictures, 8)]
            found.answers[variant] = np.concatenate(parts)
            said = {view["variant"]: view for view in fleet.registry("evaluate", *wanted)}
            found.evaluations[variant] = said[variant]
    return found


def test_a_device_with_two_environments_offers_both(fleet: Fleet) -> None:
    backends = {b["name"]: b for b in fleet.registry("devices", "show", DEVICE)["facts"]["backends"]}
    assert backends["onnxruntime"]["usable"]
    assert backends["mindspore"]["usable"]
    assert "cpu" in backends["mindspore"]["targets"]
    assert "lenet5" in backends["mindspore"]["networks"]


def test_every_form_is_as_good_as_the_training_made_it(scored: Scored, trained: Path) -> None:
    labels = np.load(trained / "test.npz")["labels"]
    accuracy = {variant: float((answers.argmax(1) == labels).mean()) for variant, answers in scored.answers.items()}
    assert len(labels) == 397
    assert len(set(accuracy.values())) == 1, accuracy
    assert min(accuracy.values()) > FLOOR, accuracy


def test_evaluate_finds_the_accuracy_that_clients_see_for_every_form(
    fleet: Fleet, scored: Scored, trained: Path
) -> None:
    labels = np.load(trained / "test.npz")["labels"]
    for variant, evaluation in scored.evaluations.items():
        seen = float((scored.answers[variant].argmax(1) == labels).mean())
        assert (evaluation["value"], evaluation["items"]) == (pytest.approx(seen), 397), variant
        assert PROVIDERS[variant] in evaluation["backend"]
    shown = fleet.registry("show", "lenet@1.0.0")["evaluations"]
    kept = {(view["version"], view["variant"], view["device"], view["metric"]): view["value"] for view in shown}
    assert set(kept) == {("1.0.0", variant, DEVICE, "accuracy") for variant in PROVIDERS}
    assert len(set(kept.values())) == 1, kept


def test_every_form_answers_the_same(scored: Scored) -> None:
    reference = scored.answers["mindspore-ckpt-cpu"]
    assert np.abs(reference).max() > 1  # scores of a trained network, not noise around zero
    for variant, answers in scored.answers.items():
        assert np.abs(answers - reference).max() < TOLERANCE, variant
        assert (answers.argmax(1) == reference.argmax(1)).all(), variant


def test_publishing_measured_the_forms_that_run_here(fleet: Fleet) -> None:
    variants = fleet.registry("show", "lenet@1.0.0")["manifest"]["variants"]
    measured = {variant["format"] for variant in variants if variant.get("parity")}
    assert measured == {"onnx", "mindir", "mindspore-ckpt"}


def test_what_the_optimizer_saved_is_in_the_published_file_and_does_no_harm(fleet: Fleet) -> None:
    (checkpoint,) = [
        variant
        for variant in fleet.registry("show", "lenet@1.0.0")["manifest"]["variants"]
        if variant["format"] == "mindspore-ckpt"
    ]
    assert checkpoint["network"] == {"name": "lenet5", "arguments": {"num_class": 10}}
    assert checkpoint["files"][0]["size"] > 2 * 247_000  # moments of Adam beside the weights
