"""Rows of rollouts and what may change them: finding one, moving one by compare-and-set, writing what devices became.

Also whose a device is by now: what its slot wants was written by this rollout, or somebody else took it since. These
are conditions on the actions of one rollout, so that any number of devices are one statement. A device that was never
offered the version is another's only once a person deployed to it after the rollout was planned.

Everything here works within the caller's transaction.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime

from sqlalchemy import ColumnElement, and_, case, delete, func, insert, literal, or_, select
from sqlalchemy.orm import Session, aliased

from registry.contracts.codes import ReasonCode
from registry.contracts.device.deployments import DeploymentPolicy, Phase
from registry.contracts.device.messages import DesiredModel
from registry.contracts.rollout.spec import RolloutSpec
from registry.contracts.rollout.states import ActionState, RolloutState, WaveState
from registry.contracts.rollout.views import RolloutEvent, RolloutReason
from registry.core.rollouts import actions
from registry.core.rollouts.actions import Action
from registry.core.rollouts.machine import AT_REST, FINAL, Move, RolloutTrigger, advance
from registry.db.fleet_rows import DeploymentRow
from registry.db.rollout_rows import ActionRow, RolloutHistoryRow, RolloutRow, StepRow, WaveRow
from registry.errors import PreconditionError
from registry.services.fleet.fleet_log import append
from registry.services.queries import found

BATCH = 500
"""Devices that one transaction changes, so that none holds the database for long."""
ACTIVE = tuple(state.value for state in RolloutState if state not in AT_REST)
OPEN = (*ACTIVE, RolloutState.DRAFT.value)
MAX_STEPS = 100
"""Of one device, the newest: what flaps for days fills no disk."""
_FORGET_EVERY = 50
"""Steps of a device after which its oldest are deleted."""
SYSTEM = ""
"""Who did it, where the registry itself did."""
BY_ROLLOUT = "rollout/"
"""How they begin who stand in deployments that no person made."""


def find_rollout(session: Session, name: str) -> RolloutRow:
    """The rollout of that id or name. Raises NotFoundError."""
    return found(
        session.scalar(select(RolloutRow).where(or_(RolloutRow.public == name, RolloutRow.name == name))),
        f"There is no rollout {name!r}.",
    )


def spec_of(row: RolloutRow) -> RolloutSpec:
    """What was asked for."""
    return RolloutSpec.model_validate_json(row.spec)


def reason_of(row: RolloutRow) -> RolloutReason:
    """Why it is where it is."""
    return RolloutReason(code=ReasonCode(row.reason), text=row.reason_text)


def by_of(row: RolloutRow) -> str:
    """Who stands in the deployments that it makes."""
    return BY_ROLLOUT + row.public


def require_revision(row: RolloutRow, revision: int) -> None:
    """Raises PreconditionError when somebody moved it since."""
    if row.revision != revision:
        raise PreconditionError(
            f"Rollout {row.public} is at revision {row.revision} ({row.state}), not {revision}; read it again."
        )


def move(
    session: Session,
    row: RolloutRow,
    cause: Move,
    reason: RolloutReason,
    now: datetime,
    *,
    by: str = SYSTEM,
    note: str = "",
) -> RolloutState:
    """Take one edge of the machine; the revision rises. Raises InvalidMoveError.

    The caller has checked the revision in this same transaction, whose isolation makes that a compare-and-set.
    """
    before = RolloutState(row.state)
    after = advance(before, cause)
    if after is None:
        raise ValueError(f"{cause} removes a rollout; it does not move it")
    row.state, row.since, row.revision = after.value, now, row.revision + 1
    row.reason, row.reason_text = reason.code.value, reason.text[:2048]
    row.ended_at = now if after in FINAL else None
    record(session, row, before, cause.value, now, by=by, note=note)
    return after


def record(
    session: Session,
    row: RolloutRow,
    before: RolloutState | None,
    cause: str,
    now: datetime,
    *,
    by: str = SYSTEM,
    note: str = "",
) -> None:
    """A line of the history and an event, for the row as it stands now."""
    session.add(
        RolloutHistoryRow(
            rollout_id=row.id, at=now, revision=row.revision, generation=row.generation,
            before=before.value if before else None, after=row.state, cause=cause, by=by,
            reason=row.reason, reason_text=row.reason_text, note=note,
        )
    )  # fmt: skip
    append(session, [event_of(row, "rollout", now)])


def event_of(row: RolloutRow, kind: str, now: datetime, **more: object) -> RolloutEvent:
    """An event about the rollout as it stands now."""
    base = RolloutEvent(
        cursor=0,
        at=now,
        kind=kind,
        rollout=row.public,
        state=RolloutState(row.state),
        revision=row.revision,
        reason=reason_of(row),
    )
    return base.model_copy(update=more)


def set_wave(session: Session, row: RolloutRow, wave: WaveRow, state: WaveState, now: datetime) -> None:
    """The wave's state, with an event."""
    wave.state = state.value
    append(session, [event_of(row, "wave", now, wave=wave.number, wave_state=state)])


