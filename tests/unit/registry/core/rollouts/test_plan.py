"""Waves, rates and the plan: who gets what, when, how fast."""

from __future__ import annotations

import re
from collections import Counter
from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.contracts.catalogue.manifest import Format, Manifest, Target, Variant
from registry.contracts.codes import ReasonCode
from registry.contracts.device.deployments import Phase
from registry.contracts.fit.platforms import BackendFacts, Platform
from registry.contracts.fit.resolution import Resolution, resolve
from registry.contracts.rollout.spec import Fleet, Rate, RolloutSpec, WaveSpec
from registry.contracts.rollout.states import ActionState, RolloutState
from registry.contracts.rollout.views import RolloutReason
from registry.core.rollouts.actions import Action
from registry.core.rollouts.plan import Known, Other, RolloutPlan, plan
from registry.core.rollouts.rates import BURST_S, Bucket, Candidate, release
from registry.core.rollouts.waves import Member, assign
from registry.core.rollouts.why import DEVICE, Standing, why_device
from tests.unit.registry.contracts.test_resolution import manifest, variant

T0 = datetime(2026, 1, 1, tzinfo=timezone.utc)
WAVES = (WaveSpec(percent=1), WaveSpec(percent=10), WaveSpec(percent=100))


def members(count: int) -> list[Member]:
    return [Member(f"d{i}", f"kind-{i % 3}", labels={"ring": "canary"} if i % 7 == 0 else {}) for i in range(count)]


def test_percentages_are_cumulative_and_everybody_is_in_one_wave() -> None:
    assert Counter(assign("r", WAVES, members(1000)).values()) == {0: 10, 1: 90, 2: 900}


def test_counts_and_labels_make_waves_too() -> None:
    fleet = members(100)
    placed = assign("r", (WaveSpec(selector="ring=canary"), WaveSpec(count=40), WaveSpec(percent=100)), fleet)
    labelled = {m.device for m in fleet if m.labels}
    assert labelled <= {device for device, wave in placed.items() if wave == 0}
    assert Counter(placed.values())[1] + Counter(placed.values())[0] == 40


def test_the_order_comes_from_the_rollout_and_not_from_the_input() -> None:
    fleet = members(200)
    assert assign("r", WAVES, fleet) == assign("r", WAVES, reversed(fleet))
    assert assign("r", WAVES, fleet) != assign("other", WAVES, fleet)


@given(st.integers(1, 200), st.integers(1, 9))
def test_the_canary_has_every_hardware_class_and_nobody_is_left_out(count: int, kinds: int) -> None:
    fleet = [Member(f"d{i}", f"kind-{i % kinds}", online=i % 2 == 0) for i in range(count)]
    placed = assign("r", WAVES, fleet)
    assert set(placed) == {m.device for m in fleet}
    assert {m.hardware for m in fleet if placed[m.device] == 0} == {m.hardware for m in fleet}


def test_canaries_are_devices_that_are_online_where_there_are_any() -> None:
    fleet = [Member(f"d{i}", "kind", online=i % 10 == 0) for i in range(200)]
    placed = assign("r", WAVES, fleet)
    assert all(m.online for m in fleet if placed[m.device] == 0)


@given(st.lists(st.floats(0, 30), min_size=1, max_size=60), st.floats(1, 600))
def test_no_order_of_looks_offers_more_than_the_rate(pauses: list[float], per_minute: float) -> None:
    rate, bucket, now, offered = Rate(devices_per_minute=per_minute), Bucket(), T0, 0
    for pause in pauses:
        now += timedelta(seconds=pause)
        chosen, bucket = release(bucket, rate, [Candidate(str(i)) for i in range(1000)], None, now)
        offered += len(chosen)
    burst = max(1.0, per_minute / 60 * BURST_S)
    assert offered <= burst + per_minute / 60 * sum(pauses[1:]) + 1e-6


def test_bytes_may_be_overdrawn_once_and_are_waited_for() -> None:
    rate = Rate(devices_per_minute=None, bytes_per_second=10)
    heavy = [Candidate(str(i), 1000) for i in range(5)]
    first, bucket = release(Bucket(), rate, heavy, None, T0)
    assert len(first) == 1
    assert release(bucket, rate, heavy[1:], None, T0 + timedelta(seconds=89))[0] == ()
    assert len(release(bucket, rate, heavy[1:], None, T0 + timedelta(seconds=91))[0]) == 1


def test_a_scheduler_whose_clock_is_behind_gets_no_tokens() -> None:
    rate = Rate(devices_per_minute=6)
    _, bucket = release(Bucket(), rate, [Candidate("a")], None, T0)
    assert release(bucket, rate, [Candidate("b")], None, T0 - timedelta(seconds=30))[0] == ()


def test_a_clock_that_was_set_back_far_does_not_stop_the_offers_until_it_has_caught_up() -> None:
    rate = Rate(devices_per_minute=6)
    _, bucket = release(Bucket(), rate, [Candidate("a")], None, T0)
    earlier = T0 - timedelta(days=30)
    chosen, bucket = release(bucket, rate, [Candidate("b"), Candidate("c")], None, earlier)
    assert chosen == ("b",)
    assert release(bucket, rate, [Candidate("c")], None, earlier)[0] == ()
    assert release(bucket, rate, [Candidate("c")], None, earlier + timedelta(seconds=10))[0] == ("c",)


