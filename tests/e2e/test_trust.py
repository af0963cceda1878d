"""A fleet whose devices check signatures: real registry, agent and Mosquitto, whose topics anybody may write here.

A forged document changes nothing and is reported; what the registry signs is served; expired or not, a restart needs no
network; a registry that was put back from a backup is obeyed without touching the device.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
import pytest

from registry.client.address import ADMIN_TOKEN_FILE
from registry.contracts.device.messages import MAX_GENERATION
from registry.contracts.topics import Topics
from scripts.demo.processes import wait_until
from tests.support.models import rollout_models
from tests.support.models.rollout_models import MODEL
from tests.support.programs.fleet import Fleet

pytestmark = pytest.mark.timeout(300)
DEVICE, OTHER = "edge-1", "edge-2"
TOPIC = Topics().device(DEVICE, "desired")


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """One device that was given roots, and three published versions."""
    with Fleet(tmp_path_factory.mktemp("fleet")) as running:
        running.start_broker()
        running.start_registry()
        for factor, version in enumerate(("1.0.0", "1.1.0", "1.2.0"), 1):
            rollout_models.publish(running, version, rollout_models.good(factor))
        added = running.registry("devices", "add", DEVICE, "--out", str(running.folder / "given"))
        assert added is not None
        start_agent(running)
        running.registry("devices", "add", OTHER)
        yield running


def start_agent(fleet: Fleet) -> None:
    given = fleet.folder / "given"
    fleet.start_agent(
        DEVICE,
        (given / f"{DEVICE}.token").read_text().strip(),
        MODELFLEET_AGENT_TRUST__ROOT=str(given / "trust.json"),
        MODELFLEET_AGENT_REGISTRY__POLL_INTERVAL_S="1",
    )


def deploy(fleet: Fleet, version: str, device: str = DEVICE) -> None:
    wait = ("--wait",) if device == DEVICE else ()
    fleet.registry("deploy", f"{MODEL}@{version}", "--device", device, "--probation", "0s", *wait)


def reported(fleet: Fleet) -> dict[str, Any]:
    """The device's last report."""
    return dict(fleet.registry("devices", "show", DEVICE)["reported"])


def serves(fleet: Fleet) -> str | None:
    said: str | None = reported(fleet)["models"].get(MODEL, {}).get("version")
    return said


def publish(fleet: Fleet, document: bytes) -> None:
    """Somebody with access to the broker writes the retained message."""
    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
    client.connect("127.0.0.1", fleet.broker_port)
    client.loop_start()
    client.publish(TOPIC, document, qos=1, retain=True).wait_for_publish(30)
    client.disconnect()
    client.loop_stop()


def retained(fleet: Fleet, device: str = DEVICE) -> bytes:
    """What the registry says of a device, over HTTP and to the broker alike."""
    with rollout_models.client_of(fleet) as http:
        return bytes(http.get(f"/v1/devices/{device}/desired").raise_for_status().content)


def test_what_the_registry_signs_is_deployed_and_the_device_says_that_it_is_signed(fleet: Fleet) -> None:
    deploy(fleet, "1.0.0")
    said = reported(fleet)
    assert said["trust"]["state"] == "signed"
    assert said["trust"]["expires"]
    assert said["epoch_began"]
    assert serves(fleet) == "1.0.0"


@pytest.mark.parametrize("kind", ["unsigned", "signature", "device"])
def test_a_forged_retained_document_changes_nothing_and_is_reported(fleet: Fleet, kind: str) -> None:
    before = retained(fleet)
    said = json.loads(before)
    if kind == "device":
        deploy(fleet, "1.2.0", OTHER)
        forged = retained(fleet, OTHER)
    else:
        said["generation"] = MAX_GENERATION
        said["models"] = {}
        if kind == "unsigned":
            said.pop("signatures")
        forged = json.dumps(said).encode()
    publish(fleet, forged)
    wait_until(lambda: reported(fleet)["trust"]["refused"].get(kind), f"the report of {kind}")
    assert serves(fleet) == "1.0.0"
    assert reported(fleet)["generation"] == json.loads(before)["generation"]
    with rollout_models.client_of(fleet) as http:
        events = http.get(f"/v1/devices/{DEVICE}/events").raise_for_status().text
    assert f"refused_{kind}" in events


def test_after_a_forgery_the_device_goes_on_to_obey_its_registry(fleet: Fleet) -> None:
    deploy(fleet, "1.1.0")
    assert serves(fleet) == "1.1.0"


def test_an_older_document_that_the_registry_signed_is_not_followed_again(fleet: Fleet) -> None:
    old = retained(fleet)
    deploy(fleet, "1.0.0")
    publish(fleet, old)
    wait_until(lambda: reported(fleet)["trust"]["refused"].get("rollback"), "the report of the rollback")
    assert serves(fleet) == "1.0.0"


def test_a_restart_without_registry_and_broker_serves_what_is_on_the_disk(fleet: Fleet) -> None:
    fleet.processes["registry"].stop()
    fleet.processes[DEVICE].kill()
    status = fleet.folder / DEVICE / "status.json"
    status.unlink()
    given = fleet.folder / "given"
    fleet.start_agent(
        DEVICE,
        (given / f"{DEVICE}.token").read_text().strip(),
        ready=lambda: status.exists() and MODEL in status.read_text(),
        MODELFLEET_AGENT_TRUST__ROOT=str(given / "trust.json"),
        MODELFLEET_AGENT_REGISTRY__POLL_INTERVAL_S="1",
    )
    wait_until(lambda: kept(status)["models"][MODEL].get("version") == "1.0.0", "what served")
    assert kept(status)["trust"]["state"] == "signed"
    fleet.start_registry()


def kept(status: Path) -> dict[str, Any]:
    """The report that `agent status` prints."""
    return dict(json.loads(status.read_text())["reported"])


def test_a_registry_that_was_put_back_from_a_backup_is_obeyed_from_the_broker(fleet: Fleet) -> None:
    registry = fleet.processes["registry"]
    registry.stop()
    backup = fleet.folder / "backup"
    shutil.copytree(fleet.registry_data, backup)
    fleet.start_registry()
    deploy(fleet, "1.2.0")
    deploy(fleet, "1.1.0")
    before = reported(fleet)
    fleet.processes["registry"].stop()
    shutil.rmtree(fleet.registry_data)
    shutil.copytree(backup, fleet.registry_data)
    assert (fleet.registry_data / ADMIN_TOKEN_FILE).exists()
    code, out, err = fleet.run_command(["restore", "--data-dir", str(fleet.registry_data)], dict(registry.env))
    assert code == 0, out + err
    fleet.start_registry()
    wait_until(partial(_follows_another_epoch, fleet, before), "the device to follow the restored registry")
    wait_until(lambda: serves(fleet) == "1.0.0", "what the backup says")
    deploy(fleet, "1.2.0")
    assert serves(fleet) == "1.2.0"
    assert reported(fleet)["trust"]["state"] == "signed"


def _follows_another_epoch(fleet: Fleet, before: dict[str, Any]) -> bool:
    after = reported(fleet)
    return bool(after["epoch"] != before["epoch"] and after["epoch_began"] > before["epoch_began"])


def test_the_agent_keeps_its_metadata_for_itself(fleet: Fleet) -> None:
    folder: Path = fleet.folder / DEVICE / "trust"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.name for path in folder.iterdir()} >= {"image.a.json", "image.b.json"}
