"""What the registry does next with a rollout: a snapshot and the clock in, decisions out. Nothing is remembered here.

Called after every event that matters and on a timer, by any number of schedulers. Each decision is applied in a
transaction that checks what it rests on: a `Shift` the rollout's revision; an `Offer` also the bucket; the others
the states of the wave and the devices they name. One that comes too late changes nothing. After a Shift, StartWave
or PassWave the caller asks again, until nothing is decided: each of them leads on, so that ends.
Every state has a deadline: silent devices are timed out, waves and rollbacks have theirs, and `valid_until` ends
what waits for a person.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import NamedTuple

from registry.contracts.codes import ReasonCode
from registry.contracts.rollout.spec import OfflinePolicy, OnFailure, Rate, RolloutSpec
from registry.contracts.rollout.states import ActionState, RolloutState, WaveState
from registry.contracts.texts import how_many
from registry.core.rollouts import actions, gates, retries
from registry.core.rollouts.gates import Cohorts, GateDecision, GateOutcome, Kind, WaveFacts
from registry.core.rollouts.machine import RolloutTrigger
from registry.core.rollouts.rates import Bucket, Candidate, release


class Overdue(NamedTuple):
    """A device whose `due` is over."""

    device: str
    state: ActionState
    due: datetime


class Away(NamedTuple):
    """A device that is offline, planned or offered in a wave that has started."""

    device: str
    since: datetime
    """Last seen, or registered where it never was."""


class Failed(NamedTuple):
    """A device whose failure the spec's retries may name."""

    device: str
    code: str
    tries: int
    since: datetime


@dataclass(frozen=True)
class Snapshot:
    """A rollout as it is stored and counted. Lists may be cut to a batch; the rest comes next time."""

    spec: RolloutSpec
    state: RolloutState
    since: datetime
    """When it entered the state."""
    valid_until: datetime
    waves: tuple[WaveFacts, ...] = ()
    """In order: the spec's, then the tail. While rolling back: only the rollback's."""
    candidates: tuple[Candidate, ...] = ()
    """Planned, in waves that have started, by wave and turn; in the tail also excluded ones that are back."""
    overdue: tuple[Overdue, ...] = ()
    away: tuple[Away, ...] = ()
    lost: int = 0
    """Devices in LOST, and those in HOLDS_SLOT_WHILE_AWAY that are offline."""
    bucket: Bucket = field(default_factory=Bucket)
    generation: int = 1
    cohorts: Cohorts = field(default_factory=Cohorts)
    """For the wave that is judged."""
    failed: tuple[Failed, ...] = ()
    """Devices in waves that have started, whose code a rule of the spec names, with tries left."""
    yanked: str = ""
    """Who yanked its version and why, as a sentence. Empty: nobody did."""
    refused: int = 0
    """Devices in no wave, since they have the version in quarantine: the rollout ends with them as exceptions."""


@dataclass(frozen=True)
class Shift:
    """Move the rollout by an internal event."""

    event: RolloutTrigger
    code: ReasonCode
    text: str
    wave: int | None = None
    """The wave whose gate said so; its state becomes failed or inconclusive."""
    verdict: GateDecision | None = None


@dataclass(frozen=True)
class StartWave:
    """pending -> releasing, from now."""

    wave: int


@dataclass(frozen=True)
class Soak:
    """releasing -> soaking from now; not again while it soaks."""

    wave: int


@dataclass(frozen=True)
class Unsoak:
    """soaking -> releasing: what it rested on is gone (a commit regressed)."""

    wave: int


@dataclass(frozen=True)
class PassWave:
    """The wave has passed."""

    wave: int
    verdict: GateDecision


@dataclass(frozen=True)
class Offer:
    """Put it into the desired state of these devices, and keep the bucket that is left."""

    devices: tuple[str, ...]
    bucket: Bucket


@dataclass(frozen=True)
class TimeOut:
    """These have been silent for too long."""

    devices: tuple[Overdue, ...]


@dataclass(frozen=True)
class Again:
    """Plan these for another attempt, to be offered at the time given."""

    devices: tuple[tuple[str, datetime], ...]


@dataclass(frozen=True)
class ExcludeOffline:
    """Into the tail wave with these; what they were offered is taken back."""

    devices: tuple[str, ...]


@dataclass(frozen=True)
class FailOffline:
    """These count as failed (`count_failed`); what they were offered is taken back."""

    devices: tuple[str, ...]


