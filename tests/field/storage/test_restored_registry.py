"""A registry that is put back from the documented backup is found again: by its administrator, by its devices."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from scripts.demo.processes import BIN, wait_until
from tests.support.models.onnx_models import scaled
from tests.support.paths import ROOT
from tests.support.programs.fleet import Fleet

DEVICE = "edge-1"
DOCS = ROOT / "docs" / "backup.md"
SQLITE = """#!{python}
import sqlite3, sys
source, command = sys.argv[1:]
with sqlite3.connect(source) as database, sqlite3.connect(command.removeprefix(".backup ")) as copy:
    database.backup(copy)
"""


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    """One device that serves version 1 of a model; version 2 is published, too."""
    with Fleet(tmp_path / "fleet") as running:
        running.start_broker()
        running.start_registry()
        for version in ("1", "2"):
            file = tmp_path / "model.onnx"
            file.write_bytes(scaled(float(version), 4))
            running.registry("publish", "scaled", str(file), "--version", version, "--target", "cpu")
        token = running.add_device(DEVICE)
        running.start_agent(
            DEVICE, token, MODELFLEET_AGENT_HEALTH_INTERVAL_S="1", MODELFLEET_AGENT_REGISTRY__POLL_INTERVAL_S="0.1"
        )
        deploy(running, "1")
        yield running


def deploy(fleet: Fleet, version: str) -> None:
    fleet.registry("deploy", f"scaled@{version}", "--device", DEVICE, "--wait", "--timeout", "60")


def shown(fleet: Fleet) -> dict[str, Any]:
    return dict(fleet.registry("devices", "show", DEVICE))


def documented(number: int) -> list[str]:
    """The commands of a block under "Back up and restore"; another test starts and stops services."""
    section = DOCS.read_text().split("## Back up and restore\n")[1].split("\n## ")[0]
    block = re.findall(r"```\n(.*?)```", section, re.DOTALL)[number]
    lines = [line.split(" #")[0].strip() for line in block.splitlines()]
    return [line for line in lines if line and not line.startswith("systemctl")]


def perform(commands: list[str], folder: Path, tools: Path) -> None:
    """As an administrator does, in this folder."""
    tools.mkdir(exist_ok=True)
    if shutil.which("sqlite3") is None:
        (tools / "sqlite3").write_text(SQLITE.format(python=sys.executable))
        (tools / "sqlite3").chmod(0o755)
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MODELFLEET_")}
    environment["PATH"] = f"{BIN}:{environment['PATH']}:{tools}"
    for command in commands:
        done = subprocess.run(
            ["sh", "-ec", command], cwd=folder, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, (command, done.stdout, done.stderr)


def test_the_documented_backup_is_put_back_and_deployed_from(fleet: Fleet, tmp_path: Path) -> None:
    data, tools = fleet.registry_data, tmp_path / "tools"
    (data / "backup").mkdir()
    perform(documented(0), data, tools)
    for version in ("2", "1", "2"):
        deploy(fleet, version)
    before = shown(fleet)
    fleet.processes["registry"].stop()
    for path in data.iterdir():
        if path.name in {"blobs", "keys"}:
            shutil.rmtree(path)
        elif path.name != "backup":
            path.write_bytes(b"damaged")
    perform(documented(1), data, tools)
    fleet.start_registry()
    wait_until(lambda: shown(fleet)["reported"]["epoch"] == shown(fleet)["epoch"], "the device obeys")
    after = shown(fleet)
    assert after["epoch"] != before["epoch"]
    assert after["generation"] > before["generation"]
    assert after["desired"] == {"scaled": "1"}  # as the backup says
    wait_until(lambda: shown(fleet)["reported"]["models"]["scaled"]["version"] == "1", "it serves what the backup says")
    deploy(fleet, "2")


def test_a_registry_put_back_without_the_last_step_notices_by_itself(fleet: Fleet, tmp_path: Path) -> None:
    """And one whose token file was not in the backup: the token made anew by `registry restore` works."""
    data, tools = fleet.registry_data, tmp_path / "tools"
    (data / "backup").mkdir()
    perform(documented(0), data, tools)
    for version in ("2", "1", "2"):
        deploy(fleet, version)
    epoch = shown(fleet)["epoch"]
    fleet.processes["registry"].stop()
    steps = [step for step in documented(1) if not step.startswith("registry restore")]
    perform(steps, data, tools)
    fleet.start_registry()
    wait_until(lambda: shown(fleet)["epoch"] != epoch, "a new epoch")
    deploy(fleet, "2")
    fleet.processes["registry"].stop()
    (data / "admin.token").unlink()
    perform(["registry restore --data-dir ."], data, tools)
    fleet.start_registry()
    deploy(fleet, "1")
