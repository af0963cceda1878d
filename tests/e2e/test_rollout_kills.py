"""Broker and registry are killed again and again during one rollout: it ends as it should, and no device is lost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import partial

import httpx
import pytest

from scripts.simulator.world import Settings
from tests.support.models import rollout_models
from tests.support.programs.fleet import Fleet
from tests.support.programs.simulated_fleet import BASE, MODEL, NEXT, SimulatedFleet

DEVICES = 30
PER_WAVE = 3
WAVES = [{"count": count, "soak_s": 0} for count in range(PER_WAVE, DEVICES, PER_WAVE)] + [
    {"percent": 100, "soak_s": 0}
]


@pytest.fixture
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """A broker and a registry that are killed here."""
    with Fleet(tmp_path_factory.mktemp("fleet")) as running:
        running.start_broker()
        running.start_registry()
        yield running


@pytest.fixture
def devices(fleet: Fleet) -> Iterator[SimulatedFleet]:
    """They serve BASE."""
    with rollout_models.client_of(fleet) as http:
        token = http.headers["Authorization"].removeprefix("Bearer ")
        settings = Settings(fleet.url, token, port=fleet.broker_port, speed=5.0, health_s=30.0)
        simulated = SimulatedFleet(settings, http)
        simulated.boot(DEVICES)
        simulated.roll_out("base", BASE, waves=[{"percent": 100, "soak_s": 0}], policy={"probation_s": 1})
        simulated.run(lambda: simulated.view("base")["state"] == "succeeded", "the first rollout", 60)
        yield simulated
        simulated.close()


@pytest.mark.timeout(300)
def test_a_rollout_ends_well_although_broker_and_registry_are_killed_again_and_again(
    fleet: Fleet, devices: SimulatedFleet, request: pytest.FixtureRequest
) -> None:
    world, kills = devices.world, int(request.config.getoption("--kills"))
    devices.roll_out("next", NEXT, waves=WAVES, policy={"probation_s": 2}, gate={"health": []})
    for number in range(kills):
        # Spread over the first two thirds of the rollout.
        enough = number * DEVICES * 2 // 3 // kills
        devices.run(partial(_are_updated, devices, enough), f"{enough} devices to be updated", 60)
        fleet.processes["broker"].kill()
        fleet.start_broker()
        world.turn(0.0)
        fleet.processes["registry"].kill()
        fleet.start_registry()
    assert world.serving(MODEL)[NEXT] < DEVICES, "the kills came too late to say anything"
    devices.run(lambda: _ended(devices), "the rollout's end", 90)
    view = devices.view("next")
    assert (view["state"], view["counts"]) == ("succeeded", {"committed": DEVICES}), view["reason"]
    assert world.serving(MODEL) == {NEXT: DEVICES}
    assert Counter(action["state"] for action in devices.actions("next").values()) == view["counts"]
    for wave in view["waves"]:
        assert wave["counts"] == ({"committed": wave["devices"]} if wave["devices"] else {}), wave["label"]
    downloads = Counter(len(device.steps.on_disk) for device in world.devices.values())
    assert downloads == {2: DEVICES}, "each has what it serves and what it would go back to"


def _are_updated(devices: SimulatedFleet, least: int) -> bool:
    return devices.world.serving(MODEL)[NEXT] >= least


def _ended(devices: SimulatedFleet) -> bool:
    try:
        return str(devices.view("next")["state"]) not in ("planning", "scheduled", "running")
    except httpx.TransportError:
        return False