@dataclass(frozen=True)
class Withdraw:
    """Every device that has not switched returns to its last good version; no acknowledgement is waited for.

    Parked and BEFORE_SWITCH actions become cancelled; of those in REQUEST_ENDS only the desired state changes. While a
    rollback is aborted nothing is put back: what was planned is cancelled, what was told to return does.
    """


Decision = (
    Shift | StartWave | Soak | Unsoak | PassWave | Offer | TimeOut | Again | ExcludeOffline | FailOffline | Withdraw
)


PLANNING_S = 600.0
"""Planning that takes longer has died with its process."""
_S = ActionState
_WITHDRAWABLE = actions.PARKED | actions.BEFORE_SWITCH


def decide(snapshot: Snapshot, now: datetime) -> tuple[Decision, ...]:
    """What to do now, in order; empty: wait."""
    step = _STEPS.get(snapshot.state)
    return step(snapshot, now) if step is not None else ()


def _planning(snapshot: Snapshot, now: datetime) -> tuple[Decision, ...]:
    if now < snapshot.since + timedelta(seconds=PLANNING_S):
        return _timeouts(snapshot, now)
    event = RolloutTrigger.PLAN_FAILED if snapshot.generation == 1 else RolloutTrigger.REPLAN_FAILED
    text = f"planning did not end within {PLANNING_S:g} s; submit it again"
    return (Shift(event, ReasonCode.PLAN_FAILED, text),)


def _expired(snapshot: Snapshot, now: datetime) -> tuple[Decision, ...]:
    if now < snapshot.valid_until:
        return ()
    text = f"it was valid until {snapshot.valid_until.isoformat(timespec='seconds')}"
    return (Shift(RolloutTrigger.EXPIRED, ReasonCode.EXPIRED, text),)


def _scheduled(snapshot: Snapshot, now: datetime) -> tuple[Decision, ...]:
    start = snapshot.spec.start_at
    if expired := _expired(snapshot, now):
        return expired
    if start is not None and now < start:
        return _timeouts(snapshot, now)  # of an earlier generation
    return (Shift(RolloutTrigger.DUE, ReasonCode.RELEASING, "its start time is reached"),)


def _waiting(snapshot: Snapshot, now: datetime) -> tuple[Decision, ...]:
    """For a person; what has begun on devices is still counted when it falls silent."""
    return _expired(snapshot, now) or _timeouts(snapshot, now)


def _running(snapshot: Snapshot, now: datetime) -> tuple[Decision, ...]:
    if expired := _expired(snapshot, now):
        return expired
    timeouts = _timeouts(snapshot, now)
    if snapshot.yanked:
        return (*timeouts, Shift(RolloutTrigger.YANKED, ReasonCode.YANKED, snapshot.yanked))
    if again := _tried_again(snapshot):
        return (*timeouts, again)  # before any gate counts them as failed
    for wave in snapshot.waves:  # what had passed may no longer hold, and the tail has a stop of its own
        if wave.state is WaveState.PASSED or wave.kind is Kind.TAIL:
            verdict = gates.stops(wave, snapshot.spec.gate)
            if verdict is not None:
                code = ReasonCode.REGRESSED if wave.counts.get(_S.REGRESSED) else verdict.code
                return (*timeouts, _failure(snapshot, wave, verdict, code))
    current = next((wave for wave in snapshot.waves if wave.state is not WaveState.PASSED), None)
    if current is None:
        return (*timeouts, *_ending(snapshot, None, now))
    if current.state is WaveState.PENDING:
        return (*timeouts, StartWave(current.index))
    if current.kind is Kind.TAIL:
        return (*timeouts, *(_ending(snapshot, current, now) or _feeding(snapshot, current, now)))
    return (*timeouts, *_judged(snapshot, current, now))


def _tried_again(snapshot: Snapshot) -> Again | None:
    rules = snapshot.spec.retries
    chosen = [
        (each.device, each.since + timedelta(seconds=pause))
        for each in snapshot.failed
        if (pause := retries.pause_s(rules, each.code, each.tries)) is not None
    ]
    return Again(tuple(chosen)) if chosen else None


