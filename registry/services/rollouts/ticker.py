"""What moves rollouts: looks at each one that is under way, by the clock and when something happened; and plans them.

One process leads by a lease; a step is safe when two take it. A rollout whose look fails holds up no other: it is
logged, and looked at again by the next tick.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import TypeGuard

from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from registry.contracts.rollout.states import ActionState, RolloutState
from registry.core.clock_steps import ClockSteps
from registry.core.rollouts import actions
from registry.core.rollouts.decide import decide
from registry.core.rollouts.machine import TELLS_HOLD, WITHDRAWS, holds
from registry.db.after_commit import Changed
from registry.db.engine import Database
from registry.db.rollout_rows import ActionRow, RolloutRow
from registry.errors import InTheWayError, InvalidError, NotFoundError, TemporaryError
from registry.services.rollouts import newcomers
from registry.services.rollouts.apply import Apply
from registry.services.rollouts.lease import LeaderLease
from registry.services.rollouts.planning import Planner
from registry.services.rollouts.shifting import shift
from registry.services.rollouts.snapshot import take_snapshot
from registry.services.rollouts.store import ACTIVE, BATCH, policy_of, spec_of
from registry.services.rollouts.targets import hold

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
                ids = session.scalars(select(RolloutRow.id).where(RolloutRow.state.in_(ACTIVE))).all()
            if not ids:
                return True
            if not self._lease.hold(now):
                return False
            sweep = self._is_sweep_due(now)
            for rollout_id in ids:
                if stop():
                    break
                with self._safely(rollout_id):
                    self.look(rollout_id, now, sweep=sweep)
            return True

    def _keep_pace(self, now: datetime) -> None:
        """Before anything is decided by a clock that was set: see `shifting`."""
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
            waiting = select(RolloutRow.id).where(RolloutRow.state == RolloutState.PLANNING.value)
            ids = session.scalars(waiting).all()
        for rollout_id in ids:
            if stop():
                break
            with self._safely(rollout_id):
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
            newcomers.sweep(self._database, rollout_id, now)
        except (InvalidError, NotFoundError) as error:  # a group was deleted while the rollout was over
            log.warning("rollout %d takes in no newcomers: %s", rollout_id, error.message)

    @contextmanager
    def _safely(self, rollout_id: int) -> Iterator[None]:
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
        apply = Apply(self._database, rollout_id, row.revision, now)
        leads_on = False
        for decision in decide(snapshot, now):
            leads_on |= apply.one(decision)
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
