"""What happened to a device, as one line of time; and why it serves what it serves."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

from registry.contracts.api.devices import DeploymentView, DeviceView
from registry.contracts.device.messages import Event
from registry.contracts.rollout.states import ActionState
from registry.contracts.rollout.views import ActionStep, ActionView
from registry.server.console.device_texts import why_text
from registry.server.console.timeline import MOST, by_day, timeline
from registry.services.rollouts.rollouts import DeviceInRollout

START = datetime(2030, 5, 1, 23, tzinfo=timezone.utc)
DEVICE = DeviceView(name="edge-1", created_at=START)


def at(hours: float) -> datetime:
    return START + timedelta(hours=hours)


def event(hours: float, phase: str, code: str = "") -> Event:
    return Event(event_id=f"e{hours}", seq=1, at=at(hours), kind="deployment", phase=phase, code=code, model="lenet")


def deployment(by: str) -> DeploymentView:
    return DeploymentView(
        device="edge-1", model="lenet", version="1.0.0", variant=None, generation=2, set_at=at(0.5), set_by=by
    )


def part(state: ActionState) -> DeviceInRollout:
    step = ActionStep(at=at(3), state=state)
    action = ActionView(device="edge-1", wave=0, state=state, since=at(3), history=(step,))
    return DeviceInRollout("lenet-2", "lenet", "1.0.0", "anna", "rollout/r-1", action)


def test_all_that_remembers_a_device_stands_on_one_line_newest_first() -> None:
    events = [event(2, "rolled_back", "probation_nan"), event(1, "committed")]
    moments = timeline(DEVICE, events, [deployment("anna")], [], [part(ActionState.FAILED)])
    assert [(moment.kind, moment.source) for moment in moments] == [
        ("bad", "rollout"), ("bad", "device"), ("ok", "device"), ("busy", "people"), ("idle", "people"),
    ]  # fmt: skip
    assert [(day.day, len(some)) for day, some in by_day(moments)] == [(2, 3), (1, 2)]


def test_a_phase_that_this_registry_does_not_know_is_shown_as_it_is() -> None:
    assert "calibrating" in timeline(DEVICE, [event(1, "calibrating")], [], [], [])[0].what


def test_the_line_is_bounded() -> None:
    assert len(timeline(DEVICE, [event(n, "downloading") for n in range(MOST * 2)], [], [], [])) == MOST


def test_the_reason_names_the_rollout_or_the_person() -> None:
    by_rollout = why_text(deployment("rollout/r-1"), part(ActionState.COMMITTED), None)
    assert by_rollout == (
        "It should serve lenet@1.0.0 because the rollout lenet-2 of anna gave it to this device, in its wave 1; the "
        "registry does not know the host's facts yet, so its agent chooses the variant."
    )
    assert "because ben deployed it here by hand" in why_text(deployment("ben"), None, None)
