"""Probation: a version that serves is watched for a while, then kept or taken back. Pure.

What happened is counted in a `Tally` while requests run, and judged against `ProbationLimits`. Crashes count from the
first one on; shares and latency say something only after `min_requests`. Few requests are no reason to fail: when the
time is over the version passes, and the message says how little is known.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from agent.core.health import Histogram, HistogramView
from registry.contracts.codes import DeploymentCode, InferenceCode
from registry.contracts.deployments import ProbationLimits

COUNTED = frozenset(
    {InferenceCode.RUN_FAILED, InferenceCode.OUT_OF_MEMORY, InferenceCode.RUN_TIMEOUT, InferenceCode.WORKER_CRASHED}
)
"""Errors that are the version's own; refusals for bad input, overload or a late request are not."""
NOISE_US = 1000.0
"""Less is no difference in latency: a busy host takes a thread off its core for so long, whatever the version."""


@dataclass(slots=True)
class Tally:
    """What one version did since it began to serve. The data thread writes, the control thread reads: every number is
    whole, but two of them need not be of the same moment."""

    watching: bool = False
    """Count answers, and look into them for NaN; off outside probation."""
    answered: int = 0
    """With a result."""
    errors: Counter[str] = field(default_factory=Counter)
    not_finite: int = 0
    """Results with a NaN or an infinity in a floating-point output."""
    run: Histogram = field(default_factory=Histogram)
    """Microseconds of one batch; counted always, for the next version to be compared with."""

    def failed(self) -> int:
        """Errors that count."""
        return sum(count for code, count in self.errors.items() if code in COUNTED)


@dataclass(frozen=True)
class Counts:
    """What a verdict needs to know."""

    answered: int = 0
    failed: int = 0
    not_finite: int = 0
    crashes: int = 0
    """Of the worker and of the agent."""
    given_up: str = ""
    """Why the worker is not started again; empty: it serves, or will."""
    run: HistogramView = field(default_factory=HistogramView)
    before_us: float | None = None
    """p99 of the previous version's runs; None: not known."""


@dataclass(frozen=True)
class Verdict:
    """`code` empty: passed."""

    code: str
    message: str


def judge(limits: ProbationLimits, counts: Counts, *, over: bool) -> Verdict | None:
    """None: it goes on.

    Args:
        limits: What ends a probation badly.
        counts: What happened since it began.
        over: Its time is over and it serves.
    """
    crashed = _crashes(limits, counts)
    if crashed is not None:
        return crashed
    total = counts.answered + counts.failed
    if total >= limits.min_requests:
        bad = _shares(limits, counts, total) or _latency(limits, counts)
        if bad is not None:
            return bad
    if not over:
        return None
    few = f"; too few for shares and latency, which take {limits.min_requests}" if total < limits.min_requests else ""
    return Verdict("", f"{total} requests, {counts.failed} errors, {counts.crashes} crashes{few}")


def p99(run: HistogramView, least: int) -> float | None:
    """Microseconds; None when fewer than `least` runs were counted."""
    return run.quantile(0.99) if run.total >= least else None


def _crashes(limits: ProbationLimits, counts: Counts) -> Verdict | None:
    if counts.given_up:
        return Verdict(DeploymentCode.PROBATION_CRASHES, f"its worker does not come back: {counts.given_up}")
    if counts.crashes > limits.max_crashes:
        text = f"worker and agent died {counts.crashes} times in probation, {limits.max_crashes} are allowed"
        return Verdict(DeploymentCode.PROBATION_CRASHES, text)
    return None


def _shares(limits: ProbationLimits, counts: Counts, total: int) -> Verdict | None:
    if counts.failed > limits.max_error_share * total:
        text = f"{counts.failed} of {total} requests failed, {limits.max_error_share:.1%} may"
        return Verdict(DeploymentCode.PROBATION_ERRORS, text)
    if counts.not_finite > limits.max_nan_share * max(counts.answered, 1):
        text = f"{counts.not_finite} of {counts.answered} answers hold NaN or infinity, {limits.max_nan_share:.1%} may"
        return Verdict(DeploymentCode.PROBATION_NAN, text)
    return None


def _latency(limits: ProbationLimits, counts: Counts) -> Verdict | None:
    now = p99(counts.run, limits.min_requests)
    before, most = counts.before_us, limits.max_latency_ratio
    if now is None or most is None or not before or now <= max(most * before, before + NOISE_US):
        return None
    text = f"p99 of a run is {now:.0f} us, {now / before:.1f} times the previous version's {before:.0f} us"
    return Verdict(DeploymentCode.PROBATION_LATENCY, text)
