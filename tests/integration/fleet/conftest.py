"""A registry of each test's own, beside the session's broker or one that the test may kill too."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.host.postgres import Databases
from tests.support.network.broker import Mosquitto
from tests.support.programs.fleet_registry import FleetRegistry, eventually


@pytest.fixture
def registry(broker: Mosquitto, tmp_path: Path, databases: Databases) -> Iterator[FleetRegistry]:
    """Started and connected, with a topic prefix of its own."""
    with FleetRegistry(tmp_path, broker.port, prefix=f"test/{tmp_path.name}", **databases.environment()) as process:
        eventually(lambda: process.mqtt() == "connected")
        yield process


@pytest.fixture
def mortal_registry(mortal_broker: Mosquitto, tmp_path: Path, databases: Databases) -> Iterator[FleetRegistry]:
    """Started and connected."""
    with FleetRegistry(tmp_path, mortal_broker.port, **databases.environment()) as process:
        eventually(lambda: process.mqtt() == "connected")
        yield process
