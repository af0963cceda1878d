"""Events of rollouts, written as the registry writes them."""

from __future__ import annotations

from datetime import datetime, timezone

from registry.contracts.codes import ReasonCode
from registry.contracts.rollout.states import RolloutState
from registry.contracts.rollout.views import RolloutEvent, RolloutReason
from registry.db.engine import Database
from registry.services.fleet.fleet_log import append

START = datetime(2030, 5, 1, 10, tzinfo=timezone.utc)


def event(kind: str = "rollout", rollout: str = "r-1", at: datetime = START) -> RolloutEvent:
    reason = RolloutReason(code=ReasonCode.RELEASING)
    return RolloutEvent(
        cursor=0, at=at, kind=kind, rollout=rollout, state=RolloutState.RUNNING, revision=1, reason=reason
    )


def write(database: Database, *events: RolloutEvent) -> None:
    with database.write() as session:
        append(session, events)
