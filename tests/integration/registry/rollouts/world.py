"""The real services on a real database with a clock of our own, and simulated devices that answer their desired state.

A device answers through the same `Telemetry` as over MQTT and HTTP, with the reported states of a real agent.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any

from sqlalchemy import func, select

from registry.contracts.api.devices import Deployment
from registry.contracts.catalogue.manifest import FileRef, Format, Manifest, Parity, Target, Variant
from registry.contracts.device.deployments import DeploymentProgress, Phase
from registry.contracts.device.messages import Desired, DesiredModel, Reported, ReportedModel, ServingState
from registry.contracts.device.messages import Presence as PresenceMessage
from registry.contracts.fit.platforms import Platform
from registry.contracts.rollout.spec import Fleet, Gate, Offline, Rate, RolloutSpec, WaveSpec
from registry.contracts.rollout.states import ActionState, Command, RolloutState
from registry.contracts.rollout.views import CommandBody, RolloutView
from registry.contracts.wire import digest_of
from registry.core.intake import checked
from registry.db.base import Base
from registry.db.catalog_rows import ModelRow, VersionRow
from registry.db.engine import Database
from registry.services.deployments import Deployments
from registry.services.fleet.desired import DesiredDocuments
from registry.services.fleet.devices import Devices
from registry.services.fleet.fleet_log import FleetLog
from registry.services.fleet.groups import Groups
from registry.services.fleet.presence import PresenceTracker
from registry.services.rollouts.planning import Planner
from registry.services.rollouts.rollouts import Rollouts
from registry.services.rollouts.ticker import Ticker
from registry.services.telemetry import Telemetry
from tests.support.programs.fleet_registry import facts

START = datetime(2030, 5, 1, 10, tzinfo=timezone.utc)
S, R = ActionState, RolloutState
FACTS = Platform.model_validate(facts())
SLOW = Platform.model_validate(facts(arch="aarch64"))
STEPS = (Phase.DOWNLOADING, Phase.VERIFIED, Phase.WARMING, Phase.SWITCHING, Phase.PROBATION, Phase.COMMITTED)


@dataclass
class Simulated:
    """A device: what it serves, and how it takes what is new."""

    name: str
    behaviour: str = "good"
    """good, failing (rolls back), silent, slow (stays in probation), full (its disk is)."""
    serving: DesiredModel | None = None
    deployment: DeploymentProgress | None = None
    generation: int = 0
    online: bool = True
    parity: Parity | None = None
    """Of what it serves."""


class World:
    """Everything that a test of rollouts needs."""

    def __init__(self, url: str, *, two_person: bool = False) -> None:
        self.now = START
        self.database = Database(url)
        self.documents = DesiredDocuments(self.database)
        self.log = FleetLog(self.database)
        self.ticker = self.new_ticker(two_person=two_person)
        self.rollouts = Rollouts(self.database, two_person=two_person)
        self.devices = Devices(self.database)
        self.deployments = Deployments(self.database)
        self.groups = Groups(self.database)
        self.presence = PresenceTracker(self.database)
        self.telemetry = Telemetry(self.database)
        self.fleet: dict[str, Simulated] = {}
        for version in ("1.0.0", "2.0.0", "3.0.0"):
            self.publish(version)

    def new_ticker(self, *, two_person: bool = False) -> Ticker:
        """Another scheduler."""
        return Ticker(self.database, Planner(self.database, two_person=two_person))

    def close(self) -> None:
        self.database.close()

    def publish(self, version: str, size: int = 1000, **requirements: Any) -> str:
        """A version of `lenet` for CPU hosts; its digest."""
        ref = FileRef(path="model.onnx", digest=digest_of(version.encode()), size=size)
        variant = Variant(name="cpu", format=Format.ONNX, target=Target.CPU, entry="model.onnx", files=(ref,))
        variant = variant.model_copy(update={"requirements": variant.requirements.model_copy(update=requirements)})
        body = Manifest(model="lenet", version=version, variants=(variant,)).canonical()
        with self.database.write() as session:
            if session.get(ModelRow, "lenet") is None:
                session.add(ModelRow(name="lenet", created_at=START))
                session.flush()
            row = VersionRow(model="lenet", version=version, manifest=digest_of(body), body=body, variants=[], size=1)
            row.created_at = START
            session.add(row)
        return digest_of(body)

    def add(
        self,
        *names: str,
        behaviour: str = "good",
        platform: Platform | None = FACTS,
        version: str | None = "1.0.0",
        **labels: str,
    ) -> None:
        """Register devices that are online; with facts, and serving a version that a person deployed."""
        for name in names:
            self.devices.put(name, labels or {"site": "paris"}, self.now)
            self.fleet[name] = Simulated(name, behaviour)
            birth = PresenceMessage(device=name, online=True, session_id="s", at=self.now)
            self.telemetry.take([checked(name, birth, self.now)])
            if platform is not None:
                self.telemetry.put_facts(name, platform, self.now)
            if platform is not None and version is not None:
                self.deploy(name, version)
                self.fleet[name].behaviour = "good"
                self.answer(name)
                self.fleet[name].behaviour = behaviour

    def deploy(self, name: str, version: str) -> None:
        """As a person does."""
        self.deployments.put(name, "lenet", Deployment(version=version), "somebody", self.now)

    def offline(self, name: str) -> None:
        """The broker sends its will."""
        self.fleet[name].online = False
        will = PresenceMessage(device=name, online=False, session_id="s")
        self.telemetry.take([checked(name, will, self.now)])

    def back(self, name: str) -> None:
        """It is there again."""
        self.fleet[name].online = True
        birth = PresenceMessage(device=name, online=True, session_id="s", at=self.now)
        self.telemetry.take([checked(name, birth, self.now)])

    # -- devices

    def desired(self, name: str) -> Desired:
        return Desired.model_validate_json(self.documents.load(name).body)

    def wants(self, name: str) -> str | None:
        """The version that the device is to serve."""
        model = self.desired(name).models.get("lenet")
        return model.version if model is not None else None

    def answer(self, *names: str) -> None:
        """Devices read their desired state and go as far as they come."""
        for name in names or tuple(self.fleet):
            device = self.fleet[name]
            if not device.online or device.behaviour == "silent":
                continue
            document = self.desired(name)
            device.generation = document.generation
            wanted = document.models.get("lenet")
            if wanted is None:
                device.serving = device.deployment = None
                self.say(name)
            elif _identity(wanted) != _identity(device.serving):
                self._carry_out(device, wanted)
            else:
                device.serving = wanted
                self.say(name)

    def _carry_out(self, device: Simulated, wanted: DesiredModel) -> None:
        for phase in STEPS[self._done(device, wanted) :]:
            if device.behaviour == "full" and phase is Phase.DOWNLOADING and wanted.version != "1.0.0":
                return self._step(device, wanted, phase, code="insufficient_disk")
            if wanted.policy.hold and phase is Phase.COMMITTED:
                return self._step(device, wanted, Phase.PROBATION, code="held")
            if wanted.policy.hold and phase is Phase.WARMING:
                return self._step(device, wanted, Phase.STAGED)
            if device.behaviour == "failing" and phase is Phase.SWITCHING and wanted.version != "1.0.0":
                self._step(device, wanted, Phase.ROLLED_BACK, code="golden_mismatch")
                return None
            if device.behaviour == "slow" and phase is Phase.COMMITTED:
                return None
            if phase is Phase.COMMITTED:
                device.serving = wanted
            self._step(device, wanted, phase)
        return None

    @staticmethod
    def _done(device: Simulated, wanted: DesiredModel) -> int:
        """How many of STEPS it has behind it: a hold, or its end, begins nothing anew."""
        known = device.deployment
        if known is None or (known.manifest, known.rollout, known.attempt) != _identity(wanted):
            return 0
        return STEPS.index(Phase.PROBATION) + 1 if known.phase is Phase.PROBATION else 0

    def _step(self, device: Simulated, wanted: DesiredModel, phase: Phase, code: str = "") -> None:
        self.now += timedelta(milliseconds=1)
        known = device.deployment
        of = (known.manifest, known.rollout, known.attempt) if known is not None else None
        if known is None or known.phase is not phase or of != _identity(wanted):
            known = DeploymentProgress(
                version=wanted.version, manifest=wanted.manifest, rollout=wanted.rollout, attempt=wanted.attempt,
                phase=phase, since=self.now,
            )  # fmt: skip
        device.deployment = known.model_copy(update={"code": code})
        self.say(device.name)

    def say(self, name: str) -> None:
        """The device reports what it serves."""
        device = self.fleet[name]
        self.now += timedelta(milliseconds=1)
        model = ReportedModel(
            state=ServingState.SERVING if device.serving else ServingState.PENDING,
            version=device.serving.version if device.serving else None,
            manifest=device.serving.manifest if device.serving else None,
            variant="cpu",
            deployment=device.deployment,
            parity=device.parity,
        )
        models = {"lenet": model} if device.serving or device.deployment else {}
        reported = Reported(
            device=name, session_id="s", generation=device.generation, at=self.now,
            facts_digest=FACTS.facts_digest(), models=models,
        )  # fmt: skip
        self.telemetry.take([checked(name, reported, self.now)])

    # -- rollouts

    def start(self, spec: RolloutSpec | None = None, **changes: Any) -> str:
        """Create, submit, plan, start: its id."""
        made = self.rollouts.create(spec or quick(**changes), None, "alice", self.now)
        self.command(made.id, Command.SUBMIT)
        self.tick()
        return made.id

    def command(self, rollout: str, command: Command, by: str = "alice", **more: Any) -> RolloutView:
        """With the revision that stands, then a tick."""
        body = CommandBody(command=command, revision=self.view(rollout).revision, **more)
        view = self.rollouts.command(rollout, body, None, by, self.now)
        self.tick()
        return view

    def tick(self, seconds: float = 0.0) -> None:
        self.now += timedelta(seconds=seconds)
        if seconds:
            for name, device in self.fleet.items():
                if device.online:  # it polls, whatever its deployments do
                    self.presence.polled(name, self.now)
            self.presence.listen(self.now)
        self.ticker.plan(lambda: self.now)
        self.ticker.tick(self.now)

    def view(self, rollout: str) -> RolloutView:
        return self.rollouts.get(rollout, self.now)

    def state(self, rollout: str) -> RolloutState:
        return self.view(rollout).state

    def states(self, rollout: str) -> dict[str, ActionState]:
        found = self.rollouts.devices(rollout, None, None, "", 1000, self.now)
        return {action.device: action.state for action in found}

    def run(self, rollout: str, until: Callable[[RolloutState], bool] | RolloutState, rounds: int = 60) -> RolloutView:
        """Devices answer and the clock goes on until the rollout is there."""
        for _ in range(rounds):
            state = self.state(rollout)
            if state is until if isinstance(until, RolloutState) else until(state):
                return self.view(rollout)
            self.answer()
            self.tick(60)
        raise AssertionError(f"still {self.view(rollout).state}: {self.view(rollout).reason}")

    def count(self, table: type[Base]) -> int:
        with self.database.read() as session:
            return session.scalar(select(func.count()).select_from(table)) or 0


def _identity(wanted: DesiredModel | None) -> tuple[object, ...] | None:
    return None if wanted is None else (wanted.manifest, wanted.rollout, wanted.attempt)


def quick(**changes: Any) -> RolloutSpec:
    """2.0.0 of lenet to everybody, in two waves that are not watched for long."""
    base: dict[str, Any] = {
        "model": "lenet",
        "version": "2.0.0",
        "fleet": Fleet(selector="*"),
        "waves": (WaveSpec(count=1, soak_s=10), WaveSpec(percent=100, soak_s=10)),
        "gate": Gate(health=(), min_attempted=1),
        "rate": Rate(devices_per_minute=6000),
        "offline": Offline(grace_s=60, follow_s=3600),
    }
    return RolloutSpec(**{**base, **changes})
