"""The quick start as a newcomer has it: what it prints fits a terminal, and every command works as it is printed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from scripts.demo.processes import Process
from tests.support.paths import ROOT

ENDS = "Everything keeps running until Ctrl-C."
ALLOWED_TO_FAIL = re.compile(r"rollout create lenet@1\.1\.0")
"""It ends with 1: the rollout of the bad version waits for a person."""


@pytest.fixture(scope="module")
def printed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """What it has printed when it waits for Ctrl-C; it runs until the test is over."""
    folder = tmp_path_factory.mktemp("quickstart")
    (folder / "logs").mkdir()
    argv = [sys.executable, str(ROOT / "scripts/demo"), "--folder", str(folder / "data")]
    process = Process("quickstart", argv, folder / "logs", {"COLUMNS": "80"})
    try:
        process.start(lambda: "\nLogs: " in process.tail(200), 400)
        yield process.log.read_text()
    finally:
        process.stop()


def commands_of(text: str) -> list[str]:
    """The printed commands in their order: lines that are indented by two spaces, joined where one goes on."""
    lines = [line[2:] for line in text.partition(ENDS)[2].splitlines() if line.startswith("  ")]
    return re.findall(r"(?:.*\\\n)*.*\n", "".join(f"{line}\n" for line in lines))


def run(script: str) -> subprocess.CompletedProcess[str]:
    """In a terminal that knows nothing of this checkout."""
    env = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": os.environ.get("HOME", "/"), "COLUMNS": "80"}
    return subprocess.run(
        ["bash", "-c", script], cwd="/", env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True,
        timeout=400, check=False,
    )  # fmt: skip


def test_every_line_fits_a_terminal_of_80_columns(printed: str) -> None:
    paths = (str(ROOT), str(Path(sys.executable).parent))
    folder = re.search(r"^Logs: (.*)/\*\.log$", printed, re.MULTILINE)
    assert folder is not None
    said = printed.replace(folder[1], ".modelfleet/quickstart")
    for path in paths:
        said = said.replace(path, "~/modelfleet")
    lines = [line for line in said.splitlines() if not line.startswith("http://")]  # a link stays in one piece
    assert [line for line in lines if len(line.rstrip()) > 80] == []


def test_the_link_signs_in_at_the_console(printed: str) -> None:
    link = re.search(r"^http://\S+$", printed, re.MULTILINE)
    assert link is not None
    page = httpx.get(link[0], timeout=30)
    assert page.status_code == 200
    assert "<form" in page.text


def test_each_command_works_as_it_is_printed(printed: str) -> None:
    commands = commands_of(printed)
    assert len(commands) > 15
    script = []
    for number, command in enumerate(commands):
        script.append(f"echo '=== {number}' ; echo '=== {number}' >&2")
        last = "" if command.rstrip().endswith("&") or ALLOWED_TO_FAIL.search(command) else f"|| exit {10 + number}"
        script.append(f"{command.rstrip()} {last}".rstrip())
    done = run("\n".join([*script, "kill $(jobs -p)"]))
    assert done.returncode in (0, 1), f"{commands[done.returncode - 10]}\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
    said = dict(zip(commands, re.split(r"=== \d+\n", done.stdout)[1:], strict=True))
    of = {command.split("\\")[0].strip(): text for command, text in said.items()}
    assert "1.0.0" in of["registry devices"]
    assert of["registry ask quickstart lenet"].split()[2] == "7"
    bad = of["registry rollout create lenet@1.1.0 --device quickstart"]
    assert "rolled_back" in bad
    assert (
        "nan" in bad
    )  # the device found it itself (probation_nan), or its rollout by the share of answers (nan_share)
    assert "1.0.0" in of["registry rollout why quickstart"]
    assert "60 of" in (good := of["registry rollout create lenet@1.0.0 --fleet site=paris"]) or "succeeded" in good
    assert "paused" in of["registry rollout create lenet@1.1.0 --fleet site=paris --name worse"]
    assert "rolled_back" in of["registry rollout rollback worse --yes --watch"]
    assert of["python -c 'from registry.client.devices import Client;"].strip() == "7"
