"""Gates that measure: health and accuracy of the updated devices against those that wait; forced on by a person."""

from __future__ import annotations

from typing import Any

import pytest

from registry.contracts.catalogue.manifest import Parity
from registry.contracts.codes import ReasonCode
from registry.contracts.device.deployments import DeploymentPolicy, ShadowFigures, ShadowPolicy
from registry.contracts.device.messages import Health
from registry.contracts.rollout.spec import (
    DEFAULT_HEALTH,
    AccuracyRule,
    Gate,
    HealthMetric,
    HealthRule,
    ShadowRule,
    WaveSpec,
)
from registry.contracts.rollout.states import Command, WaveState
from registry.core.intake import checked
from registry.errors import InUseError
from registry.services.catalogue.versions import Versions
from tests.fakes.blobs import MemoryBlobs
from tests.integration.registry.rollouts.world import R, S, World

NAMES = tuple(f"d{number}" for number in range(4))
WAVES = (WaveSpec(count=2, soak_s=300), WaveSpec(percent=100, soak_s=10))


def serve(world: World, seq: int, **of_updated: Any) -> None:
    """Every device reports its health since the last time; the updated ones with these figures."""
    for name, device in world.fleet.items():
        assert device.serving is not None
        version = device.serving.version
        base: dict[str, Any] = {"version": version, "requests": 1000 * seq, "run_us": {"p99": 10_000.0}}
        model = base | (of_updated if version == "2.0.0" else {})
        report = {"device": name, "session_id": "s", "seq": seq, "at": world.now, "window_s": 60, "uptime_s": 1}
        health = Health.model_validate({**report, "models": {"lenet": model}})
        world.telemetry.take([checked(name, health, world.now)])


def until_soaking(world: World, gate: Gate, policy: DeploymentPolicy | None = None) -> str:
    world.add(*NAMES)
    serve(world, 1)
    rollout = world.start(waves=WAVES, gate=gate, policy=policy or DeploymentPolicy())
    for _ in range(3):
        world.answer()
        world.tick(1)
    assert world.view(rollout).waves[0].state is WaveState.SOAKING
    return rollout


@pytest.mark.parametrize(
    ("metric", "figures"),
    [
        (HealthMetric.ERROR_SHARE, {"errors": {"run_failed": 200}}),
        (HealthMetric.RUN_P99_RATIO, {"run_us": {"p99": 90_000.0}}),
        (HealthMetric.NAN_SHARE, {"not_finite": 300}),
    ],
)
def test_an_updated_cohort_that_is_worse_than_the_waiting_one_stops_the_rollout(
    world: World, metric: HealthMetric, figures: dict[str, Any]
) -> None:
    rule = next(rule for rule in DEFAULT_HEALTH if rule.metric is metric)
    rollout = until_soaking(world, Gate(min_attempted=1, health=(rule,)))
    serve(world, 2, **figures)
    world.tick(1)
    view = world.view(rollout)
    assert (view.state, view.reason.code) == (R.PAUSED, ReasonCode.HEALTH)
    assert metric in view.reason.text
    assert view.counts == {S.COMMITTED: 2, S.PLANNED: 2}


def test_errors_of_clients_do_not_speak_against_a_version(world: World) -> None:
    rule = HealthRule(metric=HealthMetric.ERROR_SHARE, success=0.02, failure=0.05)
    rollout = until_soaking(world, Gate(min_attempted=1, health=(rule,)))
    serve(world, 2, errors={"bad_payload": 900})
    world.tick(1)
    view = world.view(rollout)
    assert view.state is R.RUNNING
    verdict = view.waves[0].verdict
    assert verdict is not None
    assert verdict.figures["error_share"] == 0.0


def test_accuracy_that_falls_stops_it_and_a_person_may_let_it_go_on(world: World) -> None:
    world.add(*NAMES)
    for device in world.fleet.values():
        device.parity = Parity(cases=10, max_abs=0, max_rel=0, top1_agreement=1.0, passed=True)
    rollout = world.start(waves=WAVES, gate=Gate(min_attempted=1, health=(), accuracy=AccuracyRule(max_drop=0.05)))
    for device in world.fleet.values():
        if world.states(rollout)[device.name] is S.OFFERED:
            device.parity = Parity(cases=10, max_abs=0, max_rel=0, top1_agreement=0.5, passed=True)
    world.answer()
    world.tick(1)
    assert world.view(rollout).reason.code is ReasonCode.ACCURACY
    world.command(rollout, Command.RESUME, by="bob", force=True)
    view = world.view(rollout)
    assert (view.waves[0].state, view.waves[0].accepted_by) == (WaveState.PASSED, "bob")
    assert view.waves[1].state is not WaveState.PENDING


@pytest.mark.parametrize(
    ("figures", "passes"),
    [
        (ShadowFigures(compared=100, agreement=1.0), True),
        (ShadowFigures(compared=100, agreement=0.5), False),
        (ShadowFigures(errors=100), False),
    ],
)
def test_what_the_shadows_of_a_wave_found_is_judged_together(
    world: World, figures: ShadowFigures, passes: bool
) -> None:
    gate = Gate(min_attempted=1, health=(), shadow=ShadowRule(min_agreement=0.9))
    rollout = until_soaking(world, gate, DeploymentPolicy(shadow=ShadowPolicy()))
    for device in world.fleet.values():
        if device.deployment is not None and device.deployment.rollout == rollout:
            device.deployment = device.deployment.model_copy(update={"shadow": figures})
            world.say(device.name)
    world.tick(1)
    view = world.view(rollout)
    assert view.state is (R.RUNNING if passes else R.PAUSED)
    assert (view.reason.code is ReasonCode.SHADOW) is not passes


def test_a_version_that_a_rollout_brings_or_may_return_to_is_not_deleted(world: World) -> None:
    world.add(*NAMES)
    rollout = world.start()
    world.answer()
    versions = Versions(world.database, MemoryBlobs())
    for version, word in (("2.0.0", "brings"), ("1.0.0", "may return")):
        with pytest.raises(InUseError) as refused:
            versions.delete("lenet", version, world.now)
        assert any(word in line for line in refused.value.errors)
    world.run(rollout, R.SUCCEEDED)
    with pytest.raises(InUseError):  # a rollback is still legal
        versions.delete("lenet", "1.0.0", world.now)
    for name in NAMES:
        world.deploy(name, "3.0.0")
    world.answer()
    versions.delete("lenet", "1.0.0", world.now)