def as_action(row: ActionRow, rollout: str) -> Action:
    """The row as the core sees it."""
    return Action(
        rollout=rollout,
        attempt=row.attempt,
        target=row.target,
        state=ActionState(row.state),
        since=row.since,
        phase=Phase(row.phase) if row.phase else None,
        phase_since=row.told_at,
        failed_in=Phase(row.failed_in) if row.failed_in else None,
        code=row.code,
        message=row.message,
        until=row.until,
        late=row.late,
    )


def put_action(row: ActionRow, after: Action, due: datetime | None) -> None:
    """The core's answer into the row."""
    row.state, row.since, row.due = after.state.value, after.since, due
    row.phase = after.phase.value if after.phase else None
    row.told_at, row.until, row.late = after.phase_since, after.until, after.late
    row.failed_in = after.failed_in.value if after.failed_in else None
    row.code, row.message = after.code[:64], after.message[:2048]
    if after.state in actions.SUCCESS and row.committed_at is None:
        row.committed_at = after.since


def policy_of(row: RolloutRow, spec: RolloutSpec) -> DeploymentPolicy:
    """How devices carry out this generation: a rollback waits for no window and shadows nothing."""
    if row.state == RolloutState.ROLLING_BACK.value:
        return spec.policy.model_copy(update={"urgent": True, "shadow": None})
    return spec.policy


def previous_of(row: ActionRow) -> DesiredModel | None:
    """The device's own last good; None: it served nothing."""
    return DesiredModel.model_validate_json(row.previous) if row.previous else None


class Changes:
    """Collects what devices became, and writes their steps and events together."""

    def __init__(self, session: Session, row: RolloutRow, now: datetime) -> None:
        self._session, self._row, self.spec, self._now = session, row, spec_of(row), now
        self._steps: list[dict[str, object]] = []
        self._long: set[int] = set()
        """Actions with more steps than are kept."""
        self._events: list[RolloutEvent] = []

    def put(self, row: ActionRow, after: Action | None) -> bool:
        """Write the core's answer; None changes nothing. Whether it changed."""
        if after is None:
            return False
        before, said = row.state, (row.state, row.code, row.message)
        policy, timeouts = policy_of(self._row, self.spec), self.spec.timeouts
        due = row.due
        if (row.state, row.since) != (after.state.value, after.since):
            due = actions.due(after.state, after.since, timeouts, policy, held=row.held)
        put_action(row, after, due)
        if row.state != before or (row.code and said != (row.state, row.code, row.message)):
            self._step(row)  # an event and the report after it tell one step twice
        if row.state != before and after.state in actions.FINAL:
            more = {"device": row.device, "device_state": after.state, "wave": row.wave, "code": row.code}
            self._events.append(event_of(self._row, "device", self._now, **more))
        return True

    def set(
        self, rows: Iterable[ActionRow], state: ActionState, code: str = "", message: str = ""
    ) -> Sequence[ActionRow]:
        """What the registry decides about devices; those that are beyond it stay. Returns those that changed."""
        return [
            row
            for row in rows
            if self.put(row, actions.set_by_registry(as_action(row, self._row.public), state, self._now, code, message))
        ]

    def flush(self) -> None:
        """Write the rows, their steps and events."""
        self._session.flush()
        if self._steps:
            self._session.execute(insert(StepRow), self._steps)
        for action in sorted(self._long):
            _forget_oldest(self._session, action)
        append(self._session, self._events)
        self._steps, self._events, self._long = [], [], set()

    def _step(self, row: ActionRow) -> None:
        row.steps += 1
        if row.steps > MAX_STEPS and row.steps % _FORGET_EVERY == 0:
            self._long.add(row.id)
        self._steps.append(
            {
                "action_id": row.id,
                "at": self._now,
                "generation": row.generation,
                "attempt": row.attempt,
                "state": row.state,
                "code": row.code,
                "message": row.message,
            }
        )


