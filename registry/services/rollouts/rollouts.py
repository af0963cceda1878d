"""The use cases of rollouts: making one, commands, approval, reading.

A spec is checked before it is kept, and its version is resolved then: an alias that moves later changes no rollout. A
rollout can be changed for as long as no device has heard of it.

Every command names the revision that was seen and may carry an idempotency key; a repeat gets the first answer. What
follows from a command and takes long (offers, withdrawals, the way back) is the ticker's, which is woken after the
commit.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from registry.contracts.api.answers import Scope
from registry.contracts.codes import DeviceReasonCode, ReasonCode
from registry.contracts.rollout.spec import MAX_VALID_S, RolloutSpec
from registry.contracts.rollout.states import ActionState, Command, RolloutState, WaveState
from registry.contracts.rollout.views import (
    MAX_NAMED,
    ActionView,
    Approval,
    CommandBody,
    HistoryEntry,
    PlanGap,
    PlanView,
    RolloutReason,
    RolloutView,
)
from registry.core.differences import differences
from registry.core.rollouts.gates import Kind, accepted_of
from registry.core.rollouts.machine import InvalidMoveError, legal
from registry.core.rollouts.waves import selectors
from registry.core.selectors import SelectorError
from registry.db.engine import Changed, Database, announce
from registry.db.fleet_rows import DeviceRow
from registry.db.rollout_rows import ActionRow, GroupDeviceRow, RolloutHistoryRow, RolloutRow, WaveRow
from registry.errors import ConflictError, InvalidError, NotFoundError, PreconditionError, YankedError
from registry.services.access.permits import require_fleet
from registry.services.access.principals import Principal, acting, person_behind
from registry.services.access.second_person import require_another
from registry.services.fleet.desired import find_device
from registry.services.fleet.groups import find_group
from registry.services.idempotency import first_answer, remember
from registry.services.queries import find_version, given, in_batches
from registry.services.rollouts.apply import begin_rollback, plan_again, remember_why_back
from registry.services.rollouts.planning import find_manifest, work_out
from registry.services.rollouts.snapshot import lost_of
from registry.services.rollouts.store import (
    by_of,
    find_rollout,
    move,
    reason_of,
    record,
    require_revision,
    set_wave,
    spec_of,
)
from registry.services.rollouts.tally import code_of, is_troubled, tally_of
from registry.services.rollouts.targets import let_go
from registry.services.rollouts.views import action_views, history_entry, rollout_view
from registry.services.withdrawn import require_not_yanked, yanked_manifest

MAX_OPEN = 1000
"""Rollouts that are not over; another one is refused."""
_PUBLIC = re.compile(r"r-[0-9a-f]{12}")
"""An id, by which a rollout is found as by its name."""
_CHANGEABLE = frozenset({RolloutState.DRAFT, RolloutState.DENIED})


MAX_TOLD = 5
"""Devices that a sentence names."""
_STOPPED = frozenset({WaveState.FAILED.value, WaveState.INCONCLUSIVE.value})


@dataclass(frozen=True)
class DeviceInRollout:
    """One device's part in a rollout."""

    rollout: str
    """Its name, or its id where it has none."""
    model: str
    version: str
    by: str
    """Who submitted it."""
    set_by: str
    """As a deployment says who set it."""
    action: ActionView


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

        def make(session: Session) -> RolloutView:
            if spec.name is not None and named(session, spec.name) is not None:
                raise ConflictError(f"There is a rollout named {spec.name!r}; apply changes it while it is a draft.")
            return rollout_view(session, make_draft(session, spec, by, now))

        return self._once(by, key, b"create " + spec.canonical(), now, make)

    def _once(
        self, by: str, key: str | None, request: bytes, now: datetime, work: Callable[[Session], RolloutView]
    ) -> RolloutView:
        """Do it in a transaction, unless the same request with this key was done before: then that one's answer."""
        with self._database.write() as session:
            answer = first_answer(session, by, key, request, now)
            if answer is not None:
                return RolloutView.model_validate_json(answer)
            view = work(session)
            remember(session, by, key, request, answer=view.model_dump_json(), now=now)
            announce(session, Changed.ROLLOUTS)
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
        return self._once(by, key, request, now, lambda session: _carry_out(session, name, body, by, now))

    def approve(self, name: str, body: Approval, key: str | None, by: str, now: datetime) -> RolloutView:
        """Approve the plan that was read, or deny it.

        Raises:
            PreconditionError: the plan is another one now.
            ForbiddenError: the plan must be approved by another person than the one who submitted it.
        """

        def decide(session: Session) -> RolloutView:
            command = Command.APPROVE if body.approve else Command.DENY
            row = _commanded(session, name, command, body.revision)
            require_fleet(session, Scope.APPROVE, row.model, spec_of(row).fleet)
            if body.approve:
                _require_not_yanked(session, row)
            if row.plan_digest != body.plan:
                raise PreconditionError(f"The plan of rollout {row.public} is {row.plan_digest} now; read it again.")
            another = self._two_person or spec_of(row).approved_by_another
            if body.approve and another:
                actor = acting()
                who = actor.principal if actor is not None else Principal(by, Scope.APPROVE, person=by)
                require_another(who, row.submitted_by, row.submitted_person)
            row.approved_by = by if body.approve else ""
            code = ReasonCode.NOT_YET_TIME if body.approve else ReasonCode.DENIED
            move(session, row, command, RolloutReason(code=code, text=f"{command} by {by}"), now, by=by, note=body.note)
            return rollout_view(session, row)

        return self._once(by, key, f"approval {name} ".encode() + body.canonical(), now, decide)

    def get(self, name: str, now: datetime) -> RolloutView:
        """One rollout, by id or name. Raises NotFoundError."""
        with self._database.read() as session:
            return rollout_view(session, find_rollout(session, name), now)

    def page(
        self, model: str | None, state: RolloutState | None, before: int, limit: int, *, still_open: bool = False
    ) -> list[tuple[int, RolloutView]]:
        """Up to `limit` rollouts below the key `before`, newest first, with their keys; `still_open`: none is over."""
        query = select(RolloutRow).where(RolloutRow.id < before)
        query = query.where(*given((RolloutRow.model, model), (RolloutRow.state, state and state.value)))
        if still_open:
            query = query.where(RolloutRow.ended_at.is_(None))
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
            require_not_yanked(version)
            found = work_out(session, "plan", spec, find_manifest(session, version.manifest), now).view
            return with_missing(session, spec, found)

    def devices(  # noqa: PLR0917 - as they stand in the path
        self,
        name: str,
        state: str | None,
        wave: int | None,
        after: str,
        limit: int,
        now: datetime,
        *,
        back: bool | None = None,
        trouble: bool = False,
        states: Collection[ActionState] = (),
        code: str | None = None,
    ) -> list[ActionView]:
        """Up to `limit` devices by name, after the name `after`. Raises NotFoundError.

        Args:
            state: Only in this state.
            wave: Only in this wave, or in it when they were told to go back.
            back: Only those that were told to go back; False: only the others.
            trouble: Only those that failed or fell silent, now or when they were told to go back.
            states: Only in one of these; none named: in any.
            code: Only with this code, now or when they were told to go back; empty: without one.
        """
        with self._database.read() as session:
            row = find_rollout(session, name)
            query = select(ActionRow).where(ActionRow.rollout_id == row.id, ActionRow.device > after)
            query = query.where(*given((ActionRow.state, state), (ActionRow.goes_back, back)))
            if wave is not None:
                query = query.where(or_(ActionRow.wave == wave, ActionRow.left_wave == wave))
            if trouble:
                query = query.where(is_troubled())
            if states:
                query = query.where(ActionRow.state.in_([each.value for each in states]))
            if code is not None:
                query = query.where(code_of() == code)
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

    def of_device(self, device: str, limit: int, now: datetime) -> list[DeviceInRollout]:
        """The newest rollouts that this device is or was in, with its steps. NotFoundError."""
        with self._database.read() as session:
            row = find_device(session, device)
            query = select(RolloutRow).join(ActionRow, ActionRow.rollout_id == RolloutRow.id)
            query = query.where(ActionRow.device_id == row.id).order_by(RolloutRow.id.desc()).limit(limit)
            found = []
            for rollout in session.scalars(query).all():
                own = select(ActionRow).where(ActionRow.rollout_id == rollout.id, ActionRow.device_id == row.id)
                action = action_views(session, rollout, own, now, steps=True)[0]
                name = rollout.name or rollout.public
                found.append(
                    DeviceInRollout(name, rollout.model, rollout.version, rollout.submitted_by, by_of(rollout), action)
                )
            return found

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


