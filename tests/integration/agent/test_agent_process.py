"""The command `agent` as a person or systemd runs it, against a registry that can be told to misbehave."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from registry.contracts.api.devices import DeviceReports
from registry.contracts.device.messages import Desired, DesiredModel
from tests.fakes.registry_simulator import RegistrySimulator, Stall, one_file_manifest
from tests.support.network.broker import Mosquitto, free_port
from tests.support.paths import LENET
from tests.support.programs import warm_start

DEVICE = "edge-1"
NOW = datetime(2026, 1, 1, tzinfo=timezone.utc)


class AgentProcess:
    """One device: its data folder stays while processes come and go."""

    def __init__(self, folder: Path, registry: str, broker_port: int) -> None:
        self.folder = folder
        self.settings = {
            **{name: value for name, value in os.environ.items() if not name.startswith("MODELFLEET_")},
            "MODELFLEET_AGENT_CONFIG": os.devnull,
            "MODELFLEET_AGENT_DEVICE": DEVICE,
            "MODELFLEET_AGENT_DATA_DIR": str(folder),
            "MODELFLEET_AGENT_REGISTRY__URL": registry,
            "MODELFLEET_AGENT_REGISTRY__POLL_INTERVAL_S": "0.1",
            "MODELFLEET_AGENT_HEALTH_INTERVAL_S": "1",
            "MODELFLEET_AGENT_MQTT__PORT": str(broker_port),
        }
        self._child: warm_start.Started | subprocess.Popen[bytes] | None = None

    def start(self, log: Path | None = None) -> AgentProcess:
        self._child = warm_start.start(["agent", "run"], self.settings, log)
        return self

    @property
    def pid(self) -> int:
        assert self._child is not None
        return self._child.pid

    def end(self, number: signal.Signals) -> int:
        assert self._child is not None
        self._child.send_signal(number)
        code = self._child.wait(timeout=30)
        self._child = None
        return code

    def stop(self) -> None:
        if self._child is not None:
            self.end(signal.SIGKILL)

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return warm_start.run(["agent", *arguments], Path.cwd(), self.settings)

    def model(self) -> dict[str, Any]:
        """What the status file says of LeNet."""
        try:
            status = json.loads((self.folder / "status.json").read_text())
        except FileNotFoundError:
            return {}
        found: dict[str, Any] = status["reported"].get("models", {}).get("lenet", {})
        return found

    def serves(self) -> bool:
        return bool(self.model().get("state") == "serving")


@pytest.fixture
def registry() -> Iterator[RegistrySimulator]:
    simulator = RegistrySimulator().start()
    yield simulator
    simulator.stop()


@pytest.fixture
def agent(tmp_path: Path, registry: RegistrySimulator) -> Iterator[AgentProcess]:
    """Not started. Nothing listens at its broker's port."""
    process = AgentProcess(tmp_path / "data", registry.url, free_port())
    yield process
    process.stop()


def wait_until(true: Callable[[], object], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.02)


def deploy(registry: RegistrySimulator, generation: int = 1) -> None:
    manifest = one_file_manifest(LENET.read_bytes())
    digest = registry.publish(manifest, LENET.read_bytes())
    models = {"lenet": DesiredModel(version=manifest.version, manifest=digest)}
    registry.desired = Desired(device=DEVICE, generation=generation, issued_at=NOW, models=models)


def children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return [int(child) for task in tasks for child in (task / "children").read_text().split()]


def test_without_a_broker_it_serves_what_the_registry_says(agent: AgentProcess, registry: RegistrySimulator) -> None:
    deploy(registry)
    agent.start()
    wait_until(agent.serves)
    assert agent.model()["backend"].startswith("onnxruntime/")
    wait_until(lambda: any(b'"serving"' in seen.body for seen in registry.requests("reports")))
    wait_until(lambda: any(DeviceReports.model_validate_json(s.body).health for s in registry.requests("reports")))
    assert registry.requests("facts")


def test_its_log_as_json_names_the_device_the_model_and_the_version(
    agent: AgentProcess, registry: RegistrySimulator, tmp_path: Path
) -> None:
    deploy(registry)
    agent.settings["MODELFLEET_AGENT_LOG_FORMAT"] = "json"
    agent.start(tmp_path / "log")
    wait_until(agent.serves)
    agent.end(signal.SIGTERM)
    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert all(line["device"] == DEVICE and line["message"] for line in lines)
    assert all(datetime.fromisoformat(line["time"]).tzinfo for line in lines)
    assert {("lenet", "1.0.0")} <= {(line.get("model"), line.get("version")) for line in lines}


