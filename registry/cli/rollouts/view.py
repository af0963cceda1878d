"""How rollouts, plans and their devices look to a person."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

from registry.cli.output import Output, age_text, short, time_text
from registry.contracts.rollout.states import ActionState, RolloutState
from registry.contracts.rollout.views import ActionView, HistoryEntry, PlanView, RolloutView, WaveView
from registry.contracts.texts import how_many, size_text

_A = ActionState
COLUMNS: dict[str, frozenset[ActionState]] = {
    "WAITING": frozenset({_A.PLANNED, _A.OFFERED, _A.DEFERRED, _A.EXCLUDED}),
    "UNDER WAY": frozenset({_A.DOWNLOADING, _A.VERIFIED, _A.STAGED, _A.WARMING, _A.SHADOWING, _A.SWITCHING,
                            _A.PROBATION, _A.ROLLING_BACK, _A.CONFIRMING}),
    "COMMITTED": frozenset({_A.COMMITTED, _A.COMMITTED_LATE}),
    "FAILED": frozenset({_A.FAILED, _A.ROLLED_BACK, _A.ROLLBACK_FAILED, _A.REJECTED, _A.REGRESSED}),
    "UNKNOWN": frozenset({_A.TIMED_OUT}),
    "APART": frozenset({_A.ALREADY_CURRENT, _A.INCOMPATIBLE, _A.SUPERSEDED, _A.CANCELLED, _A.DECOMMISSIONED}),
}  # fmt: skip
"""Every state of a device stands in exactly one column (a test says so)."""
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
FOR_A_PERSON = frozenset({RolloutState.DRAFT, RolloutState.AWAITING_APPROVAL, RolloutState.PAUSED})
"""It goes no further until somebody says something."""


def local_times(text: str) -> str:
    """The registry's sentence with its times, which are UTC, in this host's zone."""
    return _TIME.sub(lambda found: time_text(datetime.fromisoformat(found[0].replace("Z", "+00:00"))), text)


def counted(counts: Mapping[ActionState, int]) -> dict[str, int]:
    """Devices per column."""
    return {name: sum(counts.get(state, 0) for state in states) for name, states in COLUMNS.items()}


def label(view: RolloutView) -> str:
    """What to call it on the command line."""
    return view.spec.name or view.id


def status_line(view: RolloutView) -> str:
    """One line: what it is, where it is, how far."""
    found = counted(view.counts)
    figures = ", ".join(f"{count} {name.lower()}" for name, count in found.items() if count)
    return f"{label(view)}: {view.state} - {view.reason.text or view.reason.code} ({figures or 'no devices yet'})"


def tell_status(out: Output, view: RolloutView, now: datetime) -> None:
    """The whole picture of one rollout."""
    spec = view.spec
    out.say(f"{label(view)} ({view.id}): {spec.model}@{view.version} to {_fleet(view)}")
    out.say(f"{view.state} since {time_text(view.since)}: {view.reason.text or view.reason.code}")
    if view.eta is not None:
        out.say(f"expected to end at {time_text(view.eta)} if nothing fails")
    out.say("")
    out.table(
        ("WAVE", "STATE", ">DEVICES", *(f">{name}" for name in COLUMNS), "GATE"),
        (_wave_row(wave) for wave in view.waves if wave.kind == "wave" or wave.devices),
        empty="There is no plan yet.",
    )
    out.say("")
    if view.legal:
        out.say(f"You may: {', '.join(view.legal)}  (registry rollout COMMAND {label(view)})")
    else:
        out.say("It is over.")
    trouble = counted(view.counts)
    if trouble["FAILED"] or trouble["UNKNOWN"]:
        out.say(f"Which devices, and why: registry rollout devices {label(view)} --trouble")


def _fleet(view: RolloutView) -> str:
    fleet = view.spec.fleet
    parts = [fleet.selector] if fleet.selector else []
    parts += [f"group {name}" for name in fleet.groups]
    if fleet.devices:
        parts.append(f"{len(fleet.devices)} named devices" if len(fleet.devices) > 3 else ", ".join(fleet.devices))
    return " and ".join(parts)


def _wave_row(wave: WaveView) -> tuple[object, ...]:
    gate = ""
    if wave.verdict is not None:
        gate = f"{wave.verdict.outcome}: {wave.verdict.reason.text or wave.verdict.reason.code}"
    if wave.accepted_by:
        gate = f"{gate} (accepted by {wave.accepted_by})".strip()
    name = wave.label if wave.kind == "wave" else wave.kind
    return name, wave.state, wave.devices, *counted(wave.counts).values(), gate


def tell_list(out: Output, views: Sequence[RolloutView], now: datetime) -> None:
    """One line each; the documents, for programs."""
    columns = ("ROLLOUT", "VERSION", "STATE", ">COMMITTED", ">TROUBLE", "SINCE", "REASON")
    out.listing(views, columns, (_rollout_row(view, now) for view in views), empty="No rollouts.")


def _rollout_row(view: RolloutView, now: datetime) -> tuple[object, ...]:
    found, total = counted(view.counts), sum(view.counts.values())
    done = f"{found['COMMITTED']}/{total}" if total else "-"
    version, bad = f"{view.spec.model}@{view.version}", found["FAILED"] + found["UNKNOWN"]
    reason = view.reason.text or view.reason.code
    return label(view), version, view.state, done, bad, age_text(view.since, now), reason


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
    )  # fmt: skip
    if plan.nothing:
        out.say("\nWho gets nothing:")
        out.table(
            (">DEVICES", "CODE", "WHICH", "WHY"),
            ((gap.count, gap.code, _names(gap.devices, gap.count), gap.why) for gap in plan.nothing),
            empty="",
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


def tell_devices(out: Output, views: Sequence[ActionView], now: datetime) -> None:
    """One line per device; the documents, for programs."""
    out.listing(
        views,
        ("DEVICE", "WAVE", "STATE", "CODE", "SINCE", "WHY"),
        (
            (each.device, "-" if each.wave is None else each.wave + 1, each.state, each.code or "-",
             age_text(each.since, now), local_times(_SINCE.sub("", each.why)) or each.message)
            for each in views
        ),
        empty="No device is in that state.",
    )  # fmt: skip


def tell_device(out: Output, rollout: str, view: ActionView, now: datetime) -> None:
    """One device: why it is where it is, and how it got there."""
    out.say(f"{view.device} in {rollout}: {view.state}, {age_text(view.since, now)}")
    out.say(local_times(view.why) or view.message or "Nothing keeps it.")
    if view.previous:
        out.say(f"If it has to go back: to {view.previous}.")
    out.say("")
    out.table(
        ("AT", "STATE", "CODE", "MESSAGE"),
        ((time_text(step.at), step.state, step.code or "-", step.message) for step in view.history),
        empty="It has said nothing yet.",
    )
    if view.forgotten:
        out.say(f"Before those: {how_many(view.forgotten, 'step')} that are no longer kept.")


def tell_history(out: Output, entries: Sequence[HistoryEntry]) -> None:
    """Who did what, when, newest first; the documents, for programs."""
    out.listing(
        entries,
        ("AT", "FROM", "TO", "CAUSE", "BY", "REASON"),
        (
            (time_text(each.at), each.before or "-", each.after, each.cause, each.by or "the registry",
             "; ".join(filter(None, (each.reason.text or each.reason.code, each.note))))
            for each in entries
        ),
        empty="Nothing happened yet.",
    )  # fmt: skip


def _names(devices: tuple[str, ...], count: int) -> str:
    shown = ", ".join(devices[:3])
    return f"{shown}, ..." if count > 3 else shown


def _span(seconds: float) -> str:
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"