_OFFERS = frozenset({Command.SUBMIT, Command.RESUME, Command.RETRY})
"""After these devices get the version that had not got it."""


def _require_not_yanked(session: Session, row: RolloutRow) -> None:
    if text := yanked_manifest(session, row.model, row.version):
        can = [each for each in legal(RolloutState(row.state), row.generation) if each not in _OFFERS]
        left = f"what can be done with it: {', '.join(can)}" if can else "nothing can be done with it"
        raise YankedError(f"{text}. Rollout {row.public} offers it to nobody more; {left}.")


def _carry_out(session: Session, name: str, body: CommandBody, by: str, now: datetime) -> RolloutView:
    row = _commanded(session, name, body.command, body.revision)
    require_fleet(session, Scope.DEPLOY, row.model, spec_of(row).fleet)
    if body.command in _OFFERS:
        _require_not_yanked(session, row)
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
        row.submitted_by, row.submitted_person, row.approved_by = by, person_behind(by), ""
        row.valid_until = spec.valid_until or max(now, spec.start_at or now) + timedelta(seconds=MAX_VALID_S)
    if body.command is Command.RETRY:
        row.submitted_by, row.submitted_person, row.approved_by = by, person_behind(by), ""
        if row.valid_until is None or row.valid_until <= now:
            row.valid_until = now + timedelta(seconds=MAX_VALID_S)
        said += retry(session, row, body.devices, now)
    reason = RolloutReason(code=_REASONS.get(body.command, ReasonCode.BY_COMMAND), text=said)
    if body.command is Command.ROLLBACK:
        remember_why_back(session, row, now, by=by, note=body.note)
    move(session, row, body.command, reason, now, by=by, note=body.note)
    if body.command is Command.RESUME:
        _resume(session, row, by, now, force=body.force)
    elif body.command is Command.ROLLBACK:
        begin_rollback(session, row, now)
    session.flush()
    return rollout_view(session, row)


