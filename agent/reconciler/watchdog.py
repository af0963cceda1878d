"""Watches what has still to prove itself, and sees a rollback through to a previous version that answers.

A version that was superseded in its probation goes on answering until the next one is there, or for ever when that
fails: so it goes on being watched, beside whatever deployment is under way, and is kept or taken back all the same.

INVARIANT: nothing here needs the network or the registry. A death is written down before it is judged, and an end
of the agent at its next start, so that a version which takes it down is counted across restarts; not a cut of power.
INVARIANT: what is held does not pass, however long: also when another version is wanted by then, or the agent starts
anew, and when the registry never comes back (it serves, is watched, and says so).
"""

from __future__ import annotations

import contextlib
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from agent.core.backoff import REPAIR_S, ROLLBACK_TRIES
from agent.core.lifecycle import Event, State
from agent.core.probation import Counts, Seen, Verdict, judge
from agent.core.slots import Looked, SlotRecord, Trial
from agent.errors import AgentError, PermanentError, TransientError
from agent.reconciler.installing import clear_if_tight, known_in, quarantined
from agent.reconciler.supervisor import BROKEN
from registry.contracts.codes import DeploymentCode
from registry.contracts.device.deployments import Phase
from registry.contracts.device.messages import Fault

if TYPE_CHECKING:
    from agent.reconciler.slot import Slot

LOOK_EVERY_S = 1.0
_HELD = "the rollout is paused: it serves and is watched, and is not committed before that ends"
ROLLS_BACK = frozenset({State.ROLLING_BACK, State.ROLLBACK_FAILED})
_NOTHING_TO_WATCH = frozenset({State.SWITCHING, State.RETIRING})
"""What is counted may be another version's by now, or is not wanted any more."""
NOT_ITS_FAULT = BROKEN | {DeploymentCode.VARIANT_UNFIT, DeploymentCode.BACKEND_UNAVAILABLE}
"""Its files were damaged, or this host has changed."""