def test_without_anybody_it_serves_what_it_had(agent: AgentProcess, registry: RegistrySimulator) -> None:
    deploy(registry)
    agent.start()
    wait_until(agent.serves)
    agent.end(signal.SIGKILL)
    registry.stop()
    (agent.folder / "status.json").unlink()
    agent.start()
    wait_until(agent.serves)


def test_a_kill_in_the_middle_of_a_download_is_got_over(agent: AgentProcess, registry: RegistrySimulator) -> None:
    deploy(registry)
    registry.fault("blobs", Stall(100_000))
    agent.start()
    assert registry.stalled.wait(30)
    agent.end(signal.SIGKILL)
    registry.gate.set()
    agent.start()
    wait_until(agent.serves)


def test_a_worker_that_is_killed_is_started_again(agent: AgentProcess, registry: RegistrySimulator) -> None:
    deploy(registry)
    agent.start()
    wait_until(agent.serves)
    (worker,) = children(agent.pid)
    os.kill(worker, signal.SIGKILL)
    wait_until(lambda: agent.serves() and children(agent.pid) not in ([], [worker]))


def test_a_termination_ends_agent_and_workers_and_says_goodbye(
    tmp_path: Path, registry: RegistrySimulator, mortal_broker: Mosquitto
) -> None:
    deploy(registry)
    agent = AgentProcess(tmp_path / "data", registry.url, mortal_broker.port).start()
    try:
        wait_until(agent.serves)
        workers = children(agent.pid)
        assert agent.end(signal.SIGTERM) == 0
        wait_until(lambda: not any(Path(f"/proc/{pid}/stat").exists() for pid in workers))
        topic = f"modelfleet/v1/devices/{DEVICE}/presence"
        assert json.loads(mortal_broker.retained(topic))["online"] is False
    finally:
        agent.stop()


def test_a_model_that_is_withdrawn_is_stopped(agent: AgentProcess, registry: RegistrySimulator) -> None:
    deploy(registry)
    agent.start()
    wait_until(agent.serves)
    registry.desired = Desired(device=DEVICE, generation=2, issued_at=NOW)
    wait_until(lambda: not children(agent.pid))
    wait_until(lambda: agent.model() == {})


def test_two_agents_do_not_share_their_data(agent: AgentProcess) -> None:
    agent.start()
    wait_until((agent.folder / "status.json").exists)
    second = agent.command("run")
    assert second.returncode == 1
    assert "already_running" in second.stderr


def test_status_tells_what_serves(agent: AgentProcess, registry: RegistrySimulator) -> None:
    assert agent.command("status").returncode == 1
    deploy(registry)
    agent.start()
    wait_until(agent.serves)
    status = agent.command("status")
    assert status.returncode == 0
    assert "lenet" in status.stdout
    assert "serving" in status.stdout
    assert json.loads(agent.command("status", "--json").stdout)["running"] is True
    agent.end(signal.SIGTERM)
    assert agent.command("status").returncode == 1


def test_doctor_says_what_is_missing(agent: AgentProcess, registry: RegistrySimulator) -> None:
    deploy(registry)
    sick = agent.command("doctor")
    assert sick.returncode == 1
    assert "Connection refused" in sick.stdout
    checks = {check["name"]: check for check in json.loads(agent.command("doctor", "--json").stdout)}
    assert checks["backend onnxruntime"]["ok"]
    assert checks["registry"]["ok"]
    assert not checks["broker"]["ok"]


def test_doctor_finds_nothing_where_all_is_well(tmp_path: Path, registry: RegistrySimulator, broker: Mosquitto) -> None:
    deploy(registry)
    well = AgentProcess(tmp_path / "data", registry.url, broker.port).command("doctor")
    assert well.returncode == 0, well.stdout


def test_reset_drops_the_state_of_a_stopped_agent_only(agent: AgentProcess, registry: RegistrySimulator) -> None:
    deploy(registry)
    agent.start()
    wait_until(agent.serves)
    assert agent.command("reset", "--yes").returncode == 1
    agent.end(signal.SIGTERM)
    assert agent.command("reset", "--yes").returncode == 0
    assert {path.name for path in agent.folder.iterdir()} <= {"lock"}


