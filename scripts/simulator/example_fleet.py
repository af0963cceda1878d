"""A registry's data folder with a fleet that has a history: for pictures of the console and for its tests.

Devices are simulated on a clock that is turned by hand; everything else is the registry's own: real versions of LeNet
are published with golden vectors over HTTP, people's tokens deploy and roll out, rollouts succeed and fail. The history
ends now: a registry that is started on the folder afterwards finds a fleet that was heard a moment ago.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import uvicorn

from registry.client.address import ADMIN_TOKEN_FILE, Address
from registry.client.api import ApiClient
from registry.config import RegistryConfig
from registry.contracts.api.answers import Scope, TokenCreate
from registry.contracts.api.devices import Deployment
from registry.contracts.catalogue.manifest import Manifest
from registry.contracts.rollout.spec import Fleet, Gate, OnFailure, RolloutSpec, WaveSpec
from registry.contracts.rollout.states import Command
from registry.contracts.rollout.views import CommandBody
from registry.contracts.wire import Digest
from registry.publishing.plan import make_plan
from registry.publishing.publish import publish
from registry.publishing.request import GoldenSection, load_publish_file
from registry.server.app import create_app
from registry.server.composition import Services, build_services, utc_now
from registry.services.fleet.over_time import ConnectionSamples, VersionSamples
from registry.services.fleet.summary import FleetFigures
from registry.services.rollouts.planning import Planner
from registry.services.rollouts.ticker import Ticker
from scripts.simulator.faults import Bad, Fault, Faults
from scripts.simulator.inprocess import InProcess
from scripts.simulator.inprocess import Services as FleetParts
from scripts.simulator.platforms import PLATFORMS

LENET = Path(__file__).parents[1] / "models" / "lenet" / "lenet.toml"
SITES = ("paris", "lyon", "turin", "graz")
BAD = "1.2.0"
"""A version that fails its probation on every device."""
HOURS = 26.0
LOOK_S = 300.0
"""How often sums for plots are written."""
SOFT = Gate(health=(), max_failed_pct=20, min_committed_pct=70, min_coverage_pct=50)
"""A paused rollout would leave devices in probation for hours, in which a simulated one is turned every second."""


@dataclass
class People:
    """Tokens of those who work with the fleet, by name."""

    tokens: dict[str, str]


class ExampleFleet:
    """Made by `example_fleet`."""

    def __init__(self, services: Services, start: datetime, url: str, token: str) -> None:
        self.services = services
        fleet = services.fleet
        # Not the registry's own, which compares the simulated clock with the monotonic one.
        ticker = Ticker(services.database, Planner(services.database, two_person=False))
        parts = FleetParts(fleet.documents, fleet.devices, fleet.telemetry, ticker, self._manifest)
        self.network = InProcess(parts, start, Faults(bad={BAD: Bad.NAN}))
        self._client = ApiClient(Address(url, token))
        self._look()

    def _look(self) -> None:
        """What the registry's scheduler does for plots."""
        now = self.network.now()
        self.services.fleet.answers.record(now)
        figures = FleetFigures(self.services.database)
        ConnectionSamples(self.services.database, figures).record(now)
        VersionSamples(self.services.database, figures).record(now)
        self.network.call_at(self.network.seconds() + LOOK_S, self._look)

    def _manifest(self, digest: Digest) -> Manifest:
        return Manifest.model_validate_json(self.services.versions.manifest_bytes(digest))

    def publish(self, version: str, model: str = "lenet") -> None:
        """LeNet under this name."""
        asked = load_publish_file(LENET)
        golden = GoldenSection(random=8)
        changes = {"model": model, "version": version, "aliases": (), "golden": golden}
        publish(self._client, make_plan(asked.model_copy(update=changes)))

    def add(self, name: str, number: int, fault: Fault = Fault.NONE, **labels: str) -> None:
        """A device that starts."""
        self.network.add(name, PLATFORMS[number % len(PLATFORMS)], fault, **labels).boot()

    def deploy(self, device: str, version: str, model: str = "lenet", by: str = "anna") -> None:
        """As a person does."""
        self.services.fleet.deployments.put(device, model, Deployment(version=version), by, self.network.now())

    def roll_out(self, spec: RolloutSpec, *, submit: bool = True, by: str = "anna") -> str:
        """Made, and begun; its id."""
        rollouts, now = self.services.fleet.rollouts, self.network.now()
        made = rollouts.create(spec, None, by, now)
        if submit:
            rollouts.command(made.id, CommandBody(command=Command.SUBMIT, revision=made.revision), None, by, now)
            self.network.advance(1)
        return made.id

    def close(self) -> None:
        """No connection is left."""
        self._client.close()


