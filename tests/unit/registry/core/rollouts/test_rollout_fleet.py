"""A rollout on simulated devices, under interleavings that hypothesis finds: what must hold whatever happens."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from registry.contracts.device.deployments import Phase
from registry.contracts.rollout.spec import Fleet as FleetSpec
from registry.contracts.rollout.spec import (
    Gate,
    Offline,
    OfflinePolicy,
    OnFailure,
    Rate,
    RolloutSpec,
    WaveSpec,
)
from registry.contracts.rollout.states import ActionState, Command, RolloutState
from registry.core.rollouts import actions
from registry.core.rollouts.decide import decide
from registry.core.rollouts.gates import Kind
from registry.core.rollouts.machine import AT_REST, TRANSITIONS, legal
from tests.unit.registry.core.rollouts.fleet import NEW, OLD, Fleet

S, R, C = ActionState, RolloutState, Command


def spec(**more: object) -> RolloutSpec:
    fields: dict[str, object] = {
        "model": "lenet",
        "version": "2",
        "fleet": FleetSpec(selector="*"),
        "waves": (WaveSpec(count=2, soak_s=60), WaveSpec(percent=50, soak_s=60), WaveSpec(percent=100, soak_s=0)),
        **more,
    }
    return RolloutSpec.model_validate(fields)


def run(fleet: Fleet, minutes: float, each_s: float = 30) -> None:
    """Every device works and speaks; the scheduler ticks."""
    for _ in range(int(minutes * 60 / each_s)):
        fleet.now += timedelta(seconds=each_s)
        for device in fleet.devices.values():
            if device.online:
                device.seen = fleet.now
                device.work(fleet.now)
                if device.said:
                    fleet.deliver(device.name, device.said[-1])
        fleet.tick()


def fleet_of(count: int, **more: object) -> Fleet:
    return Fleet(spec(**more), [f"d{i}" for i in range(count)])


def test_a_good_version_reaches_every_device_wave_by_wave() -> None:
    fleet = fleet_of(20)
    run(fleet, 60)
    assert fleet.state is R.SUCCEEDED
    assert {d.serving for d in fleet.devices.values()} == {NEW}
    order = [fleet.wave_of[name] for name, _ in fleet.offered]
    assert order == sorted(order)


@pytest.mark.parametrize("fault", [Phase.WARMING, Phase.SWITCHING, Phase.PROBATION])
def test_a_bad_version_stops_in_its_first_wave(fault: Phase) -> None:
    fleet = fleet_of(20)
    for device in fleet.devices.values():
        device.fault = fault
    run(fleet, 60)
    assert fleet.state is R.PAUSED
    assert {fleet.wave_of[name] for name, _ in fleet.offered} == {0}
    assert {d.serving for d in fleet.devices.values()} == {OLD}


def test_a_version_that_fails_later_is_rolled_back_everywhere_where_the_spec_says_so() -> None:
    fleet = fleet_of(20, on_failure=OnFailure.ROLLBACK)
    run(fleet, 2.5)
    for name, device in fleet.devices.items():
        device.fault = Phase.PROBATION if fleet.wave_of[name] else None
    run(fleet, 120)
    assert fleet.state is R.ROLLED_BACK
    assert {d.serving for d in fleet.devices.values()} == {OLD}


@pytest.mark.parametrize("policy", OfflinePolicy)
def test_devices_that_never_come_back_do_not_keep_a_rollout_from_ending(policy: OfflinePolicy) -> None:
    gate = Gate(max_failed_pct=100, max_unknown_pct=100, min_committed_pct=0, min_coverage_pct=0)
    fleet = fleet_of(10, offline=Offline(policy=policy), gate=gate)
    gone = [name for name, wave in fleet.wave_of.items() if wave == 2][:2]
    for name in gone:
        fleet.devices[name].online = False
    run(fleet, 60)
    run(fleet, 31 * 1440, each_s=3600)
    assert fleet.state is R.COMPLETED_WITH_EXCEPTIONS
    assert all(fleet.rows[name].state not in actions.SUCCESS for name in gone)
    assert sum(row.state is S.COMMITTED for row in fleet.rows.values()) == 8


def test_a_device_that_was_away_for_a_day_follows_in_the_tail_wave() -> None:
    fleet = fleet_of(10)
    away = next(device for name, device in fleet.devices.items() if fleet.wave_of[name] == 2)
    away.online = False
    run(fleet, 1440, each_s=120)
    assert fleet.state is R.RUNNING
    assert fleet.rows[away.name].state is S.EXCLUDED
    away.online, away.seen = True, fleet.now
    run(fleet, 30)
    assert fleet.state is R.SUCCEEDED
    assert away.serving == NEW


def test_a_silent_device_is_counted_and_not_waited_for() -> None:
    fleet = fleet_of(4, gate=Gate(max_unknown_pct=0))
    fleet.tick()
    for device in fleet.devices.values():
        device.fault, device.step = None, 99  # it is there, and says nothing
    run(fleet, 120)
    assert fleet.state is R.PAUSED
    assert {fleet.rows[name].state for name, _ in fleet.offered} == {S.TIMED_OUT}


def test_a_failed_device_that_is_not_back_frees_no_slot_and_the_rollout_says_so() -> None:
    gate = Gate(max_failed_pct=100, min_committed_pct=0)
    fleet = fleet_of(10, rate=Rate(max_unavailable=1), gate=gate)
    fleet.tick()
    ((first, _),) = fleet.offered
    fleet.devices[first].fault = Phase.DOWNLOADING
    fleet.devices[first].work(fleet.now)
    fleet.deliver(first, fleet.devices[first].said[-1])
    fleet.devices[first].online = False
    run(fleet, 5)
    assert fleet.rows[first].state is S.FAILED
    assert [name for name, _ in fleet.offered] == [first]
    assert fleet.state is R.PAUSED


def test_who_resumes_without_a_lost_device_goes_on_until_another_is_lost() -> None:
    gate = Gate(max_failed_pct=100, min_committed_pct=0)
    fleet = fleet_of(10, rate=Rate(max_unavailable=1), gate=gate, waves=(WaveSpec(percent=100, soak_s=0),))
    fleet.tick()
    for lost in (1, 2):
        name, _ = fleet.offered[-1]
        device = fleet.devices[name]
        device.fault = Phase.DOWNLOADING
        device.work(fleet.now)
        fleet.deliver(name, device.said[-1])
        device.online = False
        fleet.tick()
        assert (fleet.state, len(fleet.offered)) == (R.PAUSED, lost)
        fleet.move(C.RESUME)
        fleet.now += timedelta(seconds=30)
        fleet.tick()
        assert (fleet.state, len(fleet.offered)) == (R.RUNNING, lost + 1)
    run(fleet, 60)
    assert fleet.state is R.COMPLETED_WITH_EXCEPTIONS
    assert sum(row.state is S.COMMITTED for row in fleet.rows.values()) == 8


class RolloutMachine(RuleBasedStateMachine):
    """Devices, people, two schedulers and the clock, in any order."""

    @initialize(
        count=st.integers(1, 9),
        policy=st.sampled_from(OfflinePolicy),
        back=st.sampled_from(OnFailure),
        unavailable=st.sampled_from([None, 1, 3]),
        per_minute=st.sampled_from([None, 2.0, 600.0]),
    )
    def begin(
        self, count: int, policy: OfflinePolicy, back: OnFailure, unavailable: int | None, per_minute: float | None
    ) -> None:
        rate = Rate(devices_per_minute=per_minute, max_unavailable=unavailable)
        self.fleet = fleet_of(count, offline=Offline(policy=policy), on_failure=back, rate=rate)
        self.stale = (self.fleet.snapshot(), self.fleet.revision)

    def device(self, number: int) -> str:
        names = sorted(self.fleet.devices)
        return names[number % len(names)]

    @rule(seconds=st.sampled_from([1, 20, 300, 4000, 90_000]))
    def time_goes_on(self, seconds: int) -> None:
        self.fleet.now += timedelta(seconds=seconds)

    @rule(times=st.integers(1, 3))
    def the_timer_fires(self, times: int) -> None:
        for _ in range(times):
            self.fleet.tick()

    @rule()
    def another_scheduler_looks(self) -> None:
        self.stale = (self.fleet.snapshot(), self.fleet.revision)

    @rule()
    def and_acts_on_what_it_saw(self) -> None:
        snapshot, revision = self.stale
        if self.fleet.state is not R.ROLLING_BACK:
            self.fleet.apply(decide(snapshot, self.fleet.now), revision)

    @rule(number=st.integers(0, 8), steps=st.integers(1, 6))
    def a_device_works(self, number: int, steps: int) -> None:
        device = self.fleet.devices[self.device(number)]
        for _ in range(steps):
            device.work(self.fleet.now)
            if device.said and device.online:
                self.fleet.deliver(device.name, device.said[-1])

    @rule(number=st.integers(0, 8), which=st.integers(0, 50))
    def a_word_comes_late_or_twice(self, number: int, which: int) -> None:
        device = self.fleet.devices[self.device(number)]
        if device.said and device.online:
            self.fleet.deliver(device.name, device.said[which % len(device.said)])

    @rule(number=st.integers(0, 8), phase=st.sampled_from([None, Phase.DOWNLOADING, Phase.WARMING, Phase.PROBATION]))
    def a_device_will_fail(self, number: int, phase: Phase | None) -> None:
        self.fleet.devices[self.device(number)].fault = phase

    @rule(number=st.integers(0, 8), online=st.booleans())
    def a_device_goes_or_comes(self, number: int, online: bool) -> None:
        device = self.fleet.devices[self.device(number)]
        device.online, device.seen = online, self.fleet.now

    @precondition(lambda self: set(legal(self.fleet.state)) & {C.PAUSE, C.RESUME, C.ABORT, C.ROLLBACK})
    @rule(pick=st.sampled_from([C.PAUSE, C.RESUME, C.RESUME, C.PAUSE, C.ABORT, C.ROLLBACK]))
    def a_person_commands(self, pick: Command) -> None:
        if pick in legal(self.fleet.state):
            self.fleet.move(pick)

    @invariant()
    def success_means_it_served(self) -> None:
        for name, row in self.fleet.rows.items():
            if row.state in actions.SUCCESS:
                served = {r.serving for r in self.fleet.devices[name].said}
                assert row.target in served | {OLD}

    @invariant()
    def nothing_was_offered_but_while_it_ran(self) -> None:
        assert {state for _, state in self.fleet.offered} <= {R.RUNNING, R.ROLLING_BACK}

    @invariant()
    def the_counters_are_the_rows(self) -> None:
        counted = sum(sum(self.fleet.facts(wave).counts.values()) for wave in self.fleet.waves)
        assert counted == len(self.fleet.rows)

    @invariant()
    def who_is_rolled_back_serves_what_it_served_before(self) -> None:
        if self.fleet.state is R.ROLLED_BACK:
            assert {device.desired for device in self.fleet.devices.values()} == {OLD}

    @invariant()
    def there_is_a_way_out(self) -> None:
        assert TRANSITIONS[self.fleet.state]

    @invariant()
    def a_succeeded_rollout_serves_everywhere(self) -> None:
        if self.fleet.state is R.SUCCEEDED:
            fine = actions.SUCCESS | {S.ALREADY_CURRENT, S.REGRESSED}
            assert all(row.state in fine for row in self.fleet.rows.values())

    @invariant()
    def no_more_are_under_way_than_may_be(self) -> None:
        most = self.fleet.spec.rate.max_unavailable
        if most is None or self.fleet.state is not R.RUNNING or any(w.kind is Kind.ROLLBACK for w in self.fleet.waves):
            return
        # a device that was excluded or planned and speaks after all takes a slot that nobody gave it
        moving = [row for row in self.fleet.rows.values() if row.state is S.OFFERED]
        assert len(moving) <= most

    def teardown(self) -> None:
        """Whatever happened: when time goes on and nobody does anything, it ends."""
        if not hasattr(self, "fleet"):
            return
        for _ in range(45):
            self.fleet.now += timedelta(days=1)
            self.fleet.tick()
        assert self.fleet.state in AT_REST


RolloutMachine.TestCase.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
TestRolloutUnderEveryInterleaving = RolloutMachine.TestCase
