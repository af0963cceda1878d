"""`registry doctor` and `registry disk`, as a person runs them: what does not work, what to do, what takes the room."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.models import onnx_models
from tests.support.network.broker import Mosquitto
from tests.support.programs.cli import Cli
from tests.support.programs.fleet_registry import FleetRegistry, eventually


@pytest.fixture
def fleet(tmp_path: Path, mortal_broker: Mosquitto) -> Iterator[FleetRegistry]:
    with FleetRegistry(tmp_path, mortal_broker.port) as registry:
        registry.process.data.chmod(0o700)
        eventually(lambda: registry.mqtt() == "connected")
        yield registry


@pytest.fixture
def shell(fleet: FleetRegistry, tmp_path: Path) -> Cli:
    return Cli(tmp_path, fleet.process.url, fleet.process.admin_token)


def checks(shell: Cli, code: int = 0) -> dict[str, dict[str, Any]]:
    return {each["name"]: each for each in shell("doctor", "--json", code=code).document["checks"]}


def test_all_is_well_and_the_broker_brings_a_message_back(shell: Cli) -> None:
    found = checks(shell)
    assert {each["state"] for each in found.values()} == {"ok"}
    assert found["broker delivery"]["text"].startswith("a message came back in ")
    assert {"address", "token", "version", "clock of this host", "database", "store room", "device credentials"} <= set(
        found
    )
    assert "nothing to do" in shell("doctor").out


def test_what_fails_says_what_to_do_and_ends_with_1(shell: Cli, fleet: FleetRegistry, mortal_broker: Mosquitto) -> None:
    mortal_broker.kill()
    eventually(lambda: fleet.mqtt() != "connected")
    (fleet.process.data / "admin.token").chmod(0o644)
    fleet.sql("DELETE FROM tokens WHERE device IS NOT NULL")
    found = checks(shell, code=1)
    assert (found["broker"]["state"], found["administrator's token"]["state"]) == ("failed", "warning")
    assert f"chmod 600 {fleet.process.data / 'admin.token'}" == found["administrator's token"]["advice"]
    told = shell("doctor", code=1).out
    assert "-> Check mqtt.host" in told


def test_a_registry_that_does_not_answer_ends_with_6(tmp_path: Path) -> None:
    ran = Cli(tmp_path, "http://127.0.0.1:1", None)("doctor", code=6)
    assert "FAILED   address" in ran.out


def test_who_is_no_administrator_is_told_so(shell: Cli, fleet: FleetRegistry, tmp_path: Path) -> None:
    token = shell("token", "create", "reader", "--scope", "read", "--json").document["token"]
    assert "for administrators" in Cli(tmp_path, fleet.process.url, token)("doctor").out
    assert "FAILED   token" in Cli(tmp_path, fleet.process.url, "x" * 40)("doctor", code=1).out


def test_the_disk_is_told_with_when_it_was_counted(shell: Cli, tmp_path: Path) -> None:
    (tmp_path / "linear.onnx").write_bytes(onnx_models.linear())
    shell("publish", "linear", "linear.onnx", "--version", "1", "--target", "cpu")
    told = shell("disk").out
    assert told.startswith("As of 20")
    assert "unneeded  nothing" in told
    view = shell("disk", "--json").document
    assert [(each["model"], each["own"] > 0) for each in view["versions"]] == [("linear", True)]
