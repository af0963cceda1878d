"""The checks for hosts with hardware that CI does not have, rehearsed without it: they run and say what they found."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from scripts.hardware_check import ascend, gpu
from tests.support.paths import ROOT

pytestmark = pytest.mark.timeout(300)
PROGRAM = """
import sys
from scripts.hardware_check import {check}, serving
from tests.support.programs.fleet import Fleet
serving.Fleet = Fleet
sys.exit({check}.main())
"""
"""The check as its script runs it, but that `registry` and `agent` are forked."""


def rehearse(check: str, steps: str, out: Path) -> dict[str, Any]:
    """The JSON report of a rehearsal; the Markdown beside it must have every step."""
    argv = [
        sys.executable,
        "-c",
        PROGRAM.format(check=check),
        "--rehearse",
        "--quick",
        "--only",
        steps,
        "--out",
        str(out),
    ]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=280, check=False)
    report: dict[str, Any] = json.loads((out / f"{check}-check.json").read_text())
    states = {step["name"]: (step["state"], step["reason"]) for step in report["steps"]}
    assert states == dict.fromkeys(steps.split(","), ("passed", "")), done.stdout + done.stderr
    assert done.returncode == 0
    text = (out / f"{check}-check.md").read_text()
    assert "rehearsed without it" in text
    assert all(f"## {name}" in text for name in states)
    return {step["name"]: step["data"] for step in report["steps"]}


def test_the_check_of_an_nvidia_host_serves_three_models_and_provokes_the_silent_fallback(tmp_path: Path) -> None:
    found = rehearse("gpu", "serve,fallback", tmp_path)
    assert {name: data["runs_on"] for name, data in found["serve"].items()} == dict.fromkeys(
        ("lenet", "squeezenet", "half"), "onnxruntime/CPUExecutionProvider"
    )
    assert all(data["same_class"] == 64 for data in found["serve"].values())
    assert all(text.startswith("backend_unavailable") for text in found["fallback"]["refusals"].values())


def test_the_check_of_an_ascend_host_compiles_with_the_simulated_atc_and_runs_on_the_simulated_acl(
    tmp_path: Path,
) -> None:
    found = rehearse("ascend", "convert,serve", tmp_path)
    assert {data["runs_on"] for data in found["serve"].values()} == {"ascend_acl/Ascend310P3-simulated"}


def test_a_step_that_does_not_exist_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu-check", "--only", "spede"])
    with pytest.raises(SystemExit) as ended:
        gpu.main()
    assert ended.value.code == 2
    assert "no step is named spede; there are facts, tests," in capsys.readouterr().err


@pytest.mark.parametrize("check", [gpu, ascend])
def test_the_help_says_what_it_does_and_how_long_it_takes(
    check: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["check", "--help"])
    with pytest.raises(SystemExit) as ended:
        check.main()
    said = capsys.readouterr().out
    assert ended.value.code == 0
    assert f"scripts/{check.__name__.rpartition('.')[2]}-check" in said
    assert "--rehearse" in said
