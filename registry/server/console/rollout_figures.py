"""A rollout as its pages show it: which kind of state, how far each wave is, the gate's figures beside their limits."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from registry.contracts.api.over_time import HealthSeries, HealthSpan
from registry.contracts.rollout.spec import Gate, HealthMetric, HealthRule, RolloutSpec
from registry.contracts.rollout.states import ActionState, RolloutState, WaveState
from registry.contracts.rollout.views import ActionView, RolloutView, WaveView
from registry.contracts.texts import how_many
from registry.core.rollouts.columns import BACK, COLUMNS, counted
from registry.server.console.filters import time_text

_R, _W = RolloutState, WaveState
KINDS: dict[RolloutState, str] = {
    _R.DRAFT: "idle", _R.PLANNING: "busy", _R.AWAITING_APPROVAL: "warn", _R.DENIED: "idle", _R.SCHEDULED: "busy",
    _R.RUNNING: "busy", _R.PAUSED: "warn", _R.ABORTING: "warn", _R.ABORTED: "idle", _R.ROLLING_BACK: "warn",
    _R.ROLLED_BACK: "bad", _R.ROLLBACK_INCOMPLETE: "bad", _R.EXPIRING: "warn", _R.SUCCEEDED: "ok",
    _R.COMPLETED_WITH_EXCEPTIONS: "warn",
}  # fmt: skip
WAVE_KINDS: dict[WaveState, str] = {
    _W.PENDING: "idle", _W.RELEASING: "busy", _W.SOAKING: "busy", _W.PASSED: "ok", _W.FAILED: "bad",
    _W.INCONCLUSIVE: "warn",
}  # fmt: skip
COLUMN_KINDS = {
    "COMMITTED": "ok", BACK: "back", "UNDER WAY": "busy", "FAILED": "bad", "UNKNOWN": "warn", "WAITING": "idle",
    "APART": "apart",
}  # fmt: skip
"""In the order in which a bar shows them."""
COLUMN_NAMES = {
    "COMMITTED": "committed", BACK: "back", "UNDER WAY": "under way", "FAILED": "failed", "UNKNOWN": "silent",
    "WAITING": "waiting", "APART": "not concerned",
}  # fmt: skip


_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00")
_SINCE = re.compile(rf"; since {_TIME.pattern}$")


def state_text(state: str) -> str:
    """`rolling back` for `rolling_back`."""
    return state.replace("_", " ")


def device_kind(view: ActionView) -> str:
    """Of a device's state."""
    if view.goes_back and view.state in COLUMNS["COMMITTED"]:
        return "ok"
    return step_kind(view.state)


def why_text(why: str) -> str:
    """The sentence of a device, without since when, which stands beside it; its times as pages write them."""
    return _TIME.sub(lambda found: time_text(datetime.fromisoformat(found[0])), _SINCE.sub("", why))


def device_text(view: ActionView) -> str:
    """Its state; `back` of a device that returned to its last good version."""
    back = view.goes_back and view.state in COLUMNS["COMMITTED"]
    return "back" if back else state_text(view.state)


def step_kind(state: ActionState) -> str:
    """Of one step of a device."""
    column = next(name for name, states in COLUMNS.items() if state in states)
    return {"apart": "idle"}.get(COLUMN_KINDS[column], COLUMN_KINDS[column])


def column_count(view: RolloutView, column: str) -> int:
    """Devices of a rollout in one of COLUMNS."""
    return counted(view.counts, view.back)[column]


@dataclass(frozen=True)
class BarPart:
    """One stretch of a bar."""

    kind: str
    text: str
    devices: int
    at: float
    """Where it begins, in percent."""
    width: float
    """In percent."""


@dataclass(frozen=True)
class Bar:
    """Devices by what they are, as a bar and as words."""

    parts: tuple[BarPart, ...]
    devices: int
    """In the bar."""
    done: int
    """Committed, or back."""

    @property
    def words(self) -> str:
        """`3 committed, 1 failed`."""
        return ", ".join(f"{part.devices:,} {part.text}" for part in self.parts) or "no devices"


