"""Probation: a version that serves is watched for a while, then kept or taken back. Pure.

What happened is counted in a `Tally` while requests run, and judged against `ProbationLimits`. Crashes of the worker
count from the first one on; shares and latency say something only after `min_requests`. Few requests are no reason to
fail: when the time is over the version passes, and the message says how little is known.

NaN and infinities can be part of a right answer: a mask, a logarithm. What the golden vectors of the version hold in an
output counts for nothing there. The rest is compared, each kind by itself, with the share of the version before, as far
as that was looked at. Where there is neither, nothing can be said of them, and nothing is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import sqrt
from typing import Annotated

from pydantic import Field

from agent.core.health import Histogram, HistogramView
from registry.contracts.catalogue.manifest import Parity, Special
from registry.contracts.codes import DeploymentCode, InferenceCode
from registry.contracts.device.deployments import ProbationLimits
from registry.contracts.wire import Wire

KINDS = (Special.NAN, Special.INFINITY, Special.NEGATIVE_INFINITY)
"""In the order of their bits and counts."""
COUNTED = frozenset(
    {InferenceCode.RUN_FAILED, InferenceCode.OUT_OF_MEMORY, InferenceCode.RUN_TIMEOUT, InferenceCode.WORKER_CRASHED}
)
"""Errors that are the version's own; refusals for bad input, overload or a late request are not."""
DEVIATIONS = 3.0
"""Standard deviations of the difference of two shares: what chance does to two versions that are alike."""
MAX_ENDS = 8
"""Ends of the agent in a version's probation within one boot. A version that takes the agent down with it must not do
so for ever; but an agent is killed for many reasons that are not the version's."""
NOISE_US = 1000.0
"""Less is no difference in latency: a busy host takes a thread off its core for so long, whatever the version."""
SLOW_RUNS = 3
"""More runs than this must be too slow: a busy host stalls a few, whatever the version."""


@dataclass(slots=True)
class Tally:
    """What one version did since it began to serve. The data thread writes, the control thread reads: every number is
    whole, but two of them need not be of the same moment."""

    watching: bool = False
    """Count answers, and look into them for NaN: in probation, and while the next version is on its way."""
    expected: Mapping[str, int] = field(default_factory=dict)
    """Bits of KINDS that the golden vectors hold, by output."""
    known: int = 0
    """Bits of KINDS that the version before answered, too."""
    answered: int = 0
    """With a result."""
    errors: Counter[str] = field(default_factory=Counter)
    not_finite: int = 0
    """Results with a NaN or an infinity that neither the golden vectors hold nor the version before answered."""
    specials: list[int] = field(default_factory=lambda: [0, 0, 0])
    """Results that hold each of KINDS."""
    unexpected: list[int] = field(default_factory=lambda: [0, 0, 0])
    """The same, where the golden vectors hold none in that output."""
    run: Histogram = field(default_factory=Histogram)
    """Microseconds of one batch; counted always, for the next version to be compared with."""

    def failed(self) -> int:
        """Errors that count."""
        return sum(count for code, count in self.errors.items() if code in COUNTED)

    def note(self, found: int, unexpected: int) -> bool:
        """Counts one result: bits of KINDS. True: nothing in it that is not known."""
        self.answered += 1
        for place in range(len(KINDS)) if found else ():
            self.specials[place] += found >> place & 1
            self.unexpected[place] += unexpected >> place & 1
        fine = not unexpected & ~self.known
        self.not_finite += not fine
        return fine

    def seen(self) -> Looked | None:
        """What was found so far; None: there was nothing to look at."""
        return Looked(answered=self.answered, specials=tuple(self.specials)) if self.answered else None


class Looked(Wire):
    """How many answers of a version were looked at, and how many of them held each of KINDS."""

    answered: Annotated[int, Field(ge=0)] = 0
    specials: Annotated[tuple[int, ...], Field(min_length=3, max_length=3)] = (0, 0, 0)

    def known(self) -> int:
        """Bits of the kinds that there were."""
        return bits(place for place, count in enumerate(self.specials) if count)


def bits(places: Iterable[int]) -> int:
    """Places in KINDS as bits."""
    return sum(1 << place for place in set(places))


def expected_of(parity: Parity | None) -> dict[str, int]:
    """Bits of what the golden vectors hold, by output."""
    specials = parity.specials if parity is not None else {}
    return {name: bits(KINDS.index(special) for special in held) for name, held in specials.items()}


