"""The wall clock of a running registry is set, by an hour and by twenty years, in both directions."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.host.moved_clock import MovedClock
from tests.support.programs.fleet_registry import eventually
from tests.support.programs.registry_process import RegistryProcess, publish

YEARS = 20 * 365 * 86400


def peak_mb(pid: int) -> int:
    """The most memory that the process ever had."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) // 1024 for line in lines if line.startswith("VmHWM"))


@pytest.mark.timeout(180)
def test_a_registry_whose_clock_is_set_works_on_and_forgets_nothing(tmp_path: Path) -> None:
    clock = MovedClock(tmp_path)
    registry = RegistryProcess(tmp_path, clock.environment).start()
    log = tmp_path / "registry.log"
    try:
        with registry.client() as client:
            assert publish(client, "lenet", "1", b"weights").status_code == 201
            memory = peak_mb(registry.pid)
            ahead = 0
            for number, step in enumerate((3600, -7200, YEARS, -YEARS)):
                ahead += step
                clock.set_ahead(ahead)
                said = f"the clock was set by {step:+d} s"
                eventually(lambda said=said: said in log.read_text())  # type: ignore[misc]
                assert client.put(f"/v1/devices/d{number}", json={}).status_code == 201
                assert client.get("/readyz").status_code == 200
            assert client.get("/v1/models/lenet/versions/1").status_code == 200
            assert peak_mb(registry.pid) < memory + 50
        assert "Traceback" not in log.read_text()
    finally:
        registry.stop()
