"""Simulated devices and a real registry for tests of rollouts: publish, roll out, look at what became of everybody."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx

from registry.contracts import paths
from registry.contracts.api.answers import MAX_PAGE
from registry.contracts.rollout.states import Command
from scripts.simulator.platforms import PLATFORMS
from scripts.simulator.world import Settings, World
from tests.support.programs.registry_process import publish

MODEL = "lenet"
BASE, NEXT = "1.0.0", "1.1.0"
QUICK: dict[str, Any] = {
    "model": MODEL,
    "fleet": {"selector": "simulated=yes"},
    "rate": {"devices_per_minute": 600_000},
    "policy": {"probation_s": 10},
}


class SimulatedFleet:
    """A world, and an administrator's client of its registry."""

    def __init__(self, settings: Settings, http: httpx.Client) -> None:
        self.http = http
        self.world = World(settings, PLATFORMS)
        for version in (BASE, NEXT):
            publish(http, MODEL, version, f"simulated {version}".encode()).raise_for_status()

    def boot(self, count: int) -> None:
        """Registers and starts so many devices."""
        for number in range(count):
            self.world.add(f"sim-{number:04}").boot()
            self.world.turn(0.0)

    def run(self, true: Callable[[], object], what: str, seconds: float) -> None:
        """Turns the world until it is true; AssertionError naming `what` after so many seconds."""
        assert self.world.run_until(lambda: bool(true()), seconds), f"{what}: not within {seconds:.0f} s"

    def roll_out(self, name: str, version: str, **more: Any) -> str:
        """Creates and starts a rollout; its id."""
        spec = {**QUICK, "name": name, "version": version, **more}
        view = self.http.put(paths.rollout_path(name), json=spec).raise_for_status().json()
        self.command(name, Command.SUBMIT)
        return str(view["id"])

    def view(self, name: str) -> Any:
        """As the registry sees it now."""
        return self.http.get(paths.rollout_path(name)).raise_for_status().json()

    def command(self, name: str, command: Command) -> Any:
        """For the revision that stands."""
        body = {"command": command.value, "revision": self.view(name)["revision"]}
        headers = {"Idempotency-Key": f"{name}-{command.value}-{body['revision']}"}
        answer = self.http.post(paths.rollout_commands_path(name), json=body, headers=headers)
        return answer.raise_for_status().json()

    def actions(self, name: str) -> dict[str, Any]:
        """Every device of a rollout."""
        found: dict[str, Any] = {}
        query: dict[str, Any] = {"limit": MAX_PAGE}
        while query.get("cursor", "") is not None:
            page = self.http.get(paths.rollout_devices_path(name), params=query).raise_for_status().json()
            found |= {each["device"]: each for each in page["items"]}
            query["cursor"] = page.get("next")
        return found

    def close(self) -> None:
        """Ends the connections."""
        self.world.close()
