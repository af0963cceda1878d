"""Proven equal and evaluated: golden vectors on the publisher's machine and on a device, one score on both."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from scripts.demo.processes import wait_until
from tests.e2e.conftest import DEVICE
from tests.support.paths import LENET_FOLDER
from tests.support.programs.fleet import Fleet

DIGITS = sorted((LENET_FOLDER / "digits").glob("*.png"))


@pytest.fixture(scope="module", autouse=True)
def _lenet_serves(fleet: Fleet) -> None:
    fleet.registry("publish", str(LENET_FOLDER / "lenet.toml"), "--golden-random", "5")
    fleet.registry("deploy", "lenet@1.0.0", "--device", DEVICE, "--wait")


@pytest.fixture(scope="module")
def _digits_test(fleet: Fleet, tmp_path_factory: pytest.TempPathFactory) -> None:
    pixels = [np.asarray(Image.open(file).convert("L"), np.float32)[None] / 255 for file in DIGITS]
    labels = [int(file.stem.split("-")[1]) for file in DIGITS]
    file = tmp_path_factory.mktemp("digits") / "digits.npz"
    np.savez(file, x=np.stack(pixels), y=np.array(labels))
    fleet.registry("dataset", "add", "digits-test", str(file))


def test_a_device_reports_how_it_answers_the_golden_vectors(fleet: Fleet) -> None:
    def measured() -> bool:
        return DEVICE in [row["device"] for row in fleet.registry("show", "lenet@1.0.0")["parity"]]

    wait_until(measured, "the device's parity")
    here, there = fleet.registry("show", "lenet@1.0.0")["parity"]
    assert (here["device"], here["parity"]["cases"]) == (None, 5)
    assert there["variant"] == here["variant"]
    assert there["parity"]["passed"]
    assert there["parity"]["max_abs"] < 1e-4
    assert there["parity"]["run_us"] > 0


@pytest.mark.usefixtures("_digits_test")
def test_a_version_scores_the_same_here_and_on_the_device(fleet: Fleet) -> None:
    (here,) = fleet.registry("evaluate", "lenet@1.0.0", "--dataset", "digits-test")
    (there,) = fleet.registry("evaluate", "lenet@1.0.0", "--dataset", "digits-test", "--on", DEVICE)
    assert (here["device"], there["device"]) == (None, DEVICE)
    assert there["value"] == here["value"] == 1.0, "the model was trained to read these"
    assert there["items"] == len(DIGITS)
    assert there["backend"] == "onnxruntime/CPUExecutionProvider"
    shown = fleet.registry("show", "lenet@1.0.0")["evaluations"]
    assert [view["device"] for view in shown] == [DEVICE, None]
    assert fleet.registry("devices", "show", DEVICE)["reported"]["models"]["lenet"]["state"] == "serving"
