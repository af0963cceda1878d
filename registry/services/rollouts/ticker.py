"""What moves rollouts: looks at each one that is under way, by the clock and when something happened; and plans them.

One process leads by a lease; a step is safe when two take it. A rollout whose look fails holds up no other: it is
logged, and looked at again by the next tick. A tick also takes in newcomers and, when the wall clock was set, moves
the times of rollouts along with it.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any, TypeGuard

from sqlalchemy import Select, delete, insert, or_, select, update
from sqlalchemy.orm import Session

from registry.contracts.codes import DeploymentCode
from registry.contracts.rollout.spec import RolloutSpec
from registry.contracts.rollout.states import ActionState, RolloutState
from registry.core.clock_steps import ClockSteps
from registry.core.rollouts import actions
from registry.core.rollouts.decide import decide
from registry.core.rollouts.machine import TELLS_HOLD, WITHDRAWS, holds
from registry.core.rollouts.waves import position, tail
from registry.db.engine import Changed, Database
from registry.db.fleet_rows import DeploymentRow, DeviceRow
from registry.db.rollout_rows import ActionRow, RolloutRow, WaveRow
from registry.errors import InTheWayError, InvalidError, NotFoundError, TemporaryError
from registry.log_format import ids
from registry.services.fleet.groups import in_fleet
from registry.services.rollouts.apply import apply
from registry.services.rollouts.planning import LeaderLease, Planner, serving
from registry.services.rollouts.snapshot import take_snapshot
from registry.services.rollouts.store import ACTIVE, BATCH, Changes, policy_of, put_state, spec_of
from registry.services.rollouts.targets import hold, variants_for

_LEAVES = tuple(state.value for state in actions.PARKED | actions.IN_FLIGHT)


MAX_STEPS = 64
"""Looks at one rollout in one tick; the next tick goes on."""
SWEEP_S = 30.0
"""How often the fleet is compared with the actions though nothing said that it changed."""
_BEFORE_SWITCH = tuple(state.value for state in actions.BEFORE_SWITCH)
_WITHDRAWS = tuple(state.value for state in WITHDRAWS)
_MAY_HOLD = tuple(state.value for state in actions.MAY_HOLD)
log = logging.getLogger(__name__)


class Ticker:
    """Ticks and plans. Thread-safe: of two ticks in one process the second waits for the first."""

    def __init__(
        self,
        database: Database,
        planner: Planner,
        *,
        steady: Callable[[], float] | None = None,
        holder: str | None = None,
    ) -> None:
        """`steady`: the monotonic clock, by which a tick notices that the wall clock was set; None: nobody sets it.
        `holder`: of the lease; None: this object alone."""
        self._steady, self._steps, self._behind = steady, ClockSteps(), 0.0
        self._database, self._planner = database, planner
        self._lease = LeaderLease(database, "rollouts", holder)
        self._one = threading.Lock()
        self._fleet_changed = threading.Event()
        self._swept: datetime | None = None
        database.listeners.add(Changed.FLEET, lambda _: self._fleet_changed.set())

    def tick(self, now: datetime, stop: Callable[[], bool] = lambda: False) -> bool:
        """Look at every rollout that is under way; False when another process leads."""
        with self._one:
            self._keep_pace(now)
            with self._database.read() as session:
                active = select(RolloutRow.id, RolloutRow.public).where(RolloutRow.state.in_(ACTIVE))
                found = session.execute(active).all()
            if not found:
                return True
            if not self._lease.hold(now):
                return False
            sweep = self._is_sweep_due(now)
            for rollout_id, public in found:
                if stop():
                    break
                with self._safely(rollout_id, public):
                    self.look(rollout_id, now, sweep=sweep)
            return True

    def _keep_pace(self, now: datetime) -> None:
        """Before anything is decided by a clock that was set: see `shift`."""
        if self._steady is None:
            return
        self._behind += self._steps.moved(now.timestamp(), self._steady())
        if self._behind:
            rollouts = shift(self._database, timedelta(seconds=self._behind))
            log.warning("the clock was set by %+.0f s; moved the times of %d rollouts along", self._behind, rollouts)
            self._behind, self._swept = 0.0, None

    def plan(self, clock: Callable[[], datetime], stop: Callable[[], bool] = lambda: False) -> None:
        """Plan every rollout that waits for its plan, one after the other. That takes long: no tick waits for it."""
        with self._database.read() as session:
            waiting = select(RolloutRow.id, RolloutRow.public).where(RolloutRow.state == RolloutState.PLANNING.value)
            found = session.execute(waiting).all()
        for rollout_id, public in found:
            if stop():
                break
            with self._safely(rollout_id, public):
                if self._planner.run(rollout_id, clock, stop):
                    self.look(rollout_id, clock())

    def look(self, rollout_id: int, now: datetime, *, sweep: bool = False) -> None:
        """Decide and apply until nothing is decided any more."""
        if sweep:
            self._sweep(rollout_id, now)
        for _ in range(MAX_STEPS):
            self._sync_hold(rollout_id, now)  # before each step: the next one may end the rollout
            if not self._step(rollout_id, now):
                break

    def _sweep(self, rollout_id: int, now: datetime) -> None:
        try:
            _sweep_newcomers(self._database, rollout_id, now, joins=not self._planner.two_person)
        except (InvalidError, NotFoundError) as error:  # a group was deleted while the rollout was over
            log.warning("rollout %d takes in no newcomers: %s", rollout_id, error.message)

    @contextmanager
    def _safely(self, rollout_id: int, public: str) -> Iterator[None]:
        with ids(rollout=public):
            try:
                yield
            except InTheWayError as error:
                log.info("rollout %d: %s", rollout_id, error.message)
            except TemporaryError:
                pass  # the database or the disk has said it; the next tick tries again
            except Exception:
                log.exception("rollout %d could not be looked at; the next tick tries again", rollout_id)

    def _is_sweep_due(self, now: datetime) -> bool:
        fresh = self._swept is not None and self._swept <= now < self._swept + timedelta(seconds=SWEEP_S)
        due = self._fleet_changed.is_set() or not fresh
        if due:
            self._fleet_changed.clear()
            self._swept = now
        return due

    def _step(self, rollout_id: int, now: datetime) -> bool:
        """One look; True when something led on."""
        with self._database.read() as session:
            row = session.get(RolloutRow, rollout_id)
            if row is None or row.state not in ACTIVE:
                return False
            snapshot = take_snapshot(session, row, now)
        leads_on = False
        for decision in decide(snapshot, now):
            leads_on |= apply(self._database, rollout_id, row.revision, decision, now)
        return leads_on

    def _sync_hold(self, rollout_id: int, now: datetime) -> None:
        """Who has not committed holds while the rollout says so, and goes on with fresh time."""
        while True:
            with self._database.read() as session:
                row = session.get(RolloutRow, rollout_id)
                if not _tells(row) or session.scalar(_wrongly_held(row).limit(1)) is None:
                    return
            with self._database.write() as session:
                row = session.get(RolloutRow, rollout_id)
                if not _tells(row):
                    return
                _tell_hold(session, row, now)


def _tells(row: RolloutRow | None) -> TypeGuard[RolloutRow]:
    return row is not None and RolloutState(row.state) in TELLS_HOLD


def _wrongly_held(row: RolloutRow) -> Select[ActionRow]:
    wanted = holds(spec_of(row), RolloutState(row.state))
    query = select(ActionRow).where(ActionRow.rollout_id == row.id, ~ActionRow.held if wanted else ActionRow.held)
    if wanted:
        return query.where(ActionRow.state.in_(_MAY_HOLD), ActionRow.goes_back.is_(False))
    # Who has not switched is not let go when it is about to be withdrawn.
    return query.where(ActionRow.state.not_in(_BEFORE_SWITCH)) if row.state in _WITHDRAWS else query


def _tell_hold(session: Session, row: RolloutRow, now: datetime) -> None:
    spec = spec_of(row)
    wanted = holds(spec, RolloutState(row.state))
    rows = session.scalars(_wrongly_held(row).limit(BATCH)).all()
    for each in rows:
        each.held = wanted
        state = ActionState(each.state)
        if state in actions.WAITS_HELD:
            each.due = actions.due(state, now, spec.timeouts, policy_of(row, spec), held=wanted)
    hold(session, row, rows, now)


def _sweep_newcomers(database: Database, rollout_id: int, now: datetime, *, joins: bool) -> None:
    """Devices that match by now join the rollout's tail wave: registered, relabelled, or known well enough since then.

    Where two people are asked for, none joins (`joins`): the plan that was approved is what happens, and nobody adds
    to it alone by labels or groups. Devices that were deleted leave. Level-triggered: found by comparing the fleet with
    the actions, a batch a transaction.
    """
    while _newcomers(database, rollout_id, now, joins=joins) >= BATCH:
        pass


def _newcomers(database: Database, rollout_id: int, now: datetime, *, joins: bool) -> int:
    with database.read() as session:
        row = session.get(RolloutRow, rollout_id)
        if row is None or not _anything(session, row, spec_of(row), joins=joins):
            return 0
    with database.write() as session:
        row = session.get(RolloutRow, rollout_id)
        if row is None:
            return 0
        spec = spec_of(row)
        gone = _gone(session, row, now)
        if row.state != RolloutState.RUNNING.value or not spec.newcomers or not joins:
            return gone
        return gone + _join(session, row, spec, now) + _fit_by_now(session, row, spec, now)


def _anything(session: Session, row: RolloutRow, spec: RolloutSpec, *, joins: bool) -> bool:
    if session.scalar(_left(row).limit(1)) is not None:
        return True
    if row.state != RolloutState.RUNNING.value or not spec.newcomers or not joins:
        return False
    new = session.execute(_new(session, row, spec).limit(1)).first()
    return new is not None or session.execute(_known_by_now(row).limit(1)).first() is not None


def _left(row: RolloutRow):  # type: ignore[no-untyped-def]
    return select(ActionRow).where(
        ActionRow.device_id.is_(None), ActionRow.rollout_id == row.id, ActionRow.state.in_(_LEAVES)
    )


def _new(session: Session, row: RolloutRow, spec: RolloutSpec):  # type: ignore[no-untyped-def]
    has = select(ActionRow.id).where(ActionRow.device_id == DeviceRow.id, ActionRow.rollout_id == row.id)
    query = select(DeviceRow.id, DeviceRow.name, DeviceRow.facts_digest)
    return query.where(in_fleet(session, spec.fleet), ~has.exists())


def _known_by_now(row: RolloutRow):  # type: ignore[no-untyped-def]
    query = select(ActionRow, DeviceRow.facts_digest).join(DeviceRow, DeviceRow.id == ActionRow.device_id)
    changed = DeviceRow.facts_digest.is_not(None) & DeviceRow.facts_digest.is_distinct_from(ActionRow.facts)
    unfit = (
        ActionRow.rollout_id == row.id,
        ActionRow.state == ActionState.INCOMPATIBLE.value,
        ActionRow.goes_back.is_(False),
    )
    return query.where(*unfit, changed)


def _gone(session: Session, row: RolloutRow, now: datetime) -> int:
    left = session.scalars(_left(row).limit(BATCH)).all()
    return len(put_state(session, row, left, ActionState.DECOMMISSIONED, now))


def _join(session: Session, row: RolloutRow, spec: RolloutSpec, now: datetime) -> int:
    found = session.execute(_new(session, row, spec).limit(BATCH)).all()
    if not found:
        return 0
    chosen = variants_for(session, row.manifest, {d for _, _, d in found if d is not None})
    current = serving(session, row.model, row.manifest, DeploymentRow.device_id.in_([d for d, _, _ in found]))
    rows = []
    for device, name, digest in found:
        variant, size = chosen.get(digest or "", (None, 0))
        state = ActionState.PLANNED if variant is not None else ActionState.INCOMPATIBLE
        state = ActionState.ALREADY_CURRENT if device in current else state
        why = DeploymentCode.NO_FITTING_VARIANT if digest is not None else DeploymentCode.FACTS_UNKNOWN
        code = why if state is ActionState.INCOMPATIBLE else ""
        rows.append(
            {
                "rollout_id": row.id, "device_id": device, "device": name, "generation": row.generation,
                "state": state.value, "since": now, "target": row.manifest, "code": code, "facts": digest,
                "variant": variant, "size": size, "rank": position(row.public, name),
                "wave": tail(spec) if state is ActionState.PLANNED else None,
            }
        )  # fmt: skip
    names = [name for _, name, _ in found]  # one that was deleted and registered again is another device
    orphans = delete(ActionRow).where(ActionRow.rollout_id == row.id, ActionRow.device_id.is_(None))
    session.execute(orphans.where(ActionRow.device.in_(names)))
    session.execute(insert(ActionRow), rows)
    return len(rows)


def _fit_by_now(session: Session, row: RolloutRow, spec: RolloutSpec, now: datetime) -> int:
    """Devices that nothing fitted, or whose facts nobody knew, and that have others now."""
    found = session.execute(_known_by_now(row).limit(BATCH)).all()
    chosen = variants_for(session, row.manifest, {digest for _, digest in found})
    changes = Changes(session, row, now)
    for action, digest in found:
        variant, size = chosen.get(digest, (None, 0))
        action.facts = digest
        if variant is not None and changes.set([action], ActionState.PLANNED):
            action.variant, action.size, action.wave = variant, size, tail(spec)
    changes.flush()
    return len(found)


_OF_ROLLOUT = ("since", "started_at", "filled_at")


_OF_WAVE = ("started_at", "soak_since")


_OF_ACTION = ("since", "due", "offered_at", "retry_at")


def shift(database: Database, by: timedelta) -> int:
    """After the wall clock was set: move the beginnings of every rollout that is under way along with it; how many.

    A soak, a timeout, a deadline is a duration of time that passed; its beginning is kept as a wall time, so that a
    restart forgets nothing. When the clock is set while the registry runs, the beginnings are set by as much: nothing
    ends sooner, and nothing lasts longer. Times that a person chose (`valid_until`, `start_at`), and that devices told,
    stay. LIMIT: a step that comes while no registry runs is not seen; then a soak may end sooner or last longer by as
    much.
    """
    with database.write() as session:
        rows = session.scalars(select(RolloutRow).where(RolloutRow.state.in_(ACTIVE))).all()
        for row in rows:
            _move(row, _OF_ROLLOUT, by)
            if row.valid_until is not None and spec_of(row).valid_until is None:
                row.valid_until += by
            for wave in session.scalars(
                select(WaveRow).where(WaveRow.rollout_id == row.id, WaveRow.passed_at.is_(None))
            ):
                _move(wave, _OF_WAVE, by)
            _move_actions(session, row.id, by)
    return len(rows)


def _move(row: Any, names: Sequence[str], by: timedelta) -> None:
    for name in names:
        at = getattr(row, name)
        if at is not None:
            setattr(row, name, at + by)


def _move_actions(session: Session, rollout_id: int, by: timedelta) -> None:
    """Of devices that are not through yet, or are tried again; there may be a hundred thousand."""
    columns = [getattr(ActionRow, name) for name in _OF_ACTION]
    in_flight = ActionRow.state.in_([state.value for state in actions.IN_FLIGHT])
    goes_on = or_(in_flight, ActionRow.due.is_not(None), ActionRow.retry_at.is_not(None))
    query = select(ActionRow.id, *columns).where(ActionRow.rollout_id == rollout_id, goes_on)
    moved = [
        {"id": found[0], **{name: at and at + by for name, at in zip(_OF_ACTION, found[1:], strict=True)}}
        for found in session.execute(query)
    ]
    if moved:
        session.execute(update(ActionRow), moved)