def _judged(snapshot: Snapshot, wave: WaveFacts, now: datetime) -> tuple[Decision, ...]:
    verdict = gates.judge(wave, snapshot.spec.gate, snapshot.cohorts, now)
    if verdict.outcome is GateOutcome.PASSED:
        return (PassWave(wave.index, verdict),)
    if verdict.outcome is GateOutcome.FAILED:
        return (_failure(snapshot, wave, verdict, verdict.code),)
    if verdict.outcome is GateOutcome.INCONCLUSIVE:
        return (Shift(RolloutTrigger.INCONCLUSIVE, verdict.code, _about(wave, verdict), wave.index, verdict),)
    soak: tuple[Decision, ...] = ()
    if verdict.soak and wave.soak_since is None:
        soak = (Soak(wave.index),)
    elif not verdict.soak and wave.soak_since is not None:
        soak = (Unsoak(wave.index),)
    return (*soak, *_feeding(snapshot, wave, now))


def _failure(snapshot: Snapshot, wave: WaveFacts, verdict: GateDecision, code: ReasonCode) -> Shift:
    back = snapshot.spec.on_failure is OnFailure.ROLLBACK
    event = RolloutTrigger.GATE_FAILED_ROLLBACK if back else RolloutTrigger.GATE_FAILED
    return Shift(event, code, _about(wave, verdict), wave.index, verdict)


def _about(wave: WaveFacts, verdict: GateDecision) -> str:
    name = "the tail wave" if wave.kind is Kind.TAIL else f"wave {wave.index + 1}"
    return f"{name}: {verdict.text}"


def _feeding(snapshot: Snapshot, wave: WaveFacts, now: datetime) -> tuple[Decision, ...]:
    """Who is offline leaves the wave; the next ones are offered it."""
    gone = _gone(snapshot, wave, now)
    offline: tuple[Decision, ...] = ()
    if gone and snapshot.spec.offline.policy is OfflinePolicy.FOLLOW_LATER:
        offline = (ExcludeOffline(gone),)
    elif gone and snapshot.spec.offline.policy is OfflinePolicy.COUNT_FAILED:
        offline = (FailOffline(gone),)
    left = set(gone) if offline else set()
    candidates = tuple(c for c in snapshot.candidates if c.device not in left)
    return (*offline, *_offer(snapshot, snapshot.spec.rate, candidates, now, wave))


def _gone(snapshot: Snapshot, wave: WaveFacts, now: datetime) -> tuple[str, ...]:
    grace = timedelta(seconds=snapshot.spec.offline.grace_s)
    began = wave.started_at or now
    return tuple(device for device, since in snapshot.away if now >= max(since, began) + grace)


def _offer(
    snapshot: Snapshot, rate: Rate, candidates: tuple[Candidate, ...], now: datetime, wave: WaveFacts
) -> tuple[Decision, ...]:
    room = None
    if rate.max_unavailable is not None:
        moving = sum(each.count(actions.IN_FLIGHT) for each in snapshot.waves)
        lost = max(0, snapshot.lost - sum(each.accepted.lost for each in snapshot.waves))
        room = rate.max_unavailable - moving - lost
        if room <= 0 and not moving and candidates and snapshot.state is RolloutState.RUNNING:
            text = (
                f"failed and not back: {how_many(lost, 'device')}; max_unavailable is {rate.max_unavailable}: bring "
                "them back, or resume to go on without them"
            )
            return (Shift(RolloutTrigger.INCONCLUSIVE, ReasonCode.UNAVAILABLE_BUDGET, text, wave.index),)
    chosen, left = release(snapshot.bucket, rate, candidates, room, now)
    return (Offer(chosen, left),) if chosen else ()


def _ending(snapshot: Snapshot, tail: WaveFacts | None, now: datetime) -> tuple[Decision, ...]:
    """All waves have passed: is it over?"""
    waits = sum(wave.count(actions.IN_FLIGHT | actions.PARKED) for wave in snapshot.waves)
    if waits:
        follow = timedelta(seconds=snapshot.spec.offline.follow_s)
        moving = sum(wave.count(actions.IN_FLIGHT) for wave in snapshot.waves)
        over = tail is None or now >= (tail.started_at or now) + follow
        if not over or moving or (snapshot.candidates and tail is not None):
            return ()
    exceptions = snapshot.refused + sum(wave.count(frozenset(_S) - _FINE) for wave in snapshot.waves)
    if exceptions:
        text = f"not served by {how_many(exceptions, 'device')}"
        return (Shift(RolloutTrigger.FINISHED_WITH_EXCEPTIONS, ReasonCode.EXCEPTIONS, text),)
    return (Shift(RolloutTrigger.FINISHED, ReasonCode.DONE, "every device that could get it was seen serving it"),)