def put_state(
    session: Session,
    row: RolloutRow,
    rows: Iterable[ActionRow],
    state: ActionState,
    now: datetime,
    *,
    code: str = "",
    message: str = "",
) -> Sequence[ActionRow]:
    """What the registry decides about devices, written at once. Returns those that changed."""
    changes = Changes(session, row, now)
    changed = changes.set(rows, state, code, message)
    changes.flush()
    return changed


def _forget_oldest(session: Session, action: int) -> None:
    newest = select(StepRow.id).where(StepRow.action_id == action).order_by(StepRow.id.desc())
    oldest_kept = newest.offset(MAX_STEPS - 1).limit(1).scalar_subquery()
    session.execute(delete(StepRow).where(StepRow.action_id == action, StepRow.id < oldest_kept))


_PLANNED = (RolloutTrigger.PLANNED.value, RolloutTrigger.PLANNED_FOR_APPROVAL.value)


def by_hand_since(row: RolloutRow) -> ColumnElement[bool]:
    """Of a deployment: a person made it for the rollout's model after the rollout was first planned."""
    planned = select(func.max(RolloutHistoryRow.at)).where(
        RolloutHistoryRow.rollout_id == row.id, RolloutHistoryRow.generation == 1, RolloutHistoryRow.cause.in_(_PLANNED)
    )
    by_person = ~DeploymentRow.set_by.startswith(BY_ROLLOUT)
    return (DeploymentRow.model == row.model) & by_person & (DeploymentRow.set_at > planned.scalar_subquery())


def is_taken(row: RolloutRow) -> ColumnElement[bool]:
    """Of an action: somebody else took the device since its offer or, was it never offered it, since the plan."""
    by_hand = select(DeploymentRow.model).where(DeploymentRow.device_id == ActionRow.device_id, by_hand_since(row))
    return case((ActionRow.offered_at.is_(None), by_hand.exists()), else_=~_still_ours(row))


def still_wants_it(row: RolloutRow) -> ColumnElement[bool]:
    """Of an action: its slot wants the rollout's version, by this rollout."""
    slot = select(DeploymentRow.model).where(
        DeploymentRow.device_id == ActionRow.device_id, DeploymentRow.model == row.model
    )
    return slot.where(DeploymentRow.set_by == by_of(row), DeploymentRow.manifest == row.manifest).exists()


BY_PERSON = literal("a deployment by ")


def called(rollout: type[RolloutRow]) -> ColumnElement[str]:
    """A rollout's name and version, as part of a sentence."""
    return literal("rollout ") + func.coalesce(rollout.name, rollout.public) + literal(" of ") + rollout.version


def taker(row: RolloutRow) -> ColumnElement[str]:
    """Of an action whose device was taken: by whom, as a sentence."""
    other = aliased(RolloutRow)
    who = (
        select(case((other.id.is_not(None), called(other)), else_=BY_PERSON + DeploymentRow.set_by))
        .select_from(DeploymentRow)
        .outerjoin(other, DeploymentRow.set_by == literal(BY_ROLLOUT) + other.public)
        .where(DeploymentRow.device_id == ActionRow.device_id, DeploymentRow.model == row.model)
        .correlate(ActionRow)
    )
    return func.coalesce(who.scalar_subquery(), literal("whoever removed the model from it")) + literal(" took it")


def _still_ours(row: RolloutRow) -> ColumnElement[bool]:
    """Of an action: what its slot wants was written by this rollout, or it wants nothing, as before the rollout."""
    slot = select(DeploymentRow.model).where(
        DeploymentRow.device_id == ActionRow.device_id, DeploymentRow.model == row.model
    )
    emptied = and_(ActionRow.previous_manifest.is_(None), ~slot.exists())
    return or_(slot.where(DeploymentRow.set_by == by_of(row)).exists(), emptied)