class Watchdog:
    """Of one slot; control thread only."""

    def __init__(self, slot: Slot) -> None:
        self._slot = slot
        self._began: float | None = None
        """When the probation began, or the agent that goes on with it (monotonic)."""
        self._look_at: float | None = None

    def next_due(self) -> float | None:
        """When it wants to look again."""
        return self._look_at if self._watches else None

    @property
    def _watches(self) -> bool:
        record = self._slot.record
        return record.on_trial() and record.state not in _NOTHING_TO_WATCH

    def begin(self) -> None:
        """The effect WATCH."""
        self._began = self._slot.context.clock.monotonic()
        if self._slot.record.trial is None:  # Desired again after all, when its probation was not over.
            self._write(Trial())
        self._slot.supervisor.tally.watching = True
        self.look()

    def end(self) -> None:
        """The effect UNWATCH."""
        self._slot.supervisor.tally.watching = False
        self._began = self._look_at = None

    def take_up(self) -> None:
        """The agent has just started: unless it was stopped in order, or the whole host with it, it ended in this
        version's probation. A cut of power is nobody's crash."""
        if self._watches:
            self._began = self._slot.context.clock.monotonic()
            trial = self._trial
            ended = not trial.stopped and self._slot.same_boot()
            self._write(trial.model_copy(update={"ends": trial.ends + ended, "stopped": False}))
            self.look()

    def stop(self) -> None:
        """The agent ends in order. A disk that does not take this lets it count as an end without an order."""
        if self._slot.record.on_trial():
            with contextlib.suppress(AgentError):
                self._write(self._trial.model_copy(update={"stopped": True}))

    def died(self) -> None:
        """Its worker died, or could not be started again."""
        if self._watches:
            self._write(self._trial.model_copy(update={"deaths": self._trial.deaths + 1}))
            self.look()

    def tend(self) -> None:
        """Looks, while there is something to watch."""
        if self._watches:
            self.look()

    def look(self) -> None:
        """Judges what was counted so far; on a timer, and when something died."""
        slot = self._slot
        now = slot.context.clock.monotonic()
        self._look_at = now + LOOK_EVERY_S
        slot.supervisor.tally.watching, slot.supervisor.tally.known = True, known_in(self._trial.before)
        self._heed_hold()
        over = (
            not self._trial.held
            and self._began is not None
            and now >= self._began + slot.policy.probation_s
            and slot.supervisor.answers(slot.record.active)
        )
        verdict = judge(slot.policy.probation, self._counts(), over=over)
        if verdict is None:
            return
        if verdict.code:
            self.fail(verdict)
        elif slot.record.state is State.PROBATION:
            passed = Fault(code="", message=verdict.message)
            slot.move(Event.PROBATION_PASSED, proven=True, trial=None, looked=self._looked(), fault=passed)
        else:
            changes = {"proven": True, "trial": None, "looked": self._looked()}
            slot.save(slot.record.model_copy(update=changes))
            self.end()

    def _heed_hold(self) -> None:
        """What its policy says now; a version that was overtaken keeps what it was told last."""
        record, trial, held = self._slot.record, self._trial, self._slot.policy.hold
        told = record.fault is not None and record.fault.code == DeploymentCode.HELD
        if record.state is not State.PROBATION or (trial.held, told) == (held, held):
            return
        since = record.since or self._slot.context.clock.now()
        until = None if held else since + timedelta(seconds=self._slot.policy.probation_s)
        fault = Fault(code=DeploymentCode.HELD, message=_HELD) if held else None
        changes = {"trial": trial.model_copy(update={"held": held}), "fault": fault, "until": until}
        self._slot.save(record.model_copy(update=changes))

    def fail(self, verdict: Verdict) -> None:
        """Quarantines what serves and goes back. Without a previous version it goes on answering as well as it can: a
        device that answers badly is worth more than one that does not answer."""
        slot, record = self._slot, self._slot.record
        changes = {**_back_to_previous(record), "active": record.previous or record.active}
        if record.active is not None:
            changes["quarantine"] = quarantined(slot, record.active, verdict.code, verdict.message)
        if record.state is State.PROBATION:
            fault = Fault(code=verdict.code, message=verdict.message[:2000])
            event = Event.PROBATION_FAILED if record.previous is not None else Event.GIVEN_UP
            slot.move(event, attempts=0, fault=fault, failed_in=Phase.PROBATION, **changes)
        else:
            self._fail_beside(verdict, changes)
        slot.revive()

    def _fail_beside(self, verdict: Verdict, changes: dict[str, Any]) -> None:
        """It was superseded, so this is no step of the deployment that the slot is about."""
        slot, bad = self._slot, self._slot.record.active
        slot.save(slot.record.model_copy(update=changes))
        self.end()
        text = f"{bad.version if bad is not None else 'what served'} fails its probation: {verdict.message}"
        slot.context.publisher.publish("worker", phase="taken_back", code=verdict.code, message=text, slot=slot.record)
        if bad != slot.record.active:
            slot.supervisor.stop_trying()
            clear_if_tight(slot)

    def lost(self, error: AgentError) -> None:
        """What should answer cannot be started here any more, and its probation is not what the slot is about.
        That was verified, see `supervisor.VERIFIED`: deployed anew, chosen by the facts of today."""
        slot, record = self._slot, self._slot.record
        slot.context.publisher.publish("worker", phase="lost", code=error.code, message=error.message, slot=record)
        back = _back_to_previous(record) if record.on_trial() else {"active": None, "proven": False}
        slot.save(record.model_copy(update=back))

    def came_up(self) -> None:
        """A worker of the active place answers: a rollback is done."""
        slot, record = self._slot, self._slot.record
        if record.state in ROLLS_BACK:
            bad = record.quarantine[-1] if record.quarantine else None
            fault = Fault(code=bad.code, message=bad.message) if bad is not None else None
            slot.move(Event.STEP_DONE, attempts=0, fault=fault, failed_in=Phase.PROBATION)

    def did_not_come_up(self, error: AgentError, tries: int = ROLLBACK_TRIES) -> bool:
        """A worker of the active place could not be started. False: it is no business of the watchdog."""
        slot, state = self._slot, self._slot.record.state
        if state is State.PROBATION:
            if error.code in NOT_ITS_FAULT:
                self._again(error)
            else:
                self.died()
            return slot.record.state is not State.PROBATION
        if self._watches and error.code not in NOT_ITS_FAULT:
            self.died()
            return not self._watches
        broken = isinstance(error, PermanentError) or error.code in BROKEN
        if state is State.ROLLING_BACK:
            return self._not_back(error, over=broken or slot.record.attempts + 1 >= tries)
        if state is State.ROLLBACK_FAILED:
            slot.move(Event.RETRY_LATER, **self._later(error))
            slot.supervisor.give_up()
            return True
        return False

    def _again(self, error: AgentError) -> None:
        """Deployed anew, without quarantine; the previous version answers meanwhile."""
        self._slot.failed(TransientError(error.code, error.message), **_back_to_previous(self._slot.record))

    def _not_back(self, error: AgentError, *, over: bool) -> bool:
        slot = self._slot
        attempts = slot.record.attempts + 1
        if not over:
            slot.save(slot.record.model_copy(update={"attempts": attempts}))
            return False
        slot.move(Event.GIVEN_UP, **self._later(error), failed_in=Phase.ROLLING_BACK)
        slot.supervisor.give_up()
        return True

    def _later(self, error: AgentError) -> dict[str, object]:
        """Why the previous version is not back, and when it is tried again."""
        slot = self._slot
        attempts = slot.record.attempts + 1
        text = f"the previous version does not come up: {error.code}: {error.message}"
        slot.retry_delay = REPAIR_S
        until = slot.context.clock.now() + timedelta(seconds=REPAIR_S)
        fault = Fault(code=DeploymentCode.ROLLBACK_FAILED, message=text[:2000], attempts=attempts)
        return {"attempts": attempts, "fault": fault, "until": until}

    def _counts(self) -> Counts:
        supervisor, trial = self._slot.supervisor, self._trial
        tally, crash, before = supervisor.tally, supervisor.crash, trial.before
        return Counts(
            answered=tally.answered,
            failed=tally.failed(),
            unexpected=tuple(tally.unexpected),
            before=None if before is None else Seen(before.answered, before.specials),
            comparable=self._comparable(),
            crashes=trial.deaths,
            ends=trial.ends,
            given_up=crash.message if supervisor.given_up and crash is not None else "",
            run=tally.run.view(),
            before_us=trial.before_us,
        )

    def _comparable(self) -> bool:
        """Is there anything that a NaN in an answer can be compared with?"""
        record = self._slot.record
        if self._trial.before is not None:
            return True
        return record.previous is not None or (record.active is not None and record.active.golden is not None)

    def _looked(self) -> Looked | None:
        seen = self._slot.supervisor.tally.seen()
        return Looked(answered=seen.answered, specials=seen.specials) if seen.answered else None

    @property
    def _trial(self) -> Trial:
        return self._slot.record.trial or Trial()

    def _write(self, trial: Trial) -> None:
        self._slot.save(self._slot.record.model_copy(update={"trial": trial}))


def _back_to_previous(record: SlotRecord) -> dict[str, Any]:
    """The last committed version is what should answer again; nothing, where there is none."""
    previous = record.previous
    return {"active": previous, "proven": previous is not None, "previous": None, "trial": None}