_FINE = actions.SUCCESS | {_S.ALREADY_CURRENT, _S.INCOMPATIBLE, _S.DECOMMISSIONED}


def _timeouts(snapshot: Snapshot, now: datetime) -> tuple[Decision, ...]:
    late = tuple(each for each in snapshot.overdue if each.due <= now and not _is_spared(snapshot, each, now))
    return (TimeOut(late),) if late else ()


def _is_spared(snapshot: Snapshot, each: Overdue, now: datetime) -> bool:
    """Offered under a policy that waits for who is away: its wave's deadline bounds it, also when it has just come
    back, its offer's own time long over."""
    if each.state is not _S.OFFERED or snapshot.spec.offline.policy is not OfflinePolicy.WAIT:
        return False
    if snapshot.state not in (RolloutState.RUNNING, RolloutState.PAUSED):
        return False
    tail = next((w for w in snapshot.waves if w.kind is Kind.TAIL and w.started_at is not None), None)
    follow = timedelta(seconds=snapshot.spec.offline.follow_s)
    return tail is None or tail.started_at is None or now < tail.started_at + follow


def _withdrawing(snapshot: Snapshot, now: datetime) -> tuple[Decision, ...]:
    if any(wave.count(_WITHDRAWABLE) for wave in snapshot.waves):
        return (Withdraw(),)
    if not any(wave.count(actions.IN_FLIGHT) for wave in snapshot.waves):
        code = ReasonCode.EXPIRED if snapshot.state is RolloutState.EXPIRING else ReasonCode.BY_COMMAND
        return (Shift(RolloutTrigger.QUIET, code, "nothing is under way on any device"),)
    return _timeouts(snapshot, now)


def _rolling_back(snapshot: Snapshot, now: datetime) -> tuple[Decision, ...]:
    timeouts = _timeouts(snapshot, now)
    spec = snapshot.spec.rollback
    wave = next((each for each in snapshot.waves if each.kind is Kind.ROLLBACK), None)
    if wave is None:
        return (Shift(RolloutTrigger.BACK, ReasonCode.DONE, "no device had it"),)
    lost = wave.failed + wave.unknown
    if not wave.moving:
        if lost:
            text = f"not back: {how_many(lost, 'device')}"
            return (Shift(RolloutTrigger.NOT_ALL_BACK, ReasonCode.EXCEPTIONS, text, wave.index),)
        return (Shift(RolloutTrigger.BACK, ReasonCode.DONE, _all_back(wave), wave.index),)
    answered = wave.committed + wave.counts.get(_S.ALREADY_CURRENT, 0) + lost
    if answered >= 10 and lost * 100 > spec.max_failed_pct * answered:
        text = f"{lost} of {answered} devices that answered did not come back; {spec.max_failed_pct:g} % are allowed"
        return (*timeouts, Shift(RolloutTrigger.NOT_ALL_BACK, ReasonCode.ROLLBACK_BUDGET, text, wave.index))
    if now >= snapshot.since + timedelta(seconds=spec.deadline_s):
        text = f"not back within {spec.deadline_s:g} s: {how_many(wave.moving, 'device')}"
        return (*timeouts, Shift(RolloutTrigger.NOT_ALL_BACK, ReasonCode.ROLLBACK_DEADLINE, text, wave.index))
    return (*timeouts, *_offer(snapshot, spec.rate, snapshot.candidates, now, wave))


def _all_back(wave: WaveFacts) -> str:
    text, taken = "every device serves what it served before", wave.counts.get(_S.SUPERSEDED, 0)
    return text if not taken else f"{text}, but for {how_many(taken, 'device')} that others took since"


_STEPS: dict[RolloutState, Callable[[Snapshot, datetime], tuple[Decision, ...]]] = {
    RolloutState.PLANNING: _planning,
    RolloutState.AWAITING_APPROVAL: _waiting,
    RolloutState.SCHEDULED: _scheduled,
    RolloutState.RUNNING: _running,
    RolloutState.PAUSED: _waiting,
    RolloutState.ABORTING: _withdrawing,
    RolloutState.EXPIRING: _withdrawing,
    RolloutState.ROLLING_BACK: _rolling_back,
}
"""States that a timer looks at; in the others nothing happens by itself."""
