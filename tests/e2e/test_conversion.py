"""Conversions on devices, from the outside: built once, then pulled by every host with the same facts.

ATC and the Ascend are SIMULATED: `simulated_atc` wraps an ONNX file, and `simulated_acl` runs it. INT8 is real.
"""

from __future__ import annotations

import platform
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from registry.client.devices import Client
from scripts.demo.processes import wait_until
from tests.e2e.conftest import DEVICE
from tests.fakes.simulated_acl.om import SIMULATED_CANN, SIMULATED_SOC
from tests.fakes.simulated_atc import running, simulated_atc
from tests.support.models import onnx_models
from tests.support.paths import LENET_FOLDER
from tests.support.programs.fleet import Fleet


def simulated_ascend(folder: Path, mode: str = "") -> dict[str, str]:
    """Settings of an agent on a simulated Ascend host with CANN 8.0.RC1."""
    home = folder / "simulated-cann"
    if not home.exists():
        shutil.copytree(SIMULATED_CANN, home)
        info = home / f"{platform.machine()}-linux" / "ascend_toolkit_install.info"
        info.parent.mkdir()
        info.write_text("package_name=Ascend-cann-toolkit\nversion=8.0.RC1\n")
    tool = simulated_atc(folder / f"tool-{mode or 'works'}", mode)
    path = f"{tool.parent}:/usr/bin:/bin"
    return {"ASCEND_TOOLKIT_HOME": str(home), "PATH": path, "MODELFLEET_AGENT_HEALTH_INTERVAL_S": "1"}


@pytest.fixture(scope="module", autouse=True)
def _published(fleet: Fleet) -> None:
    path = fleet.folder / "linear.onnx"
    path.write_bytes(onnx_models.linear())
    fleet.registry("publish", "linear", str(path), "--version", "1.0.0", "--target", "cpu", "--golden-random", "4")


def variants(fleet: Fleet, reference: str) -> dict[str, dict[str, Any]]:
    found = fleet.registry("show", reference)["manifest"]["variants"]
    return {variant["name"]: variant for variant in found}


def reported(fleet: Fleet, device: str, model: str) -> dict[str, Any]:
    return dict(fleet.registry("devices", "show", device)["reported"]["models"][model])


def test_what_one_simulated_ascend_compiled_the_next_one_pulls(fleet: Fleet) -> None:
    settings = simulated_ascend(fleet.folder)
    for device in ("npu-1", "npu-2"):
        fleet.start_agent(device, fleet.add_device(device), **settings)
    wait_until(lambda: fleet.registry("devices", "show", "npu-1").get("facts"), "facts of npu-1")
    arguments = ("convert", "linear@1.0.0", "--to", "om", "--on", "npu-1", "-O", "dynamic_batch_size=1,2,4")
    shown = fleet.registry(*arguments, "--dry-run")
    assert f"--soc_version={SIMULATED_SOC}" in shown["command"]
    done = fleet.registry(*arguments, "--wait")
    assert done["status"]["state"] == "succeeded"
    name = shown["name"]
    om = variants(fleet, "linear@1.0.0")[name]
    assert (om["build"]["tool"], om["build"]["built_on"]) == ("atc", "npu-1")
    needs = om["requirements"]
    assert (needs["soc_version"], needs["cann_version"]) == (SIMULATED_SOC, "8.0.RC1")
    assert om["parity"]["parity"]["passed"] is True
    assert om["parity"]["backend"].startswith("ascend_acl/")
    for device in ("npu-1", "npu-2"):
        fleet.registry("deploy", "linear@1.0.0", "--device", device, "--wait")
        serving = reported(fleet, device, "linear")
        assert (serving["variant"], serving["backend"].split("/")[0]) == (name, "ascend_acl")
    assert len(list((fleet.folder / "npu-1" / "jobs").glob("*"))) == 0
    with Client(f"mqtt://127.0.0.1:{fleet.broker_port}") as client:
        answer = client.infer("npu-2", "linear", {"x": np.ones((1, 3), np.float32)})
    assert answer["y"].tolist() == [[6.0, 60.0]]


@pytest.mark.parametrize(("mode", "code"), [("silent", "tool_no_output"), ("hang", "tool_timeout")])
def test_a_simulated_atc_that_does_not_do_its_work_fails_the_job_and_leaves_nothing(
    fleet: Fleet, mode: str, code: str
) -> None:
    device = f"npu-{mode}"
    fleet.start_agent(device, fleet.add_device(device), **simulated_ascend(fleet.folder, mode))
    wait_until(lambda: fleet.registry("devices", "show", device).get("facts"), f"facts of {device}")
    before = set(variants(fleet, "linear@1.0.0"))
    arguments = ("convert", "linear@1.0.0", "--to", "om", "--on", device, "-O", "name=other", "--timeout", "3")
    job = fleet.registry(*arguments)["id"]
    wait_until(lambda: fleet.registry("jobs", "show", job)["status"]["state"] == "failed", job)
    status = fleet.registry("jobs", "show", job)["status"]
    assert status["code"] in {code, "job_timeout"}
    assert set(variants(fleet, "linear@1.0.0")) == before
    wait_until(lambda: not list((fleet.folder / device / "jobs").glob("*")), "an empty folder")
    tool = fleet.folder / f"tool-{mode}"
    if mode == "hang":
        wait_until(lambda: not running(tool), "no process")


def test_int8_that_one_device_made_is_served_by_another(fleet: Fleet) -> None:
    fleet.registry("publish", "digits", str(LENET_FOLDER / "lenet.onnx"), "--version", "1.0.0", "--target", "cpu")
    fleet.start_agent("cpu-2", fleet.add_device("cpu-2"))
    done = fleet.registry("convert", "digits@1.0.0", "--to", "onnx-int8", "--on", DEVICE, "--wait")
    made = done["status"]["result"]["variant"]
    assert made["build"]["tool"] == "onnxruntime-quantize"
    fleet.registry("deploy", "digits@1.0.0", "--device", "cpu-2", "--variant", made["name"], "--wait")
    assert reported(fleet, "cpu-2", "digits")["variant"] == made["name"]
    with Client(f"mqtt://127.0.0.1:{fleet.broker_port}") as client:
        answer = client.infer("cpu-2", "digits", {"x": np.zeros((1, 1, 28, 28), np.float32)})
    assert answer["y"].shape == (1, 10)


def test_a_job_that_a_kill_interrupts_is_done_after_the_restart(fleet: Fleet) -> None:
    settings = simulated_ascend(fleet.folder, "hang")
    token = fleet.add_device("npu-killed")
    agent = fleet.start_agent("npu-killed", token, **settings)
    wait_until(lambda: fleet.registry("devices", "show", "npu-killed").get("facts"), "facts of npu-killed")
    tool = fleet.folder / "tool-hang"
    options = ("-O", "name=after-kill", "-O", "dynamic_batch_size=1,2")
    arguments = ("convert", "linear@1.0.0", "--to", "om", "--on", "npu-killed", *options)
    job = fleet.registry(*arguments)["id"]
    wait_until(lambda: len(running(tool)) == 2, "the tool runs")
    agent.kill()
    wait_until(lambda: not running(tool), "no process")
    simulated_atc(fleet.folder / "tool-hang")
    fleet.start_agent("npu-killed", token, **settings)
    over = ("succeeded", "failed")
    wait_until(lambda: fleet.registry("jobs", "show", job)["status"]["state"] in over, job)
    assert fleet.registry("jobs", "show", job)["status"]["code"] == ""
    assert "after-kill" in variants(fleet, "linear@1.0.0")