@pytest.mark.parametrize(("room", "count"), [(None, 3), (2, 2), (0, 0), (-1, 0)])
def test_no_more_are_offered_than_there_is_room_for(room: int | None, count: int) -> None:
    chosen, _ = release(Bucket(), Rate(), [Candidate(c) for c in "abc"], room, T0)
    assert len(chosen) == count


def host(arch: str, cpus: int = 1) -> Platform:
    onnx = BackendFacts(
        name="onnxruntime",
        usable=True,
        formats=(Format.ONNX,),
        targets=(Target.CPU,),
        max_onnx_ir=10,
        max_onnx_opset=20,
    )
    return Platform(os="Linux", arch=arch, cpu_count=cpus, backends=(onnx,))


INTEL, ARM, SPARC = host("x86_64"), host("aarch64"), host("sparc")
PLATFORMS = {p.facts_digest(): p for p in (INTEL, ARM, SPARC)}
SPEC = RolloutSpec(model="m", version="1", fleet=Fleet(selector="*"))


def a_version() -> Manifest:
    return manifest(variant("intel", arch=("x86_64",)), variant("arm", arch=("aarch64",)))


def planned(fleet: list[Known], others: tuple[Other, ...] = (), spec: RolloutSpec = SPEC) -> RolloutPlan:
    return plan("r", spec, a_version(), fleet, PLATFORMS, resolver=resolve, others=others)


FLEET = [
    *[Known(f"i{i}", INTEL.facts_digest()) for i in range(6)],
    *[Known(f"a{i}", ARM.facts_digest(), online=False) for i in range(3)],
    Known("s0", SPARC.facts_digest()),
    Known("new", None),
    Known("done", INTEL.facts_digest(), current=True),
]


def test_a_plan_says_who_gets_what_and_who_gets_nothing_and_why() -> None:
    made = planned(FLEET).view
    assert {(c.variant, c.count) for c in made.classes} == {("intel", 6), ("arm", 3)}
    assert {gap.code: gap.devices for gap in made.nothing} == {
        "facts_unknown": ("new",),
        "arch_mismatch": ("s0",),
    }
    assert (made.devices, made.already_current, made.offline) == (9, 1, 3)
    assert made.total_bytes == sum(c.bytes * c.count for c in made.classes) > 0
    assert sum(wave.devices for wave in made.waves) == 9


def test_the_canary_of_a_plan_has_each_kind_of_host() -> None:
    canary = {each.variant for each in planned(FLEET).placed if each.wave == 0}
    assert canary == {"intel", "arm"}


def test_a_plan_names_the_rollouts_that_it_would_take_devices_from() -> None:
    other = Other("r0", "weekly", "0.9", RolloutState.RUNNING, ("i1", "s0", "elsewhere"))
    (collision,) = planned(FLEET, (other,)).view.collisions
    assert (collision.rollout, collision.devices) == ("r0", ("i1",))


def test_the_digest_is_of_every_device_and_of_the_spec() -> None:
    digest = planned(FLEET).view.digest
    assert digest == planned(FLEET[::-1]).view.digest
    assert digest != planned(FLEET[1:]).view.digest
    assert digest != planned(FLEET, spec=SPEC.model_copy(update={"newcomers": False})).view.digest


def test_equal_facts_are_resolved_once() -> None:
    asked: list[Platform] = []

    def counting(version: Manifest, platform: Platform) -> Resolution:
        asked.append(platform)
        return resolve(version, platform)

    fleet = [Known(f"d{i}", (INTEL if i % 2 else ARM).facts_digest()) for i in range(500)]
    made = plan("r", SPEC, a_version(), fleet, PLATFORMS, resolver=counting)
    assert (len(asked), made.view.devices) == (2, 500)


def test_every_state_of_a_device_says_why_and_since_when() -> None:
    assert set(DEVICE) == set(ActionState) - {ActionState.PLANNED}
    reason = RolloutReason(code=ReasonCode.FAILED_BUDGET, text="6 of 9 failed")
    for state in ActionState:
        action = Action("r", 0, None, state, T0, failed_in=Phase.WARMING, code="golden_mismatch")
        for rollout in RolloutState:
            assert "since 2026-01-01" in why_device(action, rollout, reason, wave_started=False)


def test_a_device_that_waits_for_a_paused_rollout_names_the_reason_of_the_pause() -> None:
    reason = RolloutReason(code=ReasonCode.FAILED_BUDGET, text="6 of 9 failed")
    text = why_device(Action("r", 0, None, ActionState.PLANNED, T0), RolloutState.PAUSED, reason, wave_started=True)
    assert re.search(r"paused.*6 of 9 failed.*decide", text)


def test_a_device_that_follows_the_state_of_before_a_backup_was_put_back_is_said_to() -> None:
    action = Action("r", 0, 0, ActionState.OFFERED, T0)
    running = RolloutReason(code=ReasonCode.NEW)
    text = why_device(action, RolloutState.RUNNING, running, wave_started=True, standing=Standing(restored=T0))
    assert "put back from a backup at 2026-01-01" in text
    assert "backup" not in why_device(action, RolloutState.RUNNING, running, wave_started=True, standing=Standing())


def test_a_variant_is_sized_by_its_files() -> None:
    one: Variant = a_version().variants[0]
    assert {each.bytes for each in planned(FLEET).placed if each.variant == one.name} == {one.size}
