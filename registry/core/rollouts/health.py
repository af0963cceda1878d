"""Health, accuracy and shadow rules of a gate: the updated devices against those that are not yet updated.

Where no device is left to compare with (the last wave), shares are compared with 0 and the latency is not judged;
the notes say so. Too few requests say nothing: a rule that is `required` waits for more, another is noted.
Of runs that take microseconds the 99th percentile is the operating system's, not the model's: less than NOISE_US of
difference is none.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from registry.contracts.codes import ReasonCode
from registry.contracts.rollout.spec import Gate, HealthMetric, HealthRule
from registry.contracts.texts import how_many

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

    failed: tuple[ReasonCode, str] | None = None
    inconclusive: str = ""
    missing: str = ""
    """A required rule has too little data."""
    figures: dict[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def fail(self, code: ReasonCode, text: str) -> None:
        """The first failure is the reason."""
        self.failed = self.failed or (code, text)

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
