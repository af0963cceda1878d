"""Code that came with a checkpoint serves where its signer is trusted, and nowhere else; the registry says why."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from registry.client.devices import Client
from scripts.demo.processes import wait_until
from tests.support.models.checkpoints import safetensors
from tests.support.models.mindspore_python import PYTHON, needs_mindspore
from tests.support.programs.fleet import Fleet

pytestmark = [needs_mindspore, pytest.mark.timeout(300)]
TRUSTS, PLAIN = "edge-1", "edge-2"
MODULE = """
from mindspore import nn

class Own(nn.Cell):
    def __init__(self, classes):
        super().__init__()
        self.dense = nn.Dense(4, classes)

    def construct(self, x):
        return self.dense(x) * 2

def create(classes):
    return Own(classes)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The publisher's."""
    folder = tmp_path_factory.mktemp("publisher")
    (folder / "own.safetensors").write_bytes(safetensors({"dense.weight": (3, 4), "dense.bias": (3,)}, 0.5))
    (folder / "network.py").write_text(MODULE)
    return folder


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory, folder: Path) -> Iterator[Fleet]:
    """Two devices with MindSpore; one trusts the key that own@1.0.0 is signed with."""
    with Fleet(tmp_path_factory.mktemp("fleet")) as running:
        running.start_broker()
        running.start_registry()
        key = running.registry("key", "new", str(folder / "release.key"))
        mindspore = {"MODELFLEET_AGENT_WORKER__INTERPRETERS": json.dumps({"mindspore": PYTHON})}
        trust = {
            "MODELFLEET_AGENT_ENTRY_POINTS__ENABLED": "true",
            "MODELFLEET_AGENT_ENTRY_POINTS__TRUSTED_KEYS": json.dumps([key["public_key"]]),
        }
        for device, more in ((TRUSTS, trust), (PLAIN, {})):  # one after the other: each probes MindSpore
            running.start_agent(device, running.add_device(device), None, **mindspore, **more)
            wait_until(partial(facts, running, device), "the facts", 60)
        running.registry(
            *("publish", "own", str(folder / "own.safetensors"), "--version", "1.0.0", "--target", "cpu"),
            *("--entry-point", f"{folder / 'network.py'}:create", "--network-arg", "classes=3"),
            *("--signing-key", str(folder / "release.key"), "--input", "x:FP32:-1,4", "--output", "y:FP32:-1,3"),
        )
        yield running


def facts(fleet: Fleet, device: str) -> Any:
    return fleet.registry("devices", "show", device)["facts"]


def test_a_device_that_trusts_the_signer_serves_what_the_code_builds(fleet: Fleet) -> None:
    fleet.registry("deploy", "own@1.0.0", "--device", TRUSTS, "--wait")
    with Client(f"mqtt://127.0.0.1:{fleet.broker_port}") as client:
        answer = client.infer(TRUSTS, "own", {"x": np.ones((2, 4), np.float32)})["y"]
    assert answer.tolist() == [[5.0] * 3] * 2  # (4 * 0.5 + 0.5) * 2


def test_the_registry_explains_that_the_other_runs_no_code(fleet: Fleet) -> None:
    explained = fleet.registry("explain", PLAIN, "own@1.0.0", check=False)
    assert "entry_point_disabled" in json.dumps(explained)


def test_a_device_that_trusts_nobody_does_not_serve_it(fleet: Fleet) -> None:
    with pytest.raises(RuntimeError, match="entry_point_disabled"):
        fleet.registry("deploy", "own@1.0.0", "--device", PLAIN, "--wait")
    assert "own" not in fleet.registry("devices", "show", PLAIN)["desired"].get("models", {})


def test_both_say_in_their_facts_whose_code_they_run(fleet: Fleet) -> None:
    def keys(device: str) -> list[str]:
        return [key for backend in facts(fleet, device)["backends"] for key in backend.get("entry_points", [])]

    (variant,) = fleet.registry("show", "own@1.0.0")["manifest"]["variants"]
    assert keys(TRUSTS) == [variant["entry_point"]["key"]]
    assert keys(PLAIN) == []


def test_the_signing_key_stays_with_the_publisher(fleet: Fleet, folder: Path) -> None:
    secret = (folder / "release.key").read_text().splitlines()[1]
    for file in fleet.folder.rglob("*"):
        if file.is_file():
            assert secret.encode() not in file.read_bytes(), file
