"""Devices that are away for a day, on a simulated clock: the agent's own reconciler beside the registry's own services.

Nothing waits: the day is as long as its events take.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.reconciler import loop
from registry.contracts.api.devices import Deployment
from registry.contracts.catalogue.manifest import Manifest
from registry.contracts.rollout.spec import Fleet, Gate, Offline, OfflinePolicy, RolloutSpec, WaveSpec
from registry.contracts.rollout.states import ActionState, Command, RolloutState
from registry.contracts.rollout.views import CommandBody, RolloutView
from registry.contracts.wire import Digest
from registry.db.catalog_rows import VersionRow
from scripts.simulator.inprocess import HEALTH_S, InProcess, Services
from tests.integration.registry.rollouts.world import FACTS, START, World
from tests.support.host.postgres import migrated_file

DAY_S = 86400.0
NAMES = tuple(f"d{number}" for number in range(4))
AWAY = NAMES[:1]
BASE, NEXT = "1.0.0", "2.0.0"


class Days:
    """A registry, four devices that serve BASE, and a clock."""

    def __init__(self, world: World) -> None:
        self.world = world
        services = Services(world.documents, world.devices, world.telemetry, world.ticker, self._manifest)
        self.network = InProcess(services, START)
        for name in NAMES:
            self.network.add(name, FACTS, site="paris").boot()
            world.deployments.put(name, "lenet", Deployment(version=BASE), "somebody", self.network.now())
        self.network.advance(600)
        assert self.serving() == dict.fromkeys(NAMES, BASE)

    def _manifest(self, digest: Digest) -> Manifest:
        with self.world.database.read() as session:
            body = session.query(VersionRow.body).filter(VersionRow.manifest == digest).scalar()
        return Manifest.model_validate_json(body)

    def serving(self) -> dict[str, str | None]:
        return {name: device.serves("lenet") for name, device in self.network.devices.items()}

    def start(self, policy: OfflinePolicy, **changes: Any) -> str:
        """A rollout of NEXT while AWAY are away."""
        for name in AWAY:
            self.network.devices[name].leave()
        spec = RolloutSpec(
            model="lenet",
            version=NEXT,
            fleet=Fleet(selector="*"),
            waves=(WaveSpec(percent=100, soak_s=600),),
            offline=Offline(policy=policy, follow_s=2 * DAY_S),
            **{"gate": Gate(health=()), **changes},
        )
        now = self.network.now()
        made = self.world.rollouts.create(spec, None, "alice", now)
        body = CommandBody(command=Command.SUBMIT, revision=made.revision)
        self.world.rollouts.command(made.id, body, None, "alice", now)
        self.network.advance(1)
        return made.id

    def view(self, rollout: str) -> RolloutView:
        return self.world.rollouts.get(rollout, self.network.now())

    def run_to(self, rollout: str, state: RolloutState, seconds: float) -> RolloutView:
        """At most so much simulated time."""
        assert self.network.advance_until(lambda: self.view(rollout).state is state, seconds, 600), self.view(rollout)
        return self.view(rollout)

    def come_back(self) -> None:
        for name in AWAY:
            self.network.devices[name].connect()


@pytest.fixture
def days(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Days]:
    monkeypatch.setattr(loop, "LONGEST_LOOK_S", HEALTH_S)  # no event is lost here
    world = World(migrated_file(tmp_path))
    yield Days(world)
    world.close()


def test_who_follows_later_leaves_the_wave_and_joins_the_tail_when_it_is_back(days: Days) -> None:
    rollout = days.start(OfflinePolicy.FOLLOW_LATER)
    days.network.advance(2 * 3600)
    assert days.view(rollout).counts == {ActionState.COMMITTED: 3, ActionState.EXCLUDED: 1}
    days.network.advance(DAY_S)
    view = days.view(rollout)
    assert (view.state, view.reason.code) == (RolloutState.RUNNING, "tail")
    assert "offline" in days.world.rollouts.device(rollout, AWAY[0], days.world.now).why
    days.come_back()
    view = days.run_to(rollout, RolloutState.SUCCEEDED, 3600)
    assert [wave.counts for wave in view.waves] == [{ActionState.COMMITTED: 3}, {ActionState.COMMITTED: 1}]
    assert days.serving() == dict.fromkeys(NAMES, NEXT)


def test_who_does_not_come_back_is_an_exception_once_the_tail_is_over(days: Days) -> None:
    rollout = days.start(OfflinePolicy.FOLLOW_LATER)
    days.network.advance(2 * 3600)
    view = days.run_to(rollout, RolloutState.COMPLETED_WITH_EXCEPTIONS, 3 * DAY_S)
    assert view.counts == {ActionState.COMMITTED: 3, ActionState.EXCLUDED: 1}


def test_a_wave_waits_a_day_for_who_is_away_where_it_should(days: Days) -> None:
    rollout = days.start(OfflinePolicy.WAIT, gate=Gate(health=(), deadline_s=2 * DAY_S))
    days.network.advance(DAY_S)
    view = days.view(rollout)
    assert view.state is RolloutState.RUNNING, view.reason
    assert view.counts[ActionState.COMMITTED] == 3
    assert view.waves[0].devices == 4
    days.come_back()
    view = days.run_to(rollout, RolloutState.SUCCEEDED, 7200)
    assert view.counts == {ActionState.COMMITTED: 4}
    assert days.serving() == dict.fromkeys(NAMES, NEXT)


def test_a_wave_that_waits_in_vain_ends_at_its_deadline_and_pauses(days: Days) -> None:
    rollout = days.start(OfflinePolicy.WAIT)
    view = days.run_to(rollout, RolloutState.PAUSED, 2 * DAY_S)
    assert view.reason.code == "wave_deadline"
    assert days.network.seconds() >= DAY_S


def test_who_is_away_counts_as_failed_where_it_should_and_is_left_alone_when_back(days: Days) -> None:
    lenient = Gate(health=(), max_failed_pct=30, min_committed_pct=70)
    rollout = days.start(OfflinePolicy.COUNT_FAILED, gate=lenient)
    view = days.run_to(rollout, RolloutState.COMPLETED_WITH_EXCEPTIONS, 7200)
    assert view.counts == {ActionState.COMMITTED: 3, ActionState.FAILED: 1}
    days.network.advance(DAY_S)
    days.come_back()
    days.network.advance(3600)
    assert {name: days.serving()[name] for name in AWAY} == dict.fromkeys(AWAY, BASE)


def test_who_is_away_stops_the_rollout_where_that_is_more_than_may_fail(days: Days) -> None:
    rollout = days.start(OfflinePolicy.COUNT_FAILED)
    view = days.run_to(rollout, RolloutState.PAUSED, 7200)
    assert view.reason.code == "failed_budget"
