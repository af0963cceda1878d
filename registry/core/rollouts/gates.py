"""The gate of a wave: counts, health, and the clock in; passed, failed, inconclusive or waiting out.

Denominators: `wave` is every device in it that can still succeed or fail (not superseded, cancelled, decommissioned,
already current, incompatible); `excluded` are its offline ones; `attempted` are those that began or were timed out.
What a person accepted by `resume` is taken out of numerators and denominators. A failed measure is no failed
version: too little data never fails a wave.

The rules of health, accuracy and shadow compare the updated devices with those that are not yet updated. Where no
device is left to compare with (the last wave), shares are compared with 0 and the latency is not judged; the notes say
so. Too few requests say nothing: a rule that is `required` waits for more, another is noted. Of runs that take
microseconds the 99th percentile is the operating system's, not the model's: less than NOISE_US of difference is none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from math import ceil

from registry.contracts.codes import ReasonCode
from registry.contracts.enums import StrEnum
from registry.contracts.rollout.spec import Gate, HealthMetric, HealthRule
from registry.contracts.rollout.states import ActionState, WaveState
from registry.contracts.texts import how_many
from registry.core.rollouts import actions

NOISE_US = 1000.0
"""A busy host takes a thread off its core for so long; measured on two loaded cores: 30 us became 400 us."""


@dataclass(frozen=True)
class Cohort:
    """The same time window of many devices, summed."""

    devices: int = 0
    requests: int = 0
    """Answered, with a result or an error."""
    errors: int = 0
    nan: int | None = None
    """Answers with a NaN or an infinity; None: nobody counted them."""
    run_p99_us: float | None = None
    """Median over the devices of their 99th percentile of a run."""
    accuracy: float | None = None
    """Mean over `accuracy_devices` of the golden items with the right top class."""
    accuracy_devices: int = 0


@dataclass(frozen=True)
class Cohorts:
    """What the health rules compare."""

    updated: Cohort = Cohort()
    waiting: Cohort = Cohort()
    """Devices of the fleet that still serve their previous version."""
    shadow_compared: int = 0
    shadow_agreed: float = 0.0
    """Of `shadow_compared`, how many agreed."""


@dataclass
class Judged:
    """The rules' answers together."""

    failed: GateDecision | None = None
    inconclusive: str = ""
    missing: str = ""
    """A required rule has too little data."""
    figures: dict[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def fail(self, code: ReasonCode, text: str) -> None:
        """The first failure is the reason."""
        self.failed = self.failed or GateDecision(GateOutcome.FAILED, code, text)

    def lack(self, text: str, required: bool) -> None:
        """Too little data."""
        if required:
            self.missing = self.missing or text
        self.notes += (text,)


def judge_health(gate: Gate, cohorts: Cohorts) -> Judged:
    """Every rule of the gate that needs measures."""
    judged = Judged()
    for rule in gate.health:
        _judge_rule(rule, cohorts, judged)
    _judge_accuracy(gate, cohorts, judged)
    _judge_shadow(gate, cohorts, judged)
    return judged


def _judge_rule(rule: HealthRule, cohorts: Cohorts, judged: Judged) -> None:
    new = cohorts.updated
    if new.requests < rule.min_requests:
        judged.lack(f"{rule.metric}: {new.requests} of {rule.min_requests} requests that it needs", rule.required)
        return
    value = _value(rule, cohorts)
    if value is None:
        judged.lack(f"{rule.metric}: nothing to compare with", required=False)
        return
    judged.figures[rule.metric] = round(value, 6)
    text = f"{rule.metric} is {value:.3g}; up to {rule.success:g} passes, above {rule.failure:g} fails"
    if value <= rule.success:
        return
    if rule.dry_run:
        judged.notes += (f"dry run: {text}",)
    elif value > rule.failure:
        judged.fail(ReasonCode.HEALTH, text)
    else:
        judged.inconclusive = judged.inconclusive or text


def _value(rule: HealthRule, cohorts: Cohorts) -> float | None:
    new, old = cohorts.updated, cohorts.waiting
    comparable = old.requests >= rule.min_requests
    if rule.metric is HealthMetric.RUN_P99_RATIO:
        if not comparable or not new.run_p99_us or not old.run_p99_us:
            return None
        slower = new.run_p99_us - old.run_p99_us >= NOISE_US
        return new.run_p99_us / old.run_p99_us if slower else min(1.0, new.run_p99_us / old.run_p99_us)
    if rule.metric is HealthMetric.ERROR_SHARE:
        return max(0.0, new.errors / new.requests - (old.errors / old.requests if comparable else 0.0))
    if new.nan is None:
        return None
    before = old.nan / old.requests if comparable and old.nan is not None else 0.0
    return max(0.0, new.nan / new.requests - before)


def _judge_accuracy(gate: Gate, cohorts: Cohorts, judged: Judged) -> None:
    rule, new, old = gate.accuracy, cohorts.updated, cohorts.waiting
    if rule is None:
        return
    if new.accuracy is None or new.accuracy_devices < rule.min_devices:
        measured = f"{new.accuracy_devices} of {how_many(rule.min_devices, 'device')} measured it"
        judged.lack(f"accuracy: {measured}", rule.required)
        return
    drop = (old.accuracy if old.accuracy is not None else 1.0) - new.accuracy
    judged.figures["accuracy_drop"] = round(drop, 6)
    if drop > rule.max_drop + 1e-9:
        judged.fail(ReasonCode.ACCURACY, f"accuracy fell by {drop:.3g}; {rule.max_drop:g} is allowed")


def _judge_shadow(gate: Gate, cohorts: Cohorts, judged: Judged) -> None:
    rule = gate.shadow
    if rule is None:
        return
    if cohorts.shadow_compared < rule.min_compared:
        judged.lack(f"shadow: {cohorts.shadow_compared} of {rule.min_compared} requests were compared", rule.required)
        return
    agreement = cohorts.shadow_agreed / cohorts.shadow_compared
    judged.figures["shadow_agreement"] = round(agreement, 6)
    if agreement < rule.min_agreement - 1e-9:
        judged.fail(ReasonCode.SHADOW, f"{agreement:.3g} of shadow answers agreed; {rule.min_agreement:g} is needed")


_S = ActionState
_NOT_BEGUN = actions.PARKED | actions.OUT | {_S.OFFERED, _S.DEFERRED}


class Kind(StrEnum):
    """What a wave is for."""

    WAVE = "wave"
    TAIL = "tail"
    """Devices that come back or join; it has no end of its own."""
    ROLLBACK = "rollback"


class GateOutcome(StrEnum):
    """Of a gate."""

    PASSED = "passed"
    FAILED = "failed"
    INCONCLUSIVE = "inconclusive"
    WAITING = "waiting"


@dataclass(frozen=True)
class Accepted:
    """Devices whose end a person accepted by `resume`."""

    failed: int = 0
    unknown: int = 0
    lost: int = 0
    """Of these, not back when it was accepted: they hold no slot of `max_unavailable`. As many others that are lost
    after they are back hold none either."""

    def at_most(self, there: Accepted) -> Accepted:
        """What is left of it when no more than these are there."""
        lost = min(self.lost, there.failed + there.unknown)
        return Accepted(min(self.failed, there.failed), min(self.unknown, there.unknown), lost)


def accepted_of(counts: Mapping[ActionState, int], lost: int = 0) -> Accepted:
    """All that a person accepts who accepts these, of which `lost` are not back."""
    failed = sum(number for state, number in counts.items() if state in actions.FAILURE)
    return Accepted(failed, counts.get(_S.TIMED_OUT, 0), lost)


@dataclass(frozen=True)
class WaveFacts:
    """One wave as it is stored and counted now."""

    index: int
    kind: Kind = Kind.WAVE
    state: WaveState = WaveState.PENDING
    counts: Mapping[ActionState, int] = field(default_factory=dict)
    spoke: int = 0
    """Devices that reported anything of this rollout."""
    soak_s: float = 0.0
    min_committed: int = 0
    started_at: datetime | None = None
    """When it began, or was resumed: its deadline counts from here."""
    soak_since: datetime | None = None
    accepted: Accepted = Accepted()

    def count(self, states: frozenset[ActionState]) -> int:
        """Devices in any of these states."""
        return sum(number for state, number in self.counts.items() if state in states)

    @property
    def failed(self) -> int:
        """Failures that nobody has accepted."""
        return max(0, self.count(actions.FAILURE) - self.accepted.failed)

    @property
    def unknown(self) -> int:
        """Timed out, and not accepted."""
        return max(0, self.counts.get(_S.TIMED_OUT, 0) - self.accepted.unknown)

    @property
    def attempted(self) -> int:
        """Began, or were timed out."""
        every = frozenset(_S) - _NOT_BEGUN
        return max(0, self.count(every) - self.accepted.failed - self.accepted.unknown)

    @property
    def size(self) -> int:
        """The wave, without what is in no denominator and what was accepted."""
        return max(
            0, sum(self.counts.values()) - self.count(actions.OUT) - self.accepted.failed - self.accepted.unknown
        )

    @property
    def members(self) -> int:
        """The wave without its excluded devices."""
        return max(0, self.size - self.counts.get(_S.EXCLUDED, 0))

    @property
    def committed(self) -> int:
        """Seen serving, also those that came late."""
        return self.count(actions.SUCCESS)

    @property
    def moving(self) -> int:
        """Devices that may still change the counts by themselves."""
        return self.count(actions.IN_FLIGHT) + self.counts.get(_S.PLANNED, 0)


@dataclass(frozen=True)
class GateDecision:
    """What the gate says, and the figures behind it."""

    outcome: GateOutcome
    code: ReasonCode
    text: str
    until: datetime | None = None
    figures: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    soak: bool = False
    """Enough have committed: the soak may begin."""


def judge(wave: WaveFacts, gate: Gate, cohorts: Cohorts, now: datetime) -> GateDecision:
    """What a wave's gate says now.

    Args:
        wave: It has started.
        cohorts: Health of the wave's devices and of those that were not yet updated.
    """
    figures = figures_of(wave)
    if wave.size == 0 and not wave.moving:
        return GateDecision(GateOutcome.PASSED, ReasonCode.DONE, "no device is left in it to wait for", figures=figures)
    health = judge_health(gate, cohorts)
    found = _budget(wave, gate) or health.failed or _progress(wave, gate, health, now)
    return replace(found, figures={**figures, **health.figures}, notes=health.notes)


def stops(wave: WaveFacts, gate: Gate) -> GateDecision | None:
    """What stops the rollout at once, of a wave that nobody waits for: one that passed, the tail."""
    found = _budget(wave, gate)
    return replace(found, figures=figures_of(wave)) if found is not None else None


def figures_of(wave: WaveFacts) -> dict[str, float]:
    """The percentages that the gate compares; absent where the denominator is 0."""
    shares = {
        "failed_pct": (wave.failed, wave.attempted),
        "unknown_pct": (wave.unknown, wave.attempted),
        "committed_pct": (wave.committed, wave.members),
        "coverage_pct": (min(wave.spoke, wave.size), wave.size),
    }
    return {name: round(100 * part / whole, 3) for name, (part, whole) in shares.items() if whole}


def _budget(wave: WaveFacts, gate: Gate) -> GateDecision | None:
    if gate.max_failed_abs is not None and wave.failed > gate.max_failed_abs:
        text = f"{how_many(wave.failed, 'device')} failed; max_failed_abs is {gate.max_failed_abs}"
        return GateDecision(GateOutcome.FAILED, ReasonCode.FAILED_BUDGET, text)
    if wave.attempted >= min(gate.min_attempted, wave.members):
        for code, word, number, limit in (
            (ReasonCode.FAILED_BUDGET, "failed", wave.failed, gate.max_failed_pct),
            (ReasonCode.UNKNOWN_BUDGET, "fell silent", wave.unknown, gate.max_unknown_pct),
        ):
            if limit is not None and _above(number, limit, wave.attempted):
                text = f"{number} of {wave.attempted} attempted devices {word}; {limit:g} % are allowed"
                return GateDecision(GateOutcome.FAILED, code, text)
    need = _needed(wave, gate)
    if wave.committed + wave.moving < need and wave.failed + wave.unknown and wave.kind is Kind.WAVE:
        text = f"{wave.committed} committed and {wave.moving} still may; {need} of {wave.members} are needed"
        return GateDecision(GateOutcome.FAILED, ReasonCode.TOO_FEW_COMMITTED, text)
    return None


def _above(number: int, percent: float, whole: int) -> bool:
    return number > 0 and number * 100 > percent * whole + 1e-9


def _needed(wave: WaveFacts, gate: Gate) -> int:
    return max(ceil(wave.members * gate.min_committed_pct / 100 - 1e-9), min(wave.min_committed, wave.size))


def _progress(wave: WaveFacts, gate: Gate, health: Judged, now: datetime) -> GateDecision:
    """Nothing speaks against it; is there enough that speaks for it?"""
    began = wave.started_at or now
    deadline = began + timedelta(seconds=gate.deadline_s)
    lacks = _lacks(wave, gate)
    if lacks and not wave.moving:
        return GateDecision(GateOutcome.INCONCLUSIVE, ReasonCode.INCONCLUSIVE, f"nothing moves any more, and {lacks}")
    if lacks and now >= deadline:
        return GateDecision(GateOutcome.INCONCLUSIVE, ReasonCode.WAVE_DEADLINE, f"its deadline is over, and {lacks}")
    if lacks:
        return GateDecision(GateOutcome.WAITING, ReasonCode.RELEASING, lacks, deadline)
    end = (wave.soak_since or now) + timedelta(seconds=wave.soak_s)
    if now < end or wave.soak_since is None:
        text = f"{wave.committed} committed; it is watched"
        return GateDecision(GateOutcome.WAITING, ReasonCode.SOAKING, text, end, soak=True)
    if health.inconclusive:
        return GateDecision(GateOutcome.INCONCLUSIVE, ReasonCode.INCONCLUSIVE, health.inconclusive)
    if health.missing and now < deadline:
        return GateDecision(GateOutcome.WAITING, ReasonCode.SOAKING, health.missing, deadline, soak=True)
    if health.missing:
        text = f"its deadline is over: {health.missing}"
        return GateDecision(GateOutcome.INCONCLUSIVE, ReasonCode.WAVE_DEADLINE, text)
    return GateDecision(GateOutcome.PASSED, ReasonCode.DONE, f"{wave.committed} of {wave.members} committed")


def _lacks(wave: WaveFacts, gate: Gate) -> str:
    """What is missing before the soak may begin; empty: nothing."""
    need = _needed(wave, gate)
    if wave.committed < need:
        return f"{wave.committed} committed, {need} needed"
    if wave.attempted < min(gate.min_attempted, wave.members):
        return f"{wave.attempted} begun, {min(gate.min_attempted, wave.members)} needed"
    if wave.size and min(wave.spoke, wave.size) * 100 < gate.min_coverage_pct * wave.size - 1e-9:
        spoke = f"{min(wave.spoke, wave.size)} of {how_many(wave.size, 'device')} reported"
        return f"{spoke}; {gate.min_coverage_pct:g} % are needed"
    return ""