def spec(name: str, version: str, selector: str, model: str = "lenet", **changes: object) -> RolloutSpec:
    """A rollout in two waves without a long soak."""
    waves = (WaveSpec(percent=25, soak_s=600), WaveSpec(percent=100, soak_s=600))
    asked = {"name": name, "model": model, "version": version, "fleet": Fleet(selector=selector), "waves": waves}
    return RolloutSpec.model_validate({**asked, "gate": Gate(health=()), **changes})


def history(fleet: ExampleFleet, devices: int) -> None:
    """What happened in the last HOURS."""
    network = fleet.network
    fleet.publish("1.0.0")
    names = [f"{SITES[number % len(SITES)]}-{number // len(SITES) + 1:02d}" for number in range(devices)]
    for number, name in enumerate(names):
        ring = "canary" if number < max(2, devices // 8) else "broad"
        fault = Fault.ROLLING_BACK if number == devices - 2 else Fault.NONE
        fleet.add(name, number, fault, site=SITES[number % len(SITES)], ring=ring, line=str(number % 3 + 1))
        fleet.deploy(name, "1.0.0")
    fleet.services.fleet.devices.put("spare-1", {"site": "graz"}, network.now())  # never seen
    network.advance(2 * 3600)
    fleet.publish("1.1.0")
    fleet.roll_out(spec("lenet-1-1", "1.1.0", "*", note="Better on sevens.", gate=SOFT))
    network.advance(6 * 3600)
    fleet.publish(BAD)
    fleet.roll_out(spec("lenet-1-2", BAD, "*", note="Trained on the new line.", on_failure=OnFailure.ROLLBACK))
    network.advance(5 * 3600)
    fleet.publish("0.3.0", "digits-small")
    for name in names[: devices // 3]:
        fleet.deploy(name, "0.3.0", "digits-small", by="ben")
    network.devices[names[-1]].leave()
    network.advance(8 * 3600)
    fleet.publish("0.4.0", "digits-small")
    fleet.roll_out(spec("small-for-all", "0.4.0", "ring=broad", "digits-small"), submit=False, by="ben")
    fleet.publish("1.3.0")
    fleet.roll_out(spec("lenet-1-3", "1.3.0", "site=lyon", requires_approval=True), by="ben")
    network.advance(4 * 3600)
    waves = (WaveSpec(percent=30, soak_s=7200), WaveSpec(percent=100, soak_s=7200))
    fleet.roll_out(spec("paris-1-3", "1.3.0", "site=paris", waves=waves, note="Paris first."))


@dataclass
class _Clock:
    """Of the registry: the simulation's, as soon as there is one."""

    start: datetime
    network: InProcess | None = None

    def now(self) -> datetime:
        return self.start if self.network is None else self.network.now()


@contextmanager
def example_fleet(folder: Path, devices: int = 24) -> Iterator[People]:
    """Makes the folder; the registry that may be started on it is the caller's."""
    start = utc_now() - timedelta(hours=HOURS)
    clock = _Clock(start)
    services = build_services(RegistryConfig(data_dir=folder, host="127.0.0.1"), clock.now)
    try:
        people = {
            name: services.tokens.create(TokenCreate(name=name, scope=scope), "admin", start).token
            for name, scope in (("anna", Scope.DEPLOY), ("ben", Scope.ADMIN), ("mira", Scope.READ))
        }
        people["admin"] = (folder / ADMIN_TOKEN_FILE).read_text().strip()
        with _served(services) as url:
            fleet = ExampleFleet(services, start, url, people["admin"])
            clock.network = fleet.network
            services.fleet.presence.listen(start)
            history(fleet, devices)
            rest = (utc_now() - fleet.network.now()).total_seconds()
            fleet.network.advance(max(rest - 1, 0))
            services.fleet.presence.listen(fleet.network.now())
            fleet.close()
    finally:
        services.close()
    yield People(people)


@contextmanager
def _served(services: Services) -> Iterator[str]:
    """Its API, without what runs beside it: the simulation's clock is turned by hand."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(create_app(services), lifespan="off", log_level="warning", ws="none"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        server.should_exit = True
        thread.join(10)
