"""A device that polls over HTTP and is not on the broker is told apart from one never seen, with what to check."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts.demo.processes import BIN, free_port, wait_until
from tests.support.programs.fleet import Fleet

ACCESS = """\
topic readwrite modelfleet/v1/#
topic readwrite other/v1/#

user edge-2
topic readwrite modelfleet/v1/devices/edge-1/#
"""
"""For the registry and devices without a user name, and for one device that may use the topics of another only."""


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    folder = tmp_path_factory.mktemp("off-the-broker")
    (folder / "access").write_text(ACCESS)
    (folder / "access").chmod(0o600)
    with Fleet(folder) as fleet:
        fleet.start_broker(f"acl_file {folder / 'access'}")
        fleet.start_registry()
        yield fleet


def said(fleet: Fleet, *arguments: str) -> str:
    env = {**os.environ, "MODELFLEET_REGISTRY": fleet.url, "MODELFLEET_REGISTRY_DATA_DIR": str(fleet.registry_data)}
    code, out, err = fleet.run_command(list(arguments), env)
    assert code == 0, err
    return " ".join(out.split())


def doctor(fleet: Fleet, folder: Path, device: str, **settings: str) -> tuple[int, dict[str, dict[str, object]]]:
    """Its exit code and its checks by name."""
    env = {
        **os.environ,
        "MODELFLEET_AGENT_CONFIG": os.devnull,
        "MODELFLEET_AGENT_DEVICE": device,
        "MODELFLEET_AGENT_DATA_DIR": str(folder),
        "MODELFLEET_AGENT_REGISTRY__URL": fleet.url,
        "MODELFLEET_AGENT_REGISTRY__TOKEN": fleet.add_device(device),
        "MODELFLEET_AGENT_MQTT__PORT": str(fleet.broker_port),
        **{f"MODELFLEET_AGENT_{name}": value for name, value in settings.items()},
    }
    argv = [BIN / "agent", "doctor", "--json"]
    done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=120, check=False)
    return done.returncode, {check["name"]: check for check in json.loads(done.stdout)}


def test_a_device_on_no_broker_is_shown_with_the_reason_and_what_to_check(fleet: Fleet) -> None:
    fleet.add_device("never-started")
    port = free_port()
    fleet.start_agent(
        "astray",
        fleet.add_device("astray"),
        ready=lambda: "online over HTTP" in said(fleet, "devices"),
        MODELFLEET_AGENT_MQTT__PORT=str(port),
        MODELFLEET_AGENT_HEALTH_INTERVAL_S="1",
        MODELFLEET_AGENT_REGISTRY__POLL_INTERVAL_S="1",
    )
    wait_until(lambda: f"127.0.0.1:{port}" in said(fleet, "devices", "show", "astray"), "the agent's reason")
    text = said(fleet, "devices", "show", "astray")
    assert "polls over HTTP, but is not connected to the registry's broker" in text
    assert "refused" in text
    assert "agent doctor" in text
    assert "access list lets astray" in text
    assert f"not on the broker: 127.0.0.1:{port}" in said(fleet, "health", "astray")
    never = said(fleet, "devices", "show", "never-started")
    assert "never seen" in never
    assert "broker" not in never


def test_doctor_finds_a_broker_that_passes_on_the_devices_topics(fleet: Fleet, tmp_path: Path) -> None:
    code, checks = doctor(fleet, tmp_path, "edge-1")
    assert code == 0
    assert [checks[name]["ok"] for name in ("broker", "broker topics", "registry on broker")] == [True] * 3


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
def test_doctor_says_that_the_access_list_keeps_the_device_from_its_topics(
    fleet: Fleet, tmp_path: Path, protocol: str
) -> None:
    name = "edge-2" if protocol == "5" else "edge-3"
    code, checks = doctor(fleet, tmp_path, name, MQTT__USERNAME="edge-2", MQTT__PROTOCOL=protocol)
    assert code == 1
    assert checks["broker"]["ok"]
    assert not checks["broker topics"]["ok"]
    assert f"let edge-2 read and write modelfleet/v1/devices/{name}/#" in str(checks["broker topics"]["advice"])


def test_doctor_says_that_the_registry_is_not_on_this_broker_under_this_prefix(fleet: Fleet, tmp_path: Path) -> None:
    code, checks = doctor(fleet, tmp_path, "edge-4", MQTT__PREFIX="other/v1")
    assert code == 0
    assert checks["broker topics"]["ok"]
    assert not checks["registry on broker"]["ok"]
    assert "prefix 'other/v1'" in str(checks["registry on broker"]["advice"])