@dataclass(frozen=True)
class Counts:
    """What a verdict needs to know."""

    answered: int = 0
    failed: int = 0
    unexpected: tuple[int, ...] = (0, 0, 0)
    """Answers with each of KINDS that the golden vectors do not hold there."""
    before: Looked | None = None
    """Of the previous version; None: it was not looked at."""
    comparable: bool = True
    """There are golden vectors, or a version before to go back to."""
    crashes: int = 0
    """Of the worker."""
    ends: int = 0
    """Of the agent, without an order and without a cut of power."""
    given_up: str = ""
    """Why the worker is not started again; empty: it serves, or will."""
    run: HistogramView = field(default_factory=HistogramView)
    before_us: float | None = None
    """p99 of the previous version's runs; None: not known."""


@dataclass(frozen=True)
class ProbationVerdict:
    """`code` empty: passed."""

    code: str
    message: str


def judge(limits: ProbationLimits, counts: Counts, *, over: bool) -> ProbationVerdict | None:
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
    return ProbationVerdict(
        "", f"{total} requests, {counts.failed} errors, {counts.crashes} crashes{few}{_not_judged(limits, counts)}"
    )


def p99(run: HistogramView, least: int) -> float | None:
    """Microseconds; None when fewer than `least` runs were counted."""
    return run.quantile(0.99) if run.total >= least else None


def _crashes(limits: ProbationLimits, counts: Counts) -> ProbationVerdict | None:
    if counts.given_up:
        return ProbationVerdict(DeploymentCode.PROBATION_CRASHES, f"its worker does not come back: {counts.given_up}")
    if counts.crashes > limits.max_crashes:
        text = f"its worker died {counts.crashes} times in probation, {limits.max_crashes} are allowed"
        return ProbationVerdict(DeploymentCode.PROBATION_CRASHES, text)
    if counts.ends >= MAX_ENDS:
        text = f"the agent ended {counts.ends} times while it was watched, and the host went on: it may be why"
        return ProbationVerdict(DeploymentCode.PROBATION_CRASHES, text)
    return None


def _shares(limits: ProbationLimits, counts: Counts, total: int) -> ProbationVerdict | None:
    if counts.failed > limits.max_error_share * total:
        text = f"{counts.failed} of {total} requests failed, {limits.max_error_share:.1%} may"
        return ProbationVerdict(DeploymentCode.PROBATION_ERRORS, text)
    return _specials(limits, counts) if counts.comparable or limits.max_nan_share else None


def _specials(limits: ProbationLimits, counts: Counts) -> ProbationVerdict | None:
    """Each kind by itself: a share over the previous version's by more than the policy allows, and more than chance."""
    answered, before = max(counts.answered, 1), counts.before or Looked()
    for place, kind in enumerate(KINDS):
        count = counts.unexpected[place]
        share = before.specials[place] / before.answered if before.answered else 0.0
        chance = DEVIATIONS * sqrt(share * (1 - share) * (1 / answered + 1 / max(before.answered, 1)))
        allowed = limits.max_nan_share + share + chance
        if count and count > allowed * answered:
            was = f"; of the version before {before.specials[place]} of {before.answered}" if before.answered else ""
            text = f"{count} of {counts.answered} answers hold {kind}, {min(allowed, 1.0):.1%} may{was}"
            return ProbationVerdict(DeploymentCode.PROBATION_NAN, text)
    return None


def _not_judged(limits: ProbationLimits, counts: Counts) -> str:
    if counts.comparable or limits.max_nan_share or not any(counts.unexpected):
        return ""
    held = ", ".join(f"{count} hold {kind}" for kind, count in zip(KINDS, counts.unexpected, strict=True) if count)
    return f"; {held}: not judged, there are no golden vectors and there is no version before"


def _latency(limits: ProbationLimits, counts: Counts) -> ProbationVerdict | None:
    now = p99(counts.run, limits.min_requests)
    before, most = counts.before_us, limits.max_latency_ratio
    if now is None or most is None or not before:
        return None
    # Of a few hundred runs and more this is their p99.
    slow = counts.run.quantile(max(0.0, min(0.99, 1 - SLOW_RUNS / counts.run.total)))
    if slow <= max(most * before, before + NOISE_US):
        return None
    text = f"p99 of a run is {now:.0f} us, {now / before:.1f} times the previous version's {before:.0f} us"
    return ProbationVerdict(DeploymentCode.PROBATION_LATENCY, text)
