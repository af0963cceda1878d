"""The files that `registry devices add --out` writes start an agent as they are, also where the broker speaks TLS."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from scripts.demo.processes import BIN, free_port, wait_until
from tests.support.network.certificates import Authority
from tests.support.programs.fleet import Fleet


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_an_agent_starts_with_the_written_files_unchanged(tmp_path: Path, tls: bool) -> None:
    with Fleet(tmp_path) as fleet:
        settings: dict[str, str] = {"MODELFLEET_REGISTRY_MQTT__PREFIX": "site/hall-3"}
        broker = ""
        if tls:
            port, authority, server = free_port(), Authority(tmp_path / "authority"), tmp_path / "broker.pem"
            authority.issue("127.0.0.1", server, server)
            broker = f"listener {port} 127.0.0.1\nallow_anonymous true\ncertfile {server}\nkeyfile {server}"
            settings |= {
                "MODELFLEET_REGISTRY_MQTT__PORT": str(port),
                "MODELFLEET_REGISTRY_MQTT__TLS": "true",
                "MODELFLEET_REGISTRY_MQTT__CA_FILE": str(authority.file),
            }
        fleet.start_broker(broker)
        fleet.start_registry(**settings)
        folder = tmp_path / "for-the-device"
        answer = fleet.registry("devices", "add", "edge-1", "--out", str(folder))
        names = {"agent.toml", "edge-1.token", "trust.json"} | ({"broker-ca.pem"} if tls else set())
        assert {Path(path).name for path in answer["files"]} == names
        plain = {key: value for key, value in os.environ.items() if not key.startswith("MODELFLEET_")}
        plain["MODELFLEET_AGENT_DATA_DIR"] = str(tmp_path / "edge-1")
        argv = [str(BIN / "agent"), "run", "--config", str(folder / "agent.toml")]
        agent = fleet.processes["edge-1"] = fleet.program("edge-1", argv, tmp_path, plain)
        agent.env = plain
        agent.start(lambda: fleet.is_online("edge-1"))
        wait_until(lambda: fleet.registry("devices", "show", "edge-1").get("facts"), "the agent's facts")
