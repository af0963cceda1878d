"""Hosts whose deployment is where tests of probations begin."""

from __future__ import annotations

from typing import Any

from registry.contracts.device.deployments import DeploymentPolicy, Phase
from tests.fakes.host import Host


def committed(version: str = "1.0.0") -> Host:
    host = Host().desire(1, lenet=version).commit()
    assert host.progress().phase is Phase.COMMITTED
    return host


def policy(**fields: Any) -> dict[str, Any]:
    return {"policy": DeploymentPolicy(**fields)}


def on_probation() -> Host:
    """1.0.0 was committed, 2.0.0 serves and is watched."""
    host = committed().desire(2, lenet="2.0.0").settle()
    assert (host.serves(), host.progress().phase) == ("2.0.0", Phase.PROBATION)
    return host


def fail_requests(host: Host) -> Host:
    tally = host.data_path.tallies["lenet"]
    tally.answered, tally.errors["run_failed"] = 30, 10
    return host.wait(2.0)