def bar(counts: Mapping[ActionState, int], back: Mapping[ActionState, int] | None = None) -> Bar:
    """Of devices by state; `back`: those of them that were told to go back."""
    found = counted(counts, back)
    total = sum(found.values())
    parts, at = [], 0.0
    for column, kind in COLUMN_KINDS.items():
        devices = found[column]
        if devices:
            width = 100 * devices / total
            parts.append(BarPart(kind, COLUMN_NAMES[column], devices, round(at, 3), round(width, 3)))
            at += width
    return Bar(tuple(parts), total, found["COMMITTED"] + found[BACK])


def wave_bar(wave: WaveView) -> Bar:
    """Of a wave, with those that were told to go back as they were when they were told."""
    counts = {state: wave.counts.get(state, 0) + wave.left.get(state, 0) for state in {*wave.counts, *wave.left}}
    return bar(counts, counts if wave.kind == "rollback" else None)


def wave_name(wave: WaveView) -> str:
    """`1: 10%`, `tail`, `way back`."""
    names = {"tail": "Tail: late and new devices", "rollback": "Way back"}
    return names.get(wave.kind) or f"{wave.index + 1}: {wave.label}"


def current_wave(view: RolloutView) -> WaveView | None:
    """The one that the rollout is at: the last that began. None: none did."""
    begun = [wave for wave in view.waves if wave.state is not WaveState.PENDING]
    return begun[-1] if begun else None


def progress_text(view: RolloutView) -> str:
    """Where it is among its waves."""
    wave = current_wave(view)
    if wave is None or wave.kind != "wave":
        return "" if wave is None else {"tail": "tail", "rollback": "way back"}.get(wave.kind, wave.kind)
    planned = sum(each.kind == "wave" for each in view.waves)
    return f"{wave.index + 1} of {planned} ({wave.label})"


def fleet_text(spec: RolloutSpec) -> str:
    """To whom it goes."""
    fleet = spec.fleet
    parts = ["all devices" if fleet.selector.strip() == "*" else fleet.selector] if fleet.selector else []
    parts += [f"group {name}" for name in fleet.groups]
    if fleet.devices:
        few = len(fleet.devices) <= 3
        parts.append(", ".join(fleet.devices) if few else how_many(len(fleet.devices), "named device"))
    return " and ".join(parts)


@dataclass(frozen=True)
class Figure:
    """One figure of a gate, between nothing and the end of its scale."""

    name: str
    kind: str
    """ok, warn, bad."""
    value: str
    limit: str
    """In words: `at most 5 %`."""
    at: float
    """The value, in percent of the scale."""
    marks: tuple[float, ...]
    """The limits, likewise."""


_SHARES = (
    ("failed_pct", "Failed", "max_failed_pct", True),
    ("unknown_pct", "Silent", "max_unknown_pct", True),
    ("committed_pct", "Committed", "min_committed_pct", False),
    ("coverage_pct", "Heard from", "min_coverage_pct", False),
)
_HEALTH = {
    HealthMetric.ERROR_SHARE: "More errors",
    HealthMetric.RUN_P99_RATIO: "Time of a run (p99)",
    HealthMetric.NAN_SHARE: "More NaN",
}


def figures(wave: WaveView, gate: Gate) -> list[Figure]:
    """Of the gate's last verdict, those that have a limit."""
    if wave.verdict is None:
        return []
    said = wave.verdict.figures
    found = []
    for key, name, limit_name, most in _SHARES:
        limit = getattr(gate, limit_name)
        if key in said and limit is not None:
            found.append(_share(name, said[key], limit, most=most))
    found += [_health(rule, said[rule.metric.value]) for rule in gate.health if rule.metric.value in said]
    if gate.accuracy is not None and "accuracy_drop" in said:
        found.append(_share("Accuracy lost", 100 * said["accuracy_drop"], 100 * gate.accuracy.max_drop, most=True))
    if gate.shadow is not None and "shadow_agreement" in said:
        least = 100 * gate.shadow.min_agreement
        found.append(_share("Shadow agrees", 100 * said["shadow_agreement"], least, most=False))
    return found