def _commanded(session: Session, name: str, command: Command, revision: int) -> RolloutRow:
    """The rollout, of which this was seen and to which this may happen. Raises PreconditionError, ConflictError."""
    row = find_rollout(session, name)
    require_revision(row, revision)
    state = RolloutState(row.state)
    can = legal(state, row.generation)
    if command not in can:
        why = reason_of(row)
        raise ConflictError(
            f"Rollout {row.public}: {InvalidMoveError(state, command, can)}. "
            f"It is there because: {why.text or why.code}.",
            tuple(each.value for each in can),
        )
    return row


def named(session: Session, name: str) -> RolloutRow | None:
    """The rollout of that name, if there is one."""
    return session.scalar(select(RolloutRow).where(RolloutRow.name == name))


def require_time(spec: RolloutSpec, now: datetime) -> None:
    """Raises InvalidError when the rollout would end before it could begin."""
    if spec.valid_until is not None and spec.valid_until <= now:
        raise InvalidError(f"valid_until, {spec.valid_until.isoformat(timespec='seconds')}, is over.")


def _check(session: Session, spec: RolloutSpec, now: datetime) -> None:
    require_time(spec, now)
    if spec.name is not None and _PUBLIC.fullmatch(spec.name):
        raise InvalidError(f"{spec.name!r} has the form of a rollout's id; give it another name.")
    try:
        selectors(spec)
    except SelectorError as error:
        raise InvalidError(f"{error}.") from error
    for group in spec.fleet.groups:
        find_group(session, group)


def make_draft(session: Session, spec: RolloutSpec, by: str, now: datetime) -> RolloutRow:
    """A new rollout, whose name the caller found free.

    Raises:
        NotFoundError: no such version, alias or group.
        InvalidError: a selector is none, its time is over, or the name has the form of an id.
        YankedError: the version was yanked.
        ConflictError: MAX_OPEN are not over.
    """
    _check(session, spec, now)
    require_fleet(session, Scope.DEPLOY, spec.model, spec.fleet)
    still_open = select(RolloutRow.id).where(RolloutRow.ended_at.is_(None)).limit(MAX_OPEN)
    if len(session.scalars(still_open).all()) >= MAX_OPEN:
        raise ConflictError(f"{MAX_OPEN} rollouts are not over; end or delete some first.")
    version = find_version(session, spec.model, spec.version)
    require_not_yanked(version)
    row = RolloutRow(
        public=f"r-{secrets.token_hex(6)}", name=spec.name, model=spec.model, version=version.version,
        manifest=version.manifest, spec=spec.canonical().decode(), state=RolloutState.DRAFT.value, revision=1,
        generation=1, reason=ReasonCode.NEW.value, reason_text="", since=now, created_at=now, created_by=by,
        tokens=0.0, byte_tokens=0.0,
    )  # fmt: skip
    session.add(row)
    session.flush()
    record(session, row, None, "create", now, by=by, note=spec.note)
    return row


