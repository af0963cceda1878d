"""Health of the devices of a wave against those of the rollout that were not yet updated, over the same minutes.

Of every device the newest report within the window counts, so that a chatty device weighs no more than another; what
it answered and failed in the window stands in the increases of all its reports. At most MAX_DEVICES of a cohort are
read, in the order of their turn, which is random with respect to health.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime, timedelta
from statistics import median

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.orm import Session

from registry.contracts.codes import InferenceCode as Code
from registry.contracts.rollout.spec import RolloutSpec
from registry.contracts.rollout.states import ActionState
from registry.core.retention import Increase
from registry.core.rollouts import actions
from registry.core.rollouts.gates import Cohort, Cohorts, WaveFacts
from registry.db.fleet_rows import DeviceStateRow, HealthRow
from registry.db.rollout_rows import ActionRow, RolloutRow
from registry.services.queries import batches

MAX_DEVICES = 500
WINDOW_S = 3600.0
"""Longest window; a younger wave is compared since it began."""
BATCH = 250
FAULTS = frozenset({Code.RUN_FAILED, Code.RUN_TIMEOUT, Code.WORKER_CRASHED, Code.RESULT_TOO_LARGE})
"""Errors that speak against a version; refusals of bad input and of overload do not."""
_UPDATED = tuple(state.value for state in actions.SUCCESS | {ActionState.PROBATION, ActionState.CONFIRMING})
_WAITING = tuple(state.value for state in actions.PARKED)


def cohorts_of(session: Session, row: RolloutRow, spec: RolloutSpec, wave: WaveFacts, now: datetime) -> Cohorts:
    """Both cohorts, for the wave that is judged."""
    if not (spec.gate.health or spec.gate.accuracy or spec.gate.shadow):
        return Cohorts()
    since = max(wave.started_at or now, now - timedelta(seconds=WINDOW_S))
    new = _devices(session, row, ActionRow.state.in_(_UPDATED) & (ActionRow.wave == wave.index))
    old = _devices(session, row, ActionRow.state.in_(_WAITING))
    compared, agreed = _shadow(session, row, wave)
    return Cohorts(
        updated=_cohort(session, new, row.model, row.version, since),
        waiting=_cohort(session, old, row.model, None, since),
        shadow_compared=compared,
        shadow_agreed=agreed,
    )


def _devices(session: Session, row: RolloutRow, which: ColumnElement[bool]) -> list[int]:
    query = select(ActionRow.device_id).where(ActionRow.rollout_id == row.id, which, ActionRow.device_id.is_not(None))
    return [found for found in session.scalars(query.order_by(ActionRow.rank).limit(MAX_DEVICES)) if found is not None]


def _cohort(session: Session, devices: Sequence[int], model: str, version: str | None, since: datetime) -> Cohort:
    """Sums over the devices; `version` None: whatever version answered."""
    requests = errors = 0
    nan: int | None = None
    p99: list[float] = []
    for ids in batches(devices, BATCH):
        recent = (HealthRow.device_id.in_(ids), HealthRow.at >= since)
        for (increases,) in session.execute(select(HealthRow.increases).where(*recent)):
            for increase in (Increase(*fields) for fields in increases):
                if increase.model == model and version in (None, increase.version):
                    requests += increase.requests
                    errors += sum(count for code, count in increase.errors.items() if code in FAULTS)
                    if increase.not_finite is not None:
                        nan = (nan or 0) + increase.not_finite
        newest = select(func.max(HealthRow.id)).where(*recent).group_by(HealthRow.device_id)
        for text in session.scalars(select(HealthRow.document).where(HealthRow.id.in_(newest))):
            report = json.loads(text).get("models", {}).get(model, {})
            if version not in (None, report.get("version")):
                continue
            if report.get("run_us", {}).get("p99"):
                p99.append(float(report["run_us"]["p99"]))
    measured = _accuracy(session, devices, model)
    return Cohort(
        devices=len(devices),
        requests=requests,
        errors=errors,
        nan=nan,
        run_p99_us=median(p99) if p99 else None,
        accuracy=sum(measured) / len(measured) if measured else None,
        accuracy_devices=len(measured),
    )


def _accuracy(session: Session, devices: Sequence[int], model: str) -> list[float]:
    """Of the devices that measured what they serve on golden vectors: the share with the right top class."""
    found = []
    for ids in batches(devices, BATCH):
        query = select(DeviceStateRow.reported).where(DeviceStateRow.device_id.in_(ids))
        for text in session.scalars(query):
            slot = json.loads(text).get("models", {}).get(model, {}) if text else {}
            share = (slot.get("parity") or {}).get("top1_agreement")
            if isinstance(share, (int, float)):
                found.append(float(share))
    return found


def _shadow(session: Session, row: RolloutRow, wave: WaveFacts) -> tuple[int, float]:
    sums = select(func.sum(ActionRow.shadow_compared), func.sum(ActionRow.shadow_agreed))
    compared, agreed = session.execute(sums.where(ActionRow.rollout_id == row.id, ActionRow.wave == wave.index)).one()
    return int(compared or 0), float(agreed or 0.0)
