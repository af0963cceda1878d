"""How rollouts, plans and their devices look to a person."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime

from registry.cli.listing import Listing
from registry.cli.output import Output, age_text, short, time_text
from registry.contracts.rollout.states import ActionState, RolloutState
from registry.contracts.rollout.views import ActionView, HistoryEntry, PlanView, RolloutView, WaveView
from registry.contracts.texts import how_many, size_text
from registry.core.rollouts.columns import BACK, COLUMNS, counted

OVER = frozenset(
    {
        RolloutState.DENIED,
        RolloutState.ABORTED,
        RolloutState.ROLLED_BACK,
        RolloutState.ROLLBACK_INCOMPLETE,
        RolloutState.SUCCEEDED,
        RolloutState.COMPLETED_WITH_EXCEPTIONS,
    }
)
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\+00:00|Z)")
_SINCE = re.compile(rf"; since {_TIME.pattern}$")
ROLLOUT_ORDERS: dict[str, Callable[[RolloutView], object]] = {
    "since": lambda view: view.since,
    "name": lambda view: view.spec.name or view.id,
    "state": lambda view: view.state.value,
    "trouble": lambda view: view.troubled,
}
ACTION_ORDERS: dict[str, Callable[[ActionView], object]] = {
    "device": lambda view: view.device,
    "since": lambda view: view.since,
    "state": lambda view: view.state.value,
    "code": lambda view: view.code or None,
}
_STAYED = frozenset({ActionState.ROLLED_BACK, ActionState.FAILED, ActionState.CANCELLED, ActionState.SUPERSEDED})
"""It does not serve the version, so there is nothing to go back from."""
FOR_A_PERSON = frozenset({RolloutState.DRAFT, RolloutState.AWAITING_APPROVAL, RolloutState.PAUSED})
"""It goes no further until somebody says something."""


def local_times(text: str) -> str:
    """The registry's sentence with its times, which are UTC, in this host's zone."""
    return _TIME.sub(lambda found: time_text(datetime.fromisoformat(found[0].replace("Z", "+00:00"))), text)


def label(view: RolloutView) -> str:
    """What to call it on the command line."""
    return view.spec.name or view.id


def status_line(view: RolloutView) -> str:
    """One line: what it is, where it is, how far."""
    found = counted(view.counts, view.back)
    figures = ", ".join(f"{count} {name.lower()}" for name, count in found.items() if count)
    return f"{label(view)}: {view.state} - {view.reason.text or view.reason.code} ({figures or 'no devices yet'})"


def tell_status(out: Output, view: RolloutView, now: datetime) -> None:
    """The whole picture of one rollout."""
    spec = view.spec
    named = f"{spec.name} ({view.id})" if spec.name else view.id
    out.say(f"{named}: {spec.model}@{view.version} to {_fleet(view)}")
    out.say(f"{view.state} since {time_text(view.since)}: {view.reason.text or view.reason.code}")
    if view.went_back is not None:
        back = view.went_back
        who = f"by {back.by}" if back.by else "by its gate"
        out.say(f"went back {time_text(back.at)}, {who}: {back.text or back.code} [{back.code}]")
    if view.eta is not None:
        out.say(f"expected to end at {time_text(view.eta)} if nothing fails")
    out.say("")
    shown = [name for name in counted({}) if name != BACK or view.back]
    out.table(
        ("WAVE", "STATE", ">DEVICES", *(f">{name}" for name in shown), "GATE"),
        (_wave_row(wave, shown) for wave in view.waves if wave.kind == "wave" or wave.devices),
        empty="There is no plan yet.",
        optional=[name for name in reversed(shown) if not any(_wave_counts(wave)[name] for wave in view.waves)],
    )
    if any(wave.left for wave in view.waves):
        out.say("The waves are as they were when it went back; the row rollback is as it is now.")
    _tell_trouble(out, view)
    out.say("")
    if view.legal:
        out.say(f"You may: {', '.join(view.legal)}  (registry rollout COMMAND {label(view)})")
    else:
        out.say("It is over.")
    if view.troubled:
        out.say(f"Which devices, and why: registry rollout devices {label(view)} --trouble")


def _tell_trouble(out: Output, view: RolloutView) -> None:
    if not view.trouble:
        return
    out.say(f"\nWhat failed or fell silent: {how_many(view.troubled, 'device')}")
    out.table(
        (">DEVICES", "CODE", "STATE", "FIRST", "MESSAGE OF THE FIRST"),
        ((each.devices, each.code or "-", each.state, each.first, each.message) for each in view.trouble),
        empty="",
        optional=("FIRST", "STATE"),
    )


def _fleet(view: RolloutView) -> str:
    fleet = view.spec.fleet
    parts = [fleet.selector] if fleet.selector else []
    parts += [f"group {name}" for name in fleet.groups]
    if fleet.devices:
        parts.append(f"{len(fleet.devices)} named devices" if len(fleet.devices) > 3 else ", ".join(fleet.devices))
    return " and ".join(parts)


def _wave_row(wave: WaveView, shown: Sequence[str]) -> tuple[object, ...]:
    gate = ""
    if wave.verdict is not None:
        gate = f"{wave.verdict.outcome}: {wave.verdict.reason.text or wave.verdict.reason.code}"
    if wave.accepted_by:
        gate = f"{gate} (accepted by {wave.accepted_by})".strip()
    name, found = wave.label if wave.kind == "wave" else wave.kind, _wave_counts(wave)
    return name, wave.state, sum(found.values()), *(found[column] for column in shown), gate


def _wave_counts(wave: WaveView) -> Mapping[str, int]:
    """By column."""
    counts = {state: wave.counts.get(state, 0) + wave.left.get(state, 0) for state in {*wave.counts, *wave.left}}
    return counted(counts, counts if wave.kind == "rollback" else None)


def _rollout_row(view: RolloutView, now: datetime) -> tuple[object, ...]:
    found, total = counted(view.counts, view.back), sum(view.counts.values())
    done = f"{found['COMMITTED']}/{total}" if total else "-"
    version, reason = f"{view.spec.model}@{view.version}", view.reason.text or view.reason.code
    if view.went_back is not None:
        reason = f"went back: {view.went_back.text or view.went_back.code}"
    since = age_text(view.since, now)
    return label(view), version, view.state, done, found[BACK], view.troubled, since, reason


def rollout_list(now: datetime) -> Listing[RolloutView]:
    """How a list of rollouts looks."""
    return Listing(
        of=RolloutView,
        noun="rollout",
        columns=("ROLLOUT", "VERSION", "STATE", ">COMMITTED", ">BACK", ">TROUBLE", "SINCE", "REASON"),
        row=lambda view: _rollout_row(view, now),
        empty="No rollouts.",
        optional=("SINCE", "BACK", "REASON"),
        orders=ROLLOUT_ORDERS,
        newest_first=True,
    )


def tell_plan(out: Output, plan: PlanView) -> None:
    """Who gets what, who cannot and why, what it costs and how long it takes."""
    out.say(f"Plan {short(plan.digest)}: {plan.model}@{plan.version} to {how_many(plan.devices, 'device')}\n")
    out.table(
        (">DEVICES", "HOSTS", "VARIANT", ">SIZE", "NOTE"),
        (
            (each.count, each.platform or short(each.facts), each.variant, size_text(each.bytes),
             "an accelerator lies idle" if each.degraded else "")
            for each in plan.classes
        ),
        empty="No device would get anything.",
        optional=("NOTE", "SIZE"),
    )  # fmt: skip
    if plan.nothing:
        out.say("\nWho gets nothing:")
        out.table(
            (">DEVICES", "CODE", "WHICH", "WHY"),
            ((gap.count, gap.code, _names(gap.devices, gap.count), gap.why) for gap in plan.nothing),
            empty="",
            optional=("WHICH",),
        )
    out.say("")
    out.table(
        ("WAVE", ">DEVICES", ">DOWNLOAD", ">TIME"),
        ((wave.label, wave.devices, size_text(wave.bytes), _span(wave.seconds)) for wave in plan.waves),
        empty="There are no waves.",
    )
    out.say(f"\nIn all {size_text(plan.total_bytes)} to download, about {_span(plan.expected_s)} when nothing fails.")
    for sentence in _remarks(plan):
        out.say(sentence)


def _remarks(plan: PlanView) -> Iterable[str]:
    if plan.already_current:
        yield f"Left alone, because they serve it already: {how_many(plan.already_current, 'device')}."
    yield from plan.retries
    if plan.offline:
        yield f"{plan.offline} of the devices are offline now."
    for each in plan.collisions:
        which = f"{how_many(each.count, 'device')} ({_names(each.devices, each.count)})"
        yield (
            f"Collision: {which} of rollout {each.name or each.rollout} of {each.version}, "
            f"which is {each.state}; this one would take them over."
        )
    for tie in plan.ties:
        yield f"Tie: {tie}"


def state_text(view: ActionView) -> str:
    """Its state; `back` of a device that returned to its last good version."""
    return BACK.lower() if view.goes_back and view.state in COLUMNS["COMMITTED"] else str(view.state)


def wave_names(rollout: RolloutView) -> dict[int, str]:
    """Index to what a wave is called: its number and the label of the spec, or `tail`, `rollback`."""
    return {
        wave.index: f"{wave.index + 1} ({wave.label})" if wave.kind == "wave" else wave.kind for wave in rollout.waves
    }


def device_list(rollout: RolloutView, now: datetime) -> Listing[ActionView]:
    """How the devices of a rollout look."""
    names = wave_names(rollout)
    return Listing(
        of=ActionView,
        noun="device",
        columns=("DEVICE", "WAVE", "STATE", "CODE", "SINCE", "WHY"),
        row=lambda each: _device_row(each, names, now),
        empty="No device is in that state.",
        optional=("SINCE", "WAVE"),
        orders=ACTION_ORDERS,
    )


def _device_row(view: ActionView, names: Mapping[int, str], now: datetime) -> tuple[object, ...]:
    why = local_times(_SINCE.sub("", view.why)) or view.message
    wave, code = view.wave, view.code
    if view.left is not None:  # of a device that went back: where and why it was, before
        wave, code = view.left.wave, view.left.code or code
        why = f"{why}; {left_text(view)}"
    name = "-" if wave is None else names.get(wave, str(wave + 1))
    return view.device, name, state_text(view), code or "-", age_text(view.since, now), why


def left_text(view: ActionView) -> str:
    """What it was when it was told to go back; empty: it was not told so."""
    left = view.left
    if left is None:
        return ""
    said = f" ({left.code}{': ' + left.message if left.message else ''})" if left.code else ""
    return f"it was {left.state}{said} when the rollout went back"


def tell_device(out: Output, rollout: str, view: ActionView, now: datetime) -> None:
    """One device: why it is where it is, and how it got there."""
    out.say(f"{view.device} in {rollout}: {state_text(view)}, {age_text(view.since, now)}")
    out.say(local_times(view.why) or view.message or "Nothing keeps it.")
    if view.left is not None:
        out.say(left_text(view)[:1].upper() + left_text(view)[1:] + ".")
    elif view.previous and view.state not in _STAYED:
        out.say(f"If it has to go back: to {view.previous}.")
    out.say("")
    out.table(
        ("AT", "STATE", "CODE", "MESSAGE"),
        ((time_text(step.at), step.state, step.code or "-", step.message) for step in view.history),
        empty="It has said nothing yet.",
    )
    if view.forgotten:
        out.say(f"Before those: {how_many(view.forgotten, 'step')} that are no longer kept.")


HISTORY = Listing(
    of=HistoryEntry,
    noun="transition",
    columns=("AT", "FROM", "TO", "CAUSE", "BY", "REASON"),
    row=lambda each: (
        time_text(each.at), each.before or "-", each.after, each.cause, each.by or "the registry",
        "; ".join(filter(None, (each.reason.text or each.reason.code, each.note))),
    ),
    empty="Nothing happened yet.",
    optional=("FROM", "BY", "CAUSE"),
    newest_first=True,
)  # fmt: skip
"""Who did what, when."""


def _names(devices: tuple[str, ...], count: int) -> str:
    shown = ", ".join(devices[:3])
    return f"{shown}, ..." if count > 3 else shown


def _span(seconds: float) -> str:
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"
