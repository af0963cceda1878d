"""Which labels the console offers to choose from: bounded work, however many devices there are."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path

from sqlalchemy import event

from registry.config import RegistryConfig
from registry.server.composition import build_services
from registry.services.fleet.labels import OFFERED_KEYS, OFFERED_VALUES

START = datetime(2030, 5, 1, 10, tzinfo=timezone.utc)


def test_keys_and_values_are_offered_by_name_in_a_bounded_number_of_steps(tmp_path: Path) -> None:
    services = build_services(RegistryConfig(data_dir=tmp_path), lambda: START)
    try:
        for number in range(OFFERED_VALUES + 12):
            labels = {f"key-{key:02}": f"value-{number:02}" for key in range(OFFERED_KEYS + 6)}
            services.fleet.devices.put(f"edge-{number}", labels, START)
        steps: list[str] = []
        event.listen(services.database.engine, "before_cursor_execute", lambda *given: steps.append(given[2]))
        offered = services.fleet.labels.offered()
        selects = [step for step in steps if step.startswith("SELECT")]
    finally:
        services.close()
    assert list(offered) == [f"key-{key:02}" for key in range(OFFERED_KEYS)]
    assert set(offered.values()) == {tuple(f"value-{number:02}" for number in range(OFFERED_VALUES))}
    assert len(selects) <= (OFFERED_KEYS + 1) * (OFFERED_VALUES + 2)
