"""The use cases of rollouts: making one (`drafts`), commands, approval, reading.

Every command names the revision that was seen and may carry an idempotency key; a repeat gets the first answer. What
follows from a command (offers, withdrawals, the way back) is the ticker's, which is woken after the commit.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy import select
from sqlalchemy.orm import Session

from registry.contracts.codes import ReasonCode
from registry.contracts.rollout.spec import MAX_VALID_S, RolloutSpec
from registry.contracts.rollout.states import Command, RolloutState
from registry.contracts.rollout.views import (
    ActionView,
    Approval,
    CommandBody,
    HistoryEntry,
    PlanView,
    RolloutReason,
    RolloutView,
)
from registry.core.rollouts.machine import InvalidMoveError, legal
from registry.db.after_commit import Changed, announce
from registry.db.engine import Database
from registry.db.rollout_rows import ActionRow, RolloutHistoryRow, RolloutRow
from registry.errors import ConflictError, ForbiddenError, InvalidError, NotFoundError, PreconditionError
from registry.services.idempotency import first_answer, remember
from registry.services.queries import given
from registry.services.rollouts.drafts import change_draft, make_draft, named, require_time, with_missing
from registry.services.rollouts.effects import EFFECTS, retry
from registry.services.rollouts.planning import find_manifest, work_out
from registry.services.rollouts.store import find_rollout, move, reason_of, require_revision, spec_of
from registry.services.rollouts.targets import let_go
from registry.services.rollouts.views import action_views, history_entry, rollout_view
from registry.services.views import find_version


class Rollouts:
    """Thread-safe."""

    def __init__(self, database: Database, *, two_person: bool = False) -> None:
        self._database, self._two_person = database, two_person

    def create(self, spec: RolloutSpec, key: str | None, by: str, now: datetime) -> RolloutView:
        """A draft.

        Raises:
            NotFoundError: no such version, alias or group.
            InvalidError: a selector is none.
            ConflictError: a rollout has this name.
        """
        request = b"create " + spec.canonical()
        with self._database.write() as session:
            if (answer := first_answer(session, by, key, request, now)) is not None:
                return RolloutView.model_validate_json(answer)
            if spec.name is not None and named(session, spec.name) is not None:
                raise ConflictError(f"There is a rollout named {spec.name!r}; apply changes it while it is a draft.")
            view = rollout_view(session, make_draft(session, spec, by, now))
            remember(session, by, key, request, answer=view.model_dump_json(), now=now)
            return view

    def apply(self, name: str, spec: RolloutSpec, by: str, now: datetime) -> tuple[RolloutView, bool]:
        """The rollout of that name is this one: made when it is not there, changed while it is a draft.

        Returns:
            The rollout, and whether it is new.

        Raises:
            ConflictError: it has begun with another spec; `errors` names the differences.
        """
        if spec.name not in (None, name):
            raise InvalidError(f"The spec is named {spec.name!r}, the path says {name!r}.")
        spec = spec.model_copy(update={"name": name})
        with self._database.write() as session:
            row = named(session, name)
            created = row is None
            if row is None:
                row = make_draft(session, spec, by, now)
            elif row.spec != spec.canonical().decode():
                change_draft(session, row, spec, by, now)
            return rollout_view(session, row), created

    def command(self, name: str, body: CommandBody, key: str | None, by: str, now: datetime) -> RolloutView:
        """Carry a command out.

        Raises:
            PreconditionError: somebody moved it since `body.revision`.
            ConflictError: not legal in its state; `errors` names what is.
        """
        if body.command in (Command.APPROVE, Command.DENY):
            raise InvalidError("Approve and deny with the plan's digest, at the path `approval`.")
        request = f"command {name} ".encode() + body.canonical()
        with self._database.write() as session:
            if (answer := first_answer(session, by, key, request, now)) is not None:
                return RolloutView.model_validate_json(answer)
            row = find_rollout(session, name)
            require_revision(row, body.revision)
            view = self._carry_out(session, row, body, by, now)
            remember(session, by, key, request, answer=view.model_dump_json(), now=now)
            announce(session, Changed.ROLLOUTS)
            return view

    def _carry_out(self, session: Session, row: RolloutRow, body: CommandBody, by: str, now: datetime) -> RolloutView:
        _require_legal(row, body.command)
        if body.command is Command.DELETE:
            view = rollout_view(session, row)
            let_go(session, row, now)
            session.delete(row)
            return view
        forced = body.force and body.command is Command.RESUME
        said = f"{body.command}{' --force' if forced else ''} by {by}"
        if body.command in (Command.RETRY, Command.ROLLBACK):
            row.generation += 1
        if body.command is Command.SUBMIT:
            spec = spec_of(row)
            require_time(spec, now)
            row.submitted_by, row.approved_by = by, ""
            row.valid_until = spec.valid_until or max(now, spec.start_at or now) + timedelta(seconds=MAX_VALID_S)
        if body.command is Command.RETRY:
            row.submitted_by, row.approved_by = by, ""
            if row.valid_until is None or row.valid_until <= now:
                row.valid_until = now + timedelta(seconds=MAX_VALID_S)
            said += retry(session, row, body.devices, now)
        reason = RolloutReason(code=_REASONS.get(body.command, ReasonCode.BY_COMMAND), text=said)
        move(session, row, body.command, reason, now, by=by, note=body.note)
        effect = EFFECTS.get(body.command)
        if effect is not None:
            effect(session, row, body, by, now)
        session.flush()
        return rollout_view(session, row)

    def approve(self, name: str, body: Approval, key: str | None, by: str, now: datetime) -> RolloutView:
        """Approve the plan that was read, or deny it.

        Raises:
            PreconditionError: the plan is another one now.
            ForbiddenError: the plan must be approved by another person than the one who submitted it.
        """
        request = f"approval {name} ".encode() + body.canonical()
        with self._database.write() as session:
            if (answer := first_answer(session, by, key, request, now)) is not None:
                return RolloutView.model_validate_json(answer)
            row = find_rollout(session, name)
            require_revision(row, body.revision)
            command = Command.APPROVE if body.approve else Command.DENY
            _require_legal(row, command)
            if row.plan_digest != body.plan:
                raise PreconditionError(f"The plan of rollout {row.public} is {row.plan_digest} now; read it again.")
            another = self._two_person or spec_of(row).approved_by_another
            if body.approve and another and by == row.submitted_by:
                raise ForbiddenError(f"{by!r} submitted this rollout; another person has to approve its plan.")
            row.approved_by = by if body.approve else ""
            code = ReasonCode.NOT_YET_TIME if body.approve else ReasonCode.DENIED
            move(session, row, command, RolloutReason(code=code, text=f"{command} by {by}"), now, by=by, note=body.note)
            view = rollout_view(session, row)
            remember(session, by, key, request, answer=view.model_dump_json(), now=now)
            announce(session, Changed.ROLLOUTS)
            return view

    def get(self, name: str, now: datetime) -> RolloutView:
        """One rollout, by id or name. Raises NotFoundError."""
        with self._database.read() as session:
            return rollout_view(session, find_rollout(session, name), now)

    def page(
        self, model: str | None, state: RolloutState | None, before: int, limit: int
    ) -> list[tuple[int, RolloutView]]:
        """Up to `limit` rollouts below the key `before`, newest first, with their keys."""
        query = select(RolloutRow).where(RolloutRow.id < before)
        query = query.where(*given((RolloutRow.model, model), (RolloutRow.state, state and state.value)))
        with self._database.read() as session:
            rows = session.scalars(query.order_by(RolloutRow.id.desc()).limit(limit)).all()
            return [(row.id, rollout_view(session, row)) for row in rows]

    def plan(self, name: str, now: datetime) -> PlanView:
        """The frozen plan; of one that has none, what it would be now. Raises NotFoundError, InvalidError."""
        with self._database.read() as session:
            row = find_rollout(session, name)
            if row.plan is not None and RolloutState(row.state) is not RolloutState.DRAFT:
                return PlanView.model_validate_json(row.plan)
            spec = spec_of(row)
            found = work_out(session, row.public, spec, find_manifest(session, row.manifest), now).view
            return with_missing(session, spec, found)

    def plan_only(self, spec: RolloutSpec, now: datetime) -> PlanView:
        """What a rollout would do; nothing is kept. Raises NotFoundError, InvalidError."""
        with self._database.read() as session:
            version = find_version(session, spec.model, spec.version)
            found = work_out(session, "plan", spec, find_manifest(session, version.manifest), now).view
            return with_missing(session, spec, found)

    def devices(  # noqa: PLR0917 - as they stand in the path
        self, name: str, state: str | None, wave: int | None, after: str, limit: int, now: datetime
    ) -> list[ActionView]:
        """Up to `limit` devices by name, after the name `after`; only in this state, this wave. NotFoundError."""
        with self._database.read() as session:
            row = find_rollout(session, name)
            query = select(ActionRow).where(ActionRow.rollout_id == row.id, ActionRow.device > after)
            query = query.where(*given((ActionRow.state, state), (ActionRow.wave, wave)))
            return action_views(session, row, query.order_by(ActionRow.device).limit(limit), now, steps=False)

    def device(self, name: str, device: str, now: datetime) -> ActionView:
        """One device with its steps, and why it waits. NotFoundError when the rollout has no such device."""
        with self._database.read() as session:
            row = find_rollout(session, name)
            query = select(ActionRow).where(ActionRow.rollout_id == row.id, ActionRow.device == device)
            found = action_views(session, row, query, now, steps=True)
            if not found:
                raise NotFoundError(f"Rollout {row.public} has no device {device!r}.")
            return found[0]

    def history(self, name: str, before: int, limit: int) -> list[tuple[int, HistoryEntry]]:
        """Up to `limit` transitions below the key `before`, newest first, with their keys. NotFoundError."""
        with self._database.read() as session:
            row = find_rollout(session, name)
            query = select(RolloutHistoryRow).where(RolloutHistoryRow.rollout_id == row.id)
            query = query.where(RolloutHistoryRow.id < before).order_by(RolloutHistoryRow.id.desc()).limit(limit)
            return [(entry.id, history_entry(entry)) for entry in session.scalars(query)]


_REASONS = {
    Command.SUBMIT: ReasonCode.PLANNING,
    Command.RETRY: ReasonCode.PLANNING,
    Command.RESUME: ReasonCode.RELEASING,
}


def _require_legal(row: RolloutRow, command: Command) -> None:
    state = RolloutState(row.state)
    can = legal(state, row.generation)
    if command not in can:
        why = reason_of(row)
        raise ConflictError(
            f"Rollout {row.public}: {InvalidMoveError(state, command, can)}. "
            f"It is there because: {why.text or why.code}.",
            tuple(each.value for each in can),
        )
