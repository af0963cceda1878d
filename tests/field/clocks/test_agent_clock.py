"""The wall clock of a running agent is set: polls, reports and deployments go on, and memory does not grow."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from tests.fakes.registry_simulator import RegistrySimulator
from tests.integration.agent.test_agent_process import AgentProcess, deploy, wait_until
from tests.support.host.moved_clock import MovedClock
from tests.support.network.broker import free_port

YEAR = 365 * 86400


def resident_mb(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) / 1024


@pytest.mark.parametrize("first", [0, -56 * YEAR], ids=["2026", "1970"])
def test_an_agent_works_on_while_its_clock_is_set_back_and_ahead(tmp_path: Path, first: int) -> None:
    clock = MovedClock(tmp_path)
    clock.set_ahead(first)
    registry = RegistrySimulator().start()
    agent = AgentProcess(tmp_path / "data", registry.url, free_port())
    agent.settings |= clock.environment
    agent.start()
    try:
        deploy(registry)
        wait_until(agent.serves)
        memory = resident_mb(agent.pid)
        for generation, ahead in zip(itertools.count(2), (0, -3600, 20 * YEAR, 60), strict=False):
            clock.set_ahead(ahead)
            polls, reports = len(registry.requests("desired")), len(registry.requests("reports"))
            deploy(registry, generation)
            wait_until(lambda polls=polls: len(registry.requests("desired")) > polls + 1)
            wait_until(lambda reports=reports: len(registry.requests("reports")) > reports + 1)
            said = f'"generation":{generation}'.encode()
            wait_until(lambda said=said: any(said in seen.body for seen in registry.requests("reports")))
            assert agent.serves()
        assert resident_mb(agent.pid) < memory + 50
    finally:
        agent.stop()
        registry.stop()