def _share(name: str, value: float, limit: float, *, most: bool) -> Figure:
    scale = max(2 * limit, value, 10.0) if most else 100.0
    good = value <= limit if most else value >= limit
    bad = "bad" if most else "busy"
    words = f"{'at most' if most else 'at least'} {limit:g} %"
    return Figure(name, "ok" if good else bad, f"{value:.3g} %", words, _of(value, scale), (_of(limit, scale),))


def _health(rule: HealthRule, value: float) -> Figure:
    success, failure = rule.success, rule.failure
    kind = "ok" if value <= success else "warn" if value <= failure else "bad"
    if rule.metric is HealthMetric.RUN_P99_RATIO:
        scale, shown = max(failure * 1.3, value), f"{value:.3g} ×"
        limit = f"up to {success:g} × passes, above {failure:g} × fails"
    else:
        scale, shown = max(failure * 1.5, value, 0.01), f"{100 * value:.3g} %"
        limit = f"up to {100 * success:g} % passes, above {100 * failure:g} % fails"
    marks = tuple(sorted({_of(success, scale), _of(failure, scale)}))
    return Figure(_HEALTH[rule.metric], kind, shown, limit, _of(value, scale), marks)


def _of(value: float, scale: float) -> float:
    return round(min(100.0, max(0.0, 100 * value / scale)), 2) if scale else 0.0


def shown_waves(waves: Sequence[WaveView]) -> list[WaveView]:
    """Those that have devices, or will."""
    return [wave for wave in waves if wave.kind == "wave" or wave.devices or wave.left]


_SPANS = (
    (3300, HealthSpan.HOUR), (5.5 * 3600, HealthSpan.SIX_HOURS), (23 * 3600, HealthSpan.DAY),
    (6.9 * 86400, HealthSpan.WEEK), (29 * 86400, HealthSpan.MONTH), (89 * 86400, HealthSpan.QUARTER),
)  # fmt: skip


BEFORE = 15
"""Steps before the rollout that its plots show, for comparison."""


def span_of(view: RolloutView, now: datetime) -> HealthSpan | None:
    """The shortest in which the whole rollout lies. None: it has not begun, or that is too long ago."""
    if view.started_at is None:
        return None
    age = (now - view.started_at).total_seconds()
    return next((span for most, span in _SPANS if age <= most), None)


def answer_plots(series: HealthSeries, view: RolloutView) -> dict[str, Any] | None:
    """Latency and errors of the versions that answered, on one axis of time with what the rollout did. None: nobody
    answered then."""
    shown = [each for each in series.by if each.name and each.figures.requests]
    if not shown:
        return None
    shown.sort(key=lambda each: each.name != view.version)
    marks = [
        {"at": mark.at.timestamp(), "text": state_text(mark.what)}
        for mark in series.rollouts if mark.rollout == view.id
    ]  # fmt: skip
    began = sum(at <= (view.started_at or series.as_of) for at in series.starts)
    first = max(0, began - BEFORE)
    plain = {"x": [at.timestamp() for at in series.starts[first:]], "time": True, "marks": marks}
    names = {each.name: f"{each.name} (new)" if each.name == view.version else each.name for each in shown}
    errors = {
        each.name: [
            None if not requests else 100 * (wrong or 0) / requests
            for requests, wrong in zip(each.requests[first:], each.errors[first:], strict=True)
        ]
        for each in shown
    }
    return {
        "latency": plain
        | {"unit": "ms", "series": [{"label": names[s.name], "values": s.p95_ms[first:]} for s in shown]},
        "errors": plain | {"unit": "%", "series": [{"label": names[s.name], "values": errors[s.name]} for s in shown]},
        "table": [(names[each.name], each.figures) for each in shown],
        "step_s": series.step_s,
    }