def change_draft(session: Session, row: RolloutRow, spec: RolloutSpec, by: str, now: datetime) -> None:
    """It asks for this now; what was planned is void.

    Raises:
        NotFoundError: no such version, alias or group.
        InvalidError: a selector is none, or its time is over.
        ConflictError: it has begun with another spec; `errors` names the differences.
    """
    if RolloutState(row.state) not in _CHANGEABLE or row.generation > 1:  # devices may have the earlier one
        raise ConflictError(
            f"Rollout {row.name!r} is {row.state} with another spec; give the new one another name.",
            differences(json.loads(row.spec), spec.to_json()),
        )
    _check(session, spec, now)
    before = spec_of(row)
    require_fleet(session, Scope.DEPLOY, before.model, before.fleet)
    require_fleet(session, Scope.DEPLOY, spec.model, spec.fleet)
    version = find_version(session, spec.model, spec.version)
    require_not_yanked(version)
    row.spec, row.model = spec.canonical().decode(), spec.model
    row.version, row.manifest, row.plan, row.plan_digest = version.version, version.manifest, None, None
    row.revision += 1
    record(session, row, RolloutState(row.state), "change", now, by=by, note=spec.note)


def with_missing(session: Session, spec: RolloutSpec, found: PlanView) -> PlanView:
    """The plan, which says also of names in the fleet and its groups that no device has them: most are misspelt.

    They are no part of its digest: a device may be registered later, and joins as a newcomer.
    """
    listed = select(GroupDeviceRow.device).where(GroupDeviceRow.group.in_(spec.fleet.groups))
    asked = sorted({*spec.fleet.devices, *session.scalars(listed)})
    known = {name for (name,) in in_batches(session, select(DeviceRow.name), DeviceRow.name, asked)}
    missing = tuple(name for name in asked if name not in known)
    if not missing:
        return found
    why = "no device of this name is registered; once it is, it joins while the rollout runs"
    gap = PlanGap(code=DeviceReasonCode.NOT_REGISTERED, why=why, count=len(missing), devices=missing[:MAX_NAMED])
    return found.model_copy(update={"nothing": (*found.nothing, gap)})


def _resume(session: Session, row: RolloutRow, by: str, now: datetime, *, force: bool) -> None:
    """What failed or is lost so far is accepted: gates and `max_unavailable` count from here. With `force` the wave
    that runs passes."""
    counts = tally_of(session, row.id).counts
    lost = lost_of(session, row, spec_of(row), now)
    query = select(WaveRow).where(WaveRow.rollout_id == row.id, WaveRow.kind != Kind.ROLLBACK.value)
    current = True
    for wave in session.scalars(query.order_by(WaveRow.number)).all():
        wave.accepted = asdict(accepted_of(counts.get(wave.number, {}), lost.get(wave.number, 0)))
        if wave.state == WaveState.PASSED.value:
            continue
        runs = current and wave.started_at is not None and wave.kind == Kind.WAVE.value
        current = False
        wave.started_at = now if wave.started_at is not None else None
        if wave.state in _STOPPED:
            wave.soak_since, wave.accepted_by = None, by
            set_wave(session, row, wave, WaveState.RELEASING, now)
        if force and runs:
            wave.passed_at, wave.accepted_by = now, by
            set_wave(session, row, wave, WaveState.PASSED, now)


def retry(session: Session, row: RolloutRow, devices: Sequence[str], now: datetime) -> str:
    """Plan devices again; who was left out and why, as the end of a sentence. Raises ConflictError when all were."""
    planned, left_out = plan_again(session, row, devices, now)
    left = _named(left_out)
    if not planned:
        raise ConflictError(f"No device of rollout {row.public} can be tried again{left}.")
    return left


def _named(left_out: Mapping[str, str]) -> str:
    """The first of them, each with its reason."""
    if not left_out:
        return ""
    told = [f"{device} ({why})" for device, why in list(left_out.items())[:MAX_TOLD]]
    more = len(left_out) - len(told)
    return f"; left out: {', '.join(told)}{f' and {more} more' if more else ''}"
