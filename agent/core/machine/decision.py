"""What the machine is asked with, and what it answers: a record to write down, then commands in their order. Pure.

Each function of this package takes the slot's record, the situation and what has happened, and returns a `Decision`,
or None where nothing follows. `agent.reconciler.slot` writes the record and carries the commands out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from agent.core.backoff import DEPLOYMENT, LONGEST_S, exhausted
from agent.core.lifecycle import DeploymentEvent, Effect, State, advance
from agent.core.probation import Tally
from agent.core.slots import Choice, Quarantined, SlotRecord, phase_of
from agent.errors import AgentError, PermanentError, TransientError
from registry.contracts.device.deployments import DeploymentPolicy
from registry.contracts.device.messages import Fault
from registry.contracts.enums import StrEnum


class Upkeep(StrEnum):
    """What is to be done beside the effects of the table."""

    FORGIVE = "forgive"
    """A worker that was given up gets another chance."""
    GIVE_UP = "give_up"
    """Nothing is started by itself any more."""
    MAKE_ROOM = "make_room"
    """What should answer is another version now: earlier failures do not count, and where there is no room for both,
    what answers ends first."""
    REVIVE = "revive"
    """Start the worker of what should answer, where none is there and it is due."""
    RECONSIDER = "reconsider"
    """Ask this host again what a deferred deployment waits for."""
    COMPARE = "compare"
    """Look at what the candidate's shadow found so far."""


@dataclass(frozen=True)
class PublishEvent:
    """An event for the log and the registry."""

    phase: str
    message: str
    code: str = ""


@dataclass(frozen=True)
class RetryStart:
    """The worker of the active place could not be started: the supervisor tries again later."""

    error: AgentError


Command = Effect | Upkeep | PublishEvent | RetryStart


@dataclass(frozen=True)
class Decision:
    """The record is in the journal before the first command is carried out."""

    record: SlotRecord
    commands: tuple[Command, ...] = ()
    retry_s: float = 0.0
    """For `Effect.SCHEDULE_RETRY`: seconds until the next try."""

    def then(self, *commands: Command) -> Decision:
        """The same with more to do at its end."""
        return replace(self, commands=(*self.commands, *commands))


class Situation(NamedTuple):
    """What the journal does not know of a slot, at one moment."""

    now: datetime
    monotonic: float
    chance: Callable[[], float]
    """0..1, to spread retries; asked only where there is one."""
    boot: str = ""
    """This boot of the host."""
    desired_expired: bool = False
    stale: str = ""
    """Why nothing new may be installed: what is signed is not known to be fresh. Empty: it may."""
    step_runs: bool = False
    """A step of the deployment is under way."""
    comparing: bool = False
    """The candidate's shadow runs."""
    retry_pending: bool = False
    """A later time is set for the next try."""
    serving: Choice | None = None
    """What the worker that answers was loaded for."""
    cleared: bool = False
    """The active worker was ended on purpose: there is no room for two."""
    given_up: bool = False
    """The active worker is not started any more."""
    crash: Fault | None = None
    """Why the active worker is not there."""
    tally: Tally = Tally()
    """What the version that serves did so far."""
    watched_since: float | None = None
    """Monotonic time at which the probation began, or the agent that goes on with it."""

    def answers(self, choice: Choice | None) -> bool:
        """Does a worker of this choice answer now?"""
        return self.serving is not None and choice is not None and self.serving.loads_as(choice)


def policy_of(record: SlotRecord) -> DeploymentPolicy:
    """How the deployment under way is to be carried out."""
    return record.desired.policy if record.desired else DeploymentPolicy()


def chosen(record: SlotRecord) -> Choice:
    """The candidate. Raises PermanentError when there is none: a fault of the table."""
    if record.candidate is None:
        raise PermanentError("internal", f"slot {record.model} is {record.state} without a candidate")
    return record.candidate


def move(record: SlotRecord, at: Situation, event: DeploymentEvent, **changes: Any) -> Decision:
    """One step of the table: `changes` are written down together with the new state.

    Raises:
        InvalidTransitionError: the table has no such edge.
    """
    step = advance(record.state, event)
    after = record.model_copy(update={"state": step.to, "since": at.now, "until": None, **changes})
    seconds = _lasts(step.to, policy_of(after))
    if seconds is not None:
        after = after.model_copy(update={"until": at.now + timedelta(seconds=seconds)})
    return Decision(after, step.effects)


def step_failed(record: SlotRecord, at: Situation, error: AgentError, **changes: Any) -> Decision:
    """The step that ran has failed: it is tried again later, or given up."""
    transient = error if isinstance(error, TransientError) else None
    attempts = 1 if transient is not None and transient.progress else record.attempts + 1
    fault = Fault(code=error.code, message=error.message[:2000], attempts=attempts)
    if isinstance(error, PermanentError) or exhausted(DEPLOYMENT, attempts, error.code):
        return given_up(record, at, fault, **changes)
    asked = transient.retry_after_s if transient is not None else 0.0
    delay = max(DEPLOYMENT.delay(attempts, at.chance(), LONGEST_S.get(error.code)), asked)
    changes.update(attempts=attempts, fault=fault, failed_in=phase_of(record), until=at.now + timedelta(seconds=delay))
    return replace(move(record, at, DeploymentEvent.RETRY_LATER, **changes), retry_s=delay)


def given_up(record: SlotRecord, at: Situation, fault: Fault, **changes: Any) -> Decision:
    """The deployment ends with this fault."""
    changes.update(attempts=fault.attempts, fault=fault, failed_in=phase_of(record))
    return move(record, at, DeploymentEvent.GIVEN_UP, **changes)


def quarantined(record: SlotRecord, at: Situation, choice: Choice, code: str, text: str) -> tuple[Quarantined, ...]:
    """The quarantine with `choice` in it."""
    return record.with_bad(
        Quarantined(
            variant_digest=choice.variant_digest,
            version=choice.version,
            code=code,
            message=text[:2000],
            attempt=record.desired.attempt if record.desired is not None else 0,
            at=at.now,
        )
    )


def _lasts(state: State, policy: DeploymentPolicy) -> float | None:
    """Seconds after which `state` ends by itself; None: it does not."""
    if state is State.PROBATION:
        return policy.probation_s
    return policy.shadow.duration_s if state is State.SHADOWING and policy.shadow is not None else None
