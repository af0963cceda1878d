"""The vendors' commands and files as a host has them: absent, lying, hanging, talking for ever."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

from agent.adapters.facts import hardware, nvml_probe
from agent.adapters.facts.accelerators import probe_ascend, probe_cann, probe_nvidia
from agent.adapters.facts.vendor_tool import ToolError, run_tool
from registry.contracts.fit.platforms import AscendFacts
from tests.support.paths import DATA

DATA = DATA / "npu-smi"


def npu_smi(folder: Path, script: str) -> dict[str, str]:
    """A command of that name, first in PATH."""
    tool = folder / "npu-smi"
    tool.write_text("#!/bin/sh\n" + script)
    tool.chmod(0o755)
    return {"PATH": f"{folder}:{os.environ['PATH']}"}


def test_npu_smi_is_asked_and_its_table_read(tmp_path: Path) -> None:
    facts, reason = probe_ascend(npu_smi(tmp_path, f"cat {DATA}/310P3-duo.txt"))
    assert facts is not None
    assert (facts.soc, facts.driver, reason) == ("Ascend310P3", "24.1.1", "")


def test_npu_smi_speaks_english_whatever_the_agents_language(tmp_path: Path) -> None:
    environ = npu_smi(tmp_path, f'[ "$LC_ALL" = C ] && cat {DATA}/310.txt') | {"LC_ALL": "zh_CN.UTF-8"}
    assert probe_ascend(environ)[1] == ""


@pytest.mark.parametrize(
    ("script", "said"),
    [
        (f"cat {DATA}/broken.txt; exit 1", "dcmi module initialize failed"),
        ("exit 3", "status 3"),
        ("echo hello", "no chip"),
        ("yes", "printed more than"),
    ],
)
def test_an_npu_smi_that_does_not_work_is_a_reason(tmp_path: Path, script: str, said: str) -> None:
    facts, reason = probe_ascend(npu_smi(tmp_path, script))
    assert facts is None
    assert said in reason


def test_a_command_that_hangs_is_given_up_and_killed_with_its_children(tmp_path: Path) -> None:
    mark = tmp_path / "child"
    with pytest.raises(ToolError, match="did not answer"):
        run_tool(["/bin/sh", "-c", f"sleep 600 & echo $! > {mark}; wait"], {}, timeout_s=0.5)
    child = int(mark.read_text())
    deadline = time.monotonic() + 5
    while _runs(child):
        assert time.monotonic() < deadline, "the child of the command still runs"


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_command_that_is_not_there_is_a_reason() -> None:
    with pytest.raises(ToolError, match="does not start"):
        run_tool(["/nowhere/npu-smi", "info"], {})


def test_without_tool_and_devices_there_is_certainly_no_chip(tmp_path: Path) -> None:
    facts, reason = probe_ascend({"PATH": str(tmp_path)}, devices=tmp_path)
    assert facts is not None
    assert facts.chips == 0
    assert "npu-smi" in reason
    (tmp_path / "davinci0").touch()
    facts, reason = probe_ascend({"PATH": str(tmp_path)}, devices=tmp_path)
    assert facts is None
    assert "install the driver's tools" in reason


def test_cann_is_read_from_its_own_files(tmp_path: Path) -> None:
    home = tmp_path / "toolkit"
    (home / "aarch64-linux").mkdir(parents=True)
    (home / "aarch64-linux" / "ascend_toolkit_install.info").write_text("package_name=x\nversion=8.0.RC1\n")
    (home / "opp").mkdir()
    (home / "opp" / "version.info").write_text("Version=7.3.0.1.231\n")
    facts, source = probe_cann({"ASCEND_TOOLKIT_HOME": str(home)}, "aarch64")
    assert facts is not None
    assert (facts.version, facts.opp) == ("8.0.RC1", "7.3.0.1.231")
    assert source.endswith("ascend_toolkit_install.info")
    none, reason = probe_cann({"ASCEND_TOOLKIT_HOME": str(home)}, "x86_64")
    assert none is None
    assert "set_env.sh" in reason


def test_a_driver_that_is_upgraded_makes_another_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = tmp_path / "version.info"
    monkeypatch.setattr(hardware, "DRIVER_INFO", driver)

    def key(**environ: str) -> str:
        return hardware.probe_key(("1",), {"onnxruntime": Path(sys.executable)}, environ, "x86_64")

    before = key()
    assert key() == before
    driver.write_text("Version=23.0.0")
    after = key()
    assert after != before
    home = tmp_path / "cann" / "x86_64-linux"
    home.mkdir(parents=True)
    keys = {
        after,
        key(LD_LIBRARY_PATH="/opt"),
        key(ASCEND_TOOLKIT_HOME=str(home.parent)),
        key(CUDA_VISIBLE_DEVICES="1"),
    }
    (home / "ascend_toolkit_install.info").write_text("version=8.0.0")
    keys.add(key(ASCEND_TOOLKIT_HOME=str(home.parent)))
    assert len(keys) == 5
    assert key(HOME="/root") == after


def test_a_chip_that_comes_and_a_tool_that_is_installed_make_another_key(tmp_path: Path) -> None:
    devices, tools = tmp_path / "dev", tmp_path / "bin"
    devices.mkdir()
    tools.mkdir()

    def key() -> str:
        environ = {"PATH": str(tools)}
        return hardware.probe_key(("1",), {"onnxruntime": Path(sys.executable)}, environ, "x86_64", devices)

    keys = [key(), key()]
    (devices / "davinci_manager").touch()
    keys.append(key())
    (devices / "davinci0").touch()
    keys.append(key())
    (devices / "nvidia0").touch()
    keys.append(key())
    tool = tools / "npu-smi"
    tool.touch(0o755)
    keys.append(key())
    os.utime(tool, (1, 1))
    keys.append(key())
    tool.write_text("another one, with the time of the first, as a package has it")
    os.utime(tool, (1, 1))
    keys.append(key())
    assert len(set(keys[:3])) == 1
    assert len(set(keys)) == 6


def test_a_chips_health_is_not_kept_from_one_start_to_the_next(tmp_path: Path) -> None:
    hardware.keep(tmp_path, hardware.Probed(key="1", ascend=AscendFacts(soc="Ascend310P3", chips=1, health="OK")))
    kept = hardware.kept(tmp_path)
    assert kept is not None
    assert kept.ascend == AscendFacts(soc="Ascend310P3", chips=1)


def test_nvml_is_asked_in_a_process_of_its_own(tmp_path: Path) -> None:
    if "error" not in nvml_probe.look():
        pytest.skip("this host has an NVIDIA driver")
    facts, reason = probe_nvidia(dict(os.environ), devices=tmp_path)
    assert facts is not None
    assert facts.gpus == 0
    assert "no NVIDIA GPU" in reason
    (tmp_path / "nvidia0").touch()
    facts, reason = probe_nvidia(dict(os.environ), devices=tmp_path)
    assert facts is None
    assert "NVIDIA's devices" in reason or "nvidia-ml-py" in reason
