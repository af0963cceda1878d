"""Rollouts over simulated devices with faults by rate: each speaks the real MQTT and HTTP and runs the agent's own
reconciler. What the registry counts is compared with what the devices themselves serve."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from registry.contracts.rollout.states import Command
from scripts.simulator.faults import Bad, Fault, Faults
from scripts.simulator.world import Settings
from tests.support.host.postgres import Databases, PostgreSql
from tests.support.network.broker import Mosquitto
from tests.support.programs.fleet_registry import FleetRegistry, eventually
from tests.support.programs.simulated_fleet import BASE, MODEL, NEXT, SimulatedFleet

WITHIN = Faults(
    slow=0.05, silent=0.02, failing=0.02, rolling_back=0.02, flapping=0.03, offline=0.03, offline_s=30.0
)  # fmt: skip
OVER = Faults(slow=0.05, failing=0.3, rolling_back=0.3, flapping=0.03)
SPEED = 5.0
OVER_STATES = ("succeeded", "completed_with_exceptions", "paused", "aborted", "rolled_back", "rollback_incomplete")
WAVES = {"waves": [{"percent": 20, "soak_s": 1}, {"percent": 100, "soak_s": 1}]}
SPOKEN_OF = {
    "gate": {"health": [], "max_failed_pct": 20, "max_unknown_pct": 12, "min_attempted": 20, "min_committed_pct": 70},
    "offline": {"grace_s": 1, "follow_s": 3600},
}
"""What the devices say decides."""
SOON = {"timeouts": {"offered": 10}}
"""Who says nothing is given up within a time that a test can wait for."""
Make = Callable[[FleetRegistry, int, Faults, int], SimulatedFleet]


@pytest.fixture
def make() -> Iterator[Make]:
    """Simulated devices that serve BASE."""
    with ExitStack() as stack:

        def start(registry: FleetRegistry, count: int, faults: Faults, seed: int) -> SimulatedFleet:
            settings = Settings(
                registry.process.url, registry.process.admin_token, port=registry.broker_port, faults=faults,
                prefix=registry.prefix, speed=SPEED, seed=seed, health_s=30.0,
            )  # fmt: skip
            fleet = SimulatedFleet(settings, registry.http)
            stack.callback(fleet.close)
            fleet.boot(count)
            fleet.roll_out("base", BASE, waves=[{"percent": 100, "soak_s": 0}], policy={"probation_s": 1})
            fleet.run(lambda: fleet.world.serving(MODEL)[BASE] == count, "everybody to serve the first version", 120)
            fleet.run(lambda: fleet.view("base")["state"] in OVER_STATES, "the first rollout's end", 60)
            return fleet

        yield start


@pytest.fixture
def sqlite_registry(broker: Mosquitto, tmp_path: Path) -> Iterator[FleetRegistry]:
    """Started and connected, on SQLite."""
    with FleetRegistry(tmp_path, broker.port, prefix=f"test/{tmp_path.name}") as process:
        eventually(lambda: process.mqtt() == "connected")
        yield process


@pytest.fixture
def postgresql_registry(broker: Mosquitto, tmp_path: Path, postgresql: PostgreSql) -> Iterator[FleetRegistry]:
    """The same on PostgreSQL."""
    environment = Databases(postgresql).environment()
    with FleetRegistry(tmp_path, broker.port, prefix=f"test/{tmp_path.name}", **environment) as process:
        eventually(lambda: process.mqtt() == "connected")
        yield process


def by_fault(fleet: SimulatedFleet) -> Counter[Fault]:
    """How many devices have which fault."""
    return Counter(device.fault for device in fleet.world.devices.values())


def complains(registry: FleetRegistry) -> list[str]:
    """Errors in the registry's log."""
    lines = (registry.process.folder / "registry.log").read_text().splitlines()
    return [line for line in lines if " ERROR " in line or line.startswith("Traceback")]


def check_figures(fleet: SimulatedFleet, view: Any) -> None:
    """What is counted are the devices' rows, and who is said to serve it does, and nobody else who told anything."""
    actions = fleet.actions(view["id"])
    assert view["counts"] == Counter(each["state"] for each in actions.values())
    for wave in view["waves"]:
        rows = Counter(each["state"] for each in actions.values() if each["wave"] == wave["index"])
        assert (wave["counts"], wave["devices"]) == (rows, rows.total()), wave["label"]
    for name, action in actions.items():
        serves = fleet.world.devices[name].serves(MODEL)
        assert serves in (BASE, NEXT), name
        if action["state"] != "timed_out":
            assert (serves == NEXT) is (action["state"] == "committed"), (name, serves, action)