def test_settings_that_cannot_be_used_are_said_at_once(agent: AgentProcess, tmp_path: Path) -> None:
    file = tmp_path / "agent.toml"
    file.write_text("[mqtt]\nhots = 'x'\n")
    wrong = agent.command("run", "--config", str(file))
    assert wrong.returncode == 2
    assert "mqtt.hots" in wrong.stderr


@pytest.mark.parametrize("setting", ["CA_FILE", "CERT_FILE"])
def test_a_certificate_that_cannot_be_read_is_named(agent: AgentProcess, setting: str) -> None:
    file = agent.folder.parent / "no-such.pem"
    agent.settings["MODELFLEET_AGENT_MQTT__TLS"] = "true"
    agent.settings["MODELFLEET_AGENT_MQTT__KEY_FILE"] = str(file)
    agent.settings[f"MODELFLEET_AGENT_MQTT__{setting}"] = str(file)
    if setting == "CA_FILE":
        del agent.settings["MODELFLEET_AGENT_MQTT__KEY_FILE"]
    refused = agent.command("run")
    assert refused.returncode == 1
    assert f"bad_config: mqtt.{setting.lower()} {file}" in refused.stderr


def test_platform_prints_facts(agent: AgentProcess) -> None:
    facts = json.loads(agent.command("platform", "--json").stdout)
    assert facts["os"] == "linux"
    assert facts["facts_digest"].startswith("sha256:")
    rows = {row["name"]: row for row in facts["facts"]}
    assert rows["os"] | {"observed_at": "", "age_s": 0} == {
        "name": "os", "value": "linux", "source": "uname", "observed_at": "", "age_s": 0, "reason": "",
        "failed": False,
    }  # fmt: skip
    assert "opset up to" in rows["backend.onnxruntime"]["value"]
    assert all(row["source"] and row["age_s"] is not None for row in rows.values())
    assert all(row["reason"] for row in rows.values() if row["value"] is None and row["name"] != "locale")
    printed = agent.command("platform").stdout
    assert "FACT" in printed
    assert rows["backend.mindspore"]["reason"] in printed


def test_prometheus_is_answered_on_demand(agent: AgentProcess, registry: RegistrySimulator) -> None:
    import httpx

    port = free_port()
    agent.settings["MODELFLEET_AGENT_PROMETHEUS"] = f"127.0.0.1:{port}"
    deploy(registry)
    agent.start()
    wait_until(agent.serves)
    text = httpx.get(f"http://127.0.0.1:{port}/metrics").text
    assert 'modelfleet_requests_total{model="lenet",version="1.0.0"} 0.0' in text
    assert 'modelfleet_latency_seconds_bucket{le="0.001",model="lenet",version="1.0.0"} 0.0' in text
    assert 'modelfleet_worker_restarts_total{model="lenet",version="1.0.0"} 0.0' in text
    assert "_created" not in text


def test_an_address_that_cannot_be_had_is_a_clear_error_and_nothing_stays_behind(
    agent: AgentProcess, broker: Mosquitto
) -> None:
    agent.settings["MODELFLEET_AGENT_PROMETHEUS"] = f"127.0.0.1:{broker.port}"
    refused = agent.command("run")
    assert refused.returncode == 1
    assert "prometheus" in refused.stderr


def test_a_trusted_model_runs_inline(agent: AgentProcess, registry: RegistrySimulator) -> None:
    agent.settings["MODELFLEET_AGENT_WORKER__INLINE_MODELS"] = '["lenet"]'
    deploy(registry)
    agent.start()
    wait_until(agent.serves)
    assert agent.model()["execution"] == "inline"
    assert children(agent.pid) == []
    assert agent.end(signal.SIGTERM) == 0


def test_a_model_that_cannot_be_loaded_is_reported_with_the_reason(
    agent: AgentProcess, registry: RegistrySimulator
) -> None:
    garbage = b"this is no model" * 100
    manifest = one_file_manifest(garbage)
    models = {"lenet": DesiredModel(version=manifest.version, manifest=registry.publish(manifest, garbage))}
    registry.desired = Desired(device=DEVICE, generation=1, issued_at=NOW, models=models)
    agent.start()
    wait_until(lambda: agent.model().get("state") == "failed")
    assert agent.model()["fault"]["code"] == "load_failed"
    deploy(registry, generation=2)
    wait_until(agent.serves)
