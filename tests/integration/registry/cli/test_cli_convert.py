"""`registry convert` and `registry jobs` as processes, against a real registry; ATC is SIMULATED."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.demo.processes import wait_until
from tests.fakes.simulated_atc import running, simulated_atc
from tests.support.models import onnx_models
from tests.support.models.mindspore_python import PYTHON, needs_mindspore
from tests.support.paths import LENET, ROOT
from tests.support.programs.cli import Cli, end

CHIP = ("-O", "soc_version=Ascend310P3", "-O", "cann_version=8.0.RC1")


def publish(cli: Cli, version: str, *more: object) -> None:
    cli("publish", "lenet", LENET, "--version", version, "--target", "cpu", *more, "--json")


def variants(cli: Cli, version: str) -> list[str]:
    found = cli("show", f"lenet@{version}", "--json").document["manifest"]["variants"]
    return [variant["name"] for variant in found]


def path_with(program: Path) -> str:
    return f"{program.parent}{os.pathsep}{os.environ['PATH']}"


def test_int8_is_made_here_measured_and_added_and_the_published_manifest_stays(cli: Cli) -> None:
    publish(cli, "1.0.0", "--golden-random", "8", "--tolerance", "absolute=5,relative=1,top1=0.5")
    made = cli("convert", "lenet@1.0.0", "--to", "onnx-int8", "--json").document
    assert made["variant"]["name"].endswith("-int8")
    assert made["variant"]["build"]["tool"] == "onnxruntime-quantize"
    assert made["variant"]["parity"]["parity"]["passed"] is True
    assert variants(cli, "1.0.0")[-1] == made["variant"]["name"]
    again = cli("convert", "lenet@1.0.0", "--to", "onnx-int8", "--json", code=4)
    assert "name=" in again.error["hint"]


def test_what_is_over_the_tolerance_is_not_added(cli: Cli) -> None:
    publish(cli, "2.0.0", "--golden-random", "8", "--tolerance", "absolute=1e-9,relative=1e-9")
    before = variants(cli, "2.0.0")
    refused = cli("convert", "lenet@2.0.0", "--to", "onnx-int8", "--json", code=1)
    assert refused.error["code"] == "golden_mismatch"
    assert variants(cli, "2.0.0") == before


def test_a_simulated_atc_here_adds_an_om_and_a_dry_run_shows_the_command(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "linear.onnx").write_bytes(onnx_models.linear())
    cli("publish", "linear", tmp_path / "linear.onnx", "--version", "1.0.0", "--target", "cpu")
    path = path_with(simulated_atc(tmp_path / "cann"))
    command = ("convert", "linear@1.0.0", "--to", "om", *CHIP, "-O", "dynamic_batch_size=1,2,4")
    shown = cli(*command, "--dry-run", "--json", PATH=path).document
    assert shown["missing"] is False
    assert shown["command"][1:] == [
        "--model=source/linear.onnx",
        "--framework=5",
        "--output=out/model",
        "--soc_version=Ascend310P3",
        "--input_shape=x:-1,3",
        "--dynamic_batch_size=1,2,4",
    ]
    assert len(cli("show", "linear@1.0.0", "--json").document["manifest"]["variants"]) == 1
    made = cli(*command, "--json", PATH=path).document["variant"]
    assert made["build"]["command"] == shown["command"]
    assert made["requirements"] == {"soc_version": "Ascend310P3", "cann_version": "8.0.RC1"}


def test_a_dry_run_shows_the_command_also_where_its_program_is_not_installed(cli: Cli) -> None:
    publish(cli, "8.0.0")
    command = ("convert", "lenet@8.0.0", "--to", "om", *CHIP, "--dry-run")
    shown = cli(*command)
    assert "atc --model=source/lenet.onnx --framework=5" in shown.out
    assert "What runs this is not installed here" in shown.err
    plan = cli(*command, "--json").document
    assert (plan["command"][0], plan["missing"]) == ("atc", True)


@pytest.mark.parametrize(
    ("mode", "code", "says"),
    [
        ("EC0005: SoC version [Ascend310P3] is not supported.", "tool_failed", "chip"),
        ("silent", "tool_no_output", "not there"),
        ("hang", "tool_timeout", "killed"),
    ],
)
def test_a_simulated_atc_that_fails_here_changes_nothing(
    cli: Cli, tmp_path: Path, mode: str, code: str, says: str
) -> None:
    publish(cli, "3.0.0")
    path, scratch = path_with(simulated_atc(tmp_path / "cann", mode)), tmp_path / "scratch"
    scratch.mkdir()
    arguments = ("convert", "lenet@3.0.0", "--to", "om", *CHIP, "--timeout", "2", "--json")
    failed = cli(*arguments, code=1, PATH=path, TMPDIR=str(scratch))
    assert failed.error["code"] == code
    assert says in failed.error["message"]
    assert list(scratch.iterdir()) == []
    assert len(variants(cli, "3.0.0")) == 1


def test_a_full_disk_here_is_said_and_leaves_nothing(cli: Cli, tmp_path: Path) -> None:
    publish(cli, "7.0.0")
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    command = [sys.executable, "-m", "registry", "convert", "lenet@7.0.0", "--to", "onnx-int8", "--json"]
    limited = ["sh", "-c", 'ulimit -f 100; trap "" XFSZ; exec "$@"', "sh", *command]  # files of 100 blocks at most
    environment = cli.environment | {"TMPDIR": str(scratch)}
    done = subprocess.run(limited, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1, done
    assert json.loads(done.stderr.strip().splitlines()[-1])["error"]["code"] == "disk_error"
    assert list(scratch.iterdir()) == []


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_whatever_ends_the_command_ends_the_tool_and_its_files(cli: Cli, tmp_path: Path, how: signal.Signals) -> None:
    publish(cli, "6.0.0")
    path, scratch = path_with(simulated_atc(tmp_path / "cann", "hang")), tmp_path / "scratch"
    scratch.mkdir()
    with cli.start("convert", "lenet@6.0.0", "--to", "om", *CHIP, PATH=path, TMPDIR=str(scratch)) as process:
        wait_until(lambda: len(running(tmp_path / "cann")) == 2, "the tool runs")
        assert list(scratch.iterdir())
        end(process, how)
    assert process.returncode in {130, 128 + how, -how}
    wait_until(lambda: not running(tmp_path / "cann"), "no process")
    wait_until(lambda: not list(scratch.iterdir()), "no files")
    assert len(variants(cli, "6.0.0")) == 1


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("lenet", "--to", "onnx-int8"), 2, "Which version"),
        (("lenet@4.0.0", "--to", "mindir"), 2, "mindspore-ckpt"),
        (("lenet@4.0.0", "--to", "onnx-int8", "--wait"), 2, "--on"),
        (
            ("lenet@4.0.0", "--to", "onnx-int8", "--from", "nothing"),
            2,
            "lenet@4.0.0 has no variant 'nothing'; it has: onnx-cpu (onnx)",
        ),
        (("lenet@4.0.0", "--to", "air", "--from", "onnx-cpu"), 2, "air is made from: mindspore-ckpt"),
        (("lenet@4.0.0", "--to", "om", *CHIP), 1, "there is no `atc` here"),
        (("lenet@4.0.0", "--to", "onnx-int8", "-O", "mode=static"), 1, "golden"),
        (("lenet@4.0.0", "--to", "onnx-int8", "-O", "mode"), 2, "KEY=VALUE"),
        (("lenet@4.0.0", "--to", "onnx-int8", "-O", "name=Not A Name"), 1, "cannot stand in a variant"),
        (("lenet@4.0.0", "--to", "tensorrt-plan"), 1, "GPU"),
        (("lenet@4.0.0", "--to", "om", "--on", "nobody"), 3, "nobody"),
    ],
)
def test_what_cannot_be_converted_is_said_at_once(cli: Cli, arguments: tuple[str, ...], code: int, says: str) -> None:
    publish(cli, "4.0.0")
    refused = cli("convert", *arguments, "--json", code=code)
    assert says in refused.error["message"] + str(refused.error.get("hint"))


def test_a_job_is_given_listed_shown_and_cancelled(cli: Cli) -> None:
    publish(cli, "5.0.0")
    cli("devices", "add", "edge-1", "--json")
    given = cli("convert", "lenet@5.0.0", "--to", "onnx-int8", "--on", "edge-1", "--json").document
    assert (given["status"]["state"], given["job"]["to"]) == ("waiting", "onnx")
    assert "offline" in cli("convert", "lenet@5.0.0", "--to", "onnx-int8", "--on", "edge-1").err
    assert given["id"] in cli("jobs", "list").out
    assert "convert lenet@5.0.0" in cli("jobs", "show", given["id"]).out
    assert cli("jobs", "cancel", given["id"], "--json").document["status"]["state"] == "cancelled"
    waited = cli("jobs", "show", given["id"], "--json").document
    assert waited["status"]["code"] == "job_cancelled"


@needs_mindspore
def test_a_published_checkpoint_becomes_onnx_and_mindir_for_real_and_air_only_elsewhere(
    cli: Cli, tmp_path: Path
) -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import mindspore; "
        "from registry.mindspore_networks import table; "
        "mindspore.save_checkpoint(table.build('lenet5', {}), sys.argv[2])"
    )
    path, root = tmp_path / "lenet.ckpt", str(ROOT)
    assert os.spawnv(os.P_WAIT, PYTHON, [PYTHON, "-c", code, root, str(path)]) == 0
    path.chmod(0o644)
    cli("publish", "ms", path, "--version", "1.0.0", "--target", "cpu", "--network", "lenet5", "--json")
    for goal, name in (("onnx", "onnx-cpu"), ("mindir", "mindir-cpu")):
        made = cli("convert", "ms@1.0.0", "--to", goal, "--json", MODELFLEET_MINDSPORE_PYTHON=PYTHON).document
        assert (made["variant"]["name"], made["variant"]["build"]["tool"]) == (name, "mindspore-export")
    refused = cli("convert", "ms@1.0.0", "--to", "air", "--json", code=1, MODELFLEET_MINDSPORE_PYTHON=PYTHON)
    assert "Only support export file in 'AIR' format with Ascend backend" in refused.error["message"]
    found = cli("show", "ms@1.0.0", "--json").document["manifest"]["variants"]
    assert [variant["format"] for variant in found] == ["mindspore-ckpt", "onnx", "mindir"]
    assert "made from" in cli("show", "ms@1.0.0").out