def goes_on_with_exceptions(fleet: SimulatedFleet, count: int) -> None:
    """Faults within the gate's budget: everybody else gets it, who was away in the tail when it is back."""
    faults = by_fault(fleet)
    away = [device for device in fleet.world.devices.values() if device.fault is Fault.OFFLINE]
    for device in away:
        device.leave()
    fleet.roll_out("next", NEXT, **WAVES, **SPOKEN_OF, **SOON)
    fleet.run(lambda: fleet.view("next")["reason"]["code"] == "tail", "the waves to pass", 120)
    assert all(device.serves(MODEL) == BASE for device in away)
    for device in away:
        device.connect()
    fleet.run(lambda: fleet.view("next")["state"] in OVER_STATES, "the rollout's end", 60)
    view = fleet.view("next")
    assert view["state"] == "completed_with_exceptions", view["reason"]
    bad = {
        "failed": faults[Fault.FAILING],
        "rolled_back": faults[Fault.ROLLING_BACK],
        "timed_out": faults[Fault.SILENT],
    }
    assert view["counts"] == {**{k: n for k, n in bad.items() if n}, "committed": count - sum(bad.values())}
    check_figures(fleet, view)


def stops_and_goes_back(fleet: SimulatedFleet, count: int) -> None:
    """Faults over the gate's budget: it pauses in its first wave, and a rollback brings everybody back."""
    gate = {**SPOKEN_OF["gate"], "min_committed_pct": 10}  # else it may stop for who is left before the budget does
    fleet.roll_out("next", NEXT, **WAVES, **{**SPOKEN_OF, "gate": gate})
    fleet.run(lambda: fleet.view("next")["state"] in OVER_STATES, "the rollout to stop", 60)
    view = fleet.view("next")
    assert (view["state"], view["reason"]["code"]) == ("paused", "failed_budget")
    assert view["waves"][0]["state"] == "failed"
    assert view["waves"][1]["counts"] == {"planned": count - view["waves"][0]["devices"]}
    fleet.command("next", Command.ROLLBACK)
    fleet.run(lambda: fleet.view("next")["state"] in OVER_STATES, "the way back", 90)
    assert fleet.view("next")["state"] == "rolled_back"
    fleet.run(lambda: fleet.world.serving(MODEL)[BASE] == count, "everybody to serve what it served before", 60)


@pytest.fixture
def count(request: pytest.FixtureRequest) -> int:
    """How many devices."""
    return int(request.config.getoption("--devices"))


@pytest.mark.timeout(300)
def test_devices_with_faults_within_the_budget_take_it_and_each_exception_is_told(
    postgresql_registry: FleetRegistry, make: Make, count: int
) -> None:
    fleet = make(postgresql_registry, count, WITHIN, 7)
    assert all(by_fault(fleet)[fault] for fault in Fault)
    goes_on_with_exceptions(fleet, count)
    assert fleet.world.messages[2] == 0, "messages were dropped"
    assert not complains(postgresql_registry)


@pytest.mark.timeout(300)
def test_devices_with_faults_over_the_budget_are_stopped_in_the_first_wave(
    sqlite_registry: FleetRegistry, make: Make, count: int
) -> None:
    fleet = make(sqlite_registry, count, OVER, 4)
    stops_and_goes_back(fleet, count)
    assert not complains(sqlite_registry)


@pytest.mark.timeout(120)
@pytest.mark.parametrize(("bad", "state"), [(Bad.CRASH, "failed"), (Bad.NAN, "rolled_back"), (Bad.SLOW, "rolled_back")])
def test_a_bad_version_reaches_no_second_wave(sqlite_registry: FleetRegistry, make: Make, bad: Bad, state: str) -> None:
    fleet = make(sqlite_registry, 30, Faults(bad={NEXT: bad}), 6)
    fleet.roll_out("next", NEXT, **WAVES, **SPOKEN_OF)
    fleet.run(lambda: fleet.view("next")["state"] in OVER_STATES, "the rollout to stop", 60)
    fleet.run(lambda: fleet.world.serving(MODEL)[BASE] == 30, "everybody to serve what it served before", 60)
    # A fifth of the fleet, and one more where chance left a kind of hardware out.
    first = [name for name, action in fleet.actions("next").items() if action["wave"] == 0]
    assert len(first) in (6, 7)
    told = {state: len(first), "planned": 30 - len(first)}
    fleet.world.run_until(lambda: bool(fleet.view("next")["counts"] == told), 60)
    assert fleet.view("next")["counts"] == told, fleet.actions("next")
    assert all(action["state"] == state for name, action in fleet.actions("next").items() if name in first)
