"""Rollouts as the API shows them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from sqlalchemy import Select, case, func, null, select
from sqlalchemy.orm import Session

from registry.contracts.codes import ReasonCode
from registry.contracts.device.deployments import Phase
from registry.contracts.device.messages import Reported
from registry.contracts.rollout.states import ActionState, RolloutState, WaveState
from registry.contracts.rollout.views import (
    ActionLeft,
    ActionStep,
    ActionView,
    GateVerdict,
    HistoryEntry,
    PlanView,
    RolloutReason,
    RolloutView,
    WaveView,
    WentBack,
)
from registry.core.rollouts import actions
from registry.core.rollouts.gates import Cohorts, Kind, judge
from registry.core.rollouts.machine import FINAL, WITHDRAWS, legal
from registry.core.rollouts.plan import release_s
from registry.core.rollouts.why import Standing, why_device
from registry.db.fleet_rows import DeviceStateRow, RegistryStateRow
from registry.db.rollout_rows import ActionRow, RolloutHistoryRow, RolloutRow, StepRow, WaveRow
from registry.services.fleet.presence import is_online
from registry.services.rollouts.apply import verdict_text
from registry.services.rollouts.snapshot import cohorts_of, wave_facts
from registry.services.rollouts.store import MAX_STEPS, as_action, is_taken, reason_of, spec_of, taker
from registry.services.rollouts.tally import RolloutTally, tally_of, troubles

MAX_ETA_S = 10 * 365 * 86400.0
"""A time that is further away says nothing."""
_Counts = Mapping[int, Mapping[ActionState, int]]


def rollout_view(session: Session, row: RolloutRow, now: datetime | None = None) -> RolloutView:
    """One rollout; with `now` the gate of the wave that runs is judged, so that people see what it waits for."""
    waves = session.scalars(select(WaveRow).where(WaveRow.rollout_id == row.id).order_by(WaveRow.number)).all()
    tally = tally_of(session, row.id)
    verdicts = _live_verdicts(session, row, tally, now) if now is not None else {}
    state = RolloutState(row.state)
    return RolloutView(
        id=row.public,
        spec=spec_of(row),
        version=row.version,
        manifest=row.manifest,
        state=state,
        revision=row.revision,
        generation=row.generation,
        reason=reason_of(row),
        since=row.since,
        legal=legal(state, row.generation),
        counts=tally.total,
        back=tally.back,
        troubled=tally.troubled,
        trouble=troubles(session, row.id, tally) if now is not None and tally.troubled else (),
        went_back=_went_back(row),
        waves=tuple(_wave(state, wave, tally, verdicts.get(wave.number)) for wave in waves),
        plan=row.plan_digest,
        approved_by=row.approved_by,
        created_at=row.created_at,
        created_by=row.created_by,
        started_at=row.started_at,
        ended_at=row.ended_at,
        valid_until=row.valid_until,
        eta=_eta(row, waves, tally.counts, now),
    )


def _went_back(row: RolloutRow) -> WentBack | None:
    if row.went_back_at is None:
        return None
    return WentBack(at=row.went_back_at, by=row.went_back_by, code=row.went_back_code, text=row.went_back_text)


def _live_verdicts(session: Session, row: RolloutRow, tally: RolloutTally, now: datetime) -> dict[int, str]:
    if row.state not in (RolloutState.RUNNING.value, RolloutState.PAUSED.value):
        return {}
    waves = wave_facts(session, row, tally)
    wave = next((w for w in waves if w.kind is Kind.WAVE and w.state is not WaveState.PASSED), None)
    if wave is None or wave.state not in (WaveState.RELEASING, WaveState.SOAKING):
        return {}
    running = row.state == RolloutState.RUNNING.value
    cohorts = cohorts_of(session, row, tally, wave, now) if running else Cohorts()
    return {wave.index: verdict_text(judge(wave, spec_of(row).gate, cohorts, now))}


def _wave(rollout: RolloutState, wave: WaveRow, tally: RolloutTally, verdict: str | None) -> WaveView:
    own = dict(tally.counts.get(wave.number, {}))
    text = verdict or wave.verdict
    return WaveView(
        index=wave.number,
        kind=wave.kind,
        label=wave.label,
        state=_wave_state(rollout, wave, own),
        devices=sum(own.values()),
        counts=own,
        left=dict(tally.left.get(wave.number, {})),
        started_at=wave.started_at,
        soak_since=wave.soak_since,
        verdict=GateVerdict.model_validate_json(text) if text else None,
        accepted_by=wave.accepted_by,
    )


def _wave_state(rollout: RolloutState, wave: WaveRow, own: Mapping[ActionState, int]) -> WaveState:
    """As stored, but for a wave that the end of its rollout, or a rollback, cut short: it has come to no conclusion.
    A tail has passed with the rollout, or once every device of it has the version."""
    state = WaveState(wave.state)
    over = rollout in FINAL | WITHDRAWS or (rollout is RolloutState.ROLLING_BACK) != (wave.kind == Kind.ROLLBACK)
    if not over or state not in (WaveState.RELEASING, WaveState.SOAKING):
        return state
    done = rollout is RolloutState.SUCCEEDED or actions.SUCCESS.issuperset(own)
    return WaveState.PASSED if done and wave.kind == Kind.TAIL else WaveState.INCONCLUSIVE


def _eta(row: RolloutRow, waves: Sequence[WaveRow], counts: _Counts, now: datetime | None) -> datetime | None:
    """When it would end if nothing fails: what is left at the rate, probation and soak of each wave."""
    if now is None or row.plan is None or row.state not in (RolloutState.RUNNING.value, RolloutState.SCHEDULED.value):
        return None
    spec, seconds = spec_of(row), 0.0
    planned = {wave.index: wave for wave in PlanView.model_validate_json(row.plan).waves}
    for wave in waves:
        own = counts.get(wave.number, {})
        left = sum(number for state, number in own.items() if state in actions.PARKED | actions.IN_FLIGHT)
        if wave.state == WaveState.PASSED.value or not (left or wave.started_at):
            continue
        share = planned.get(wave.number)
        size = round(share.bytes * left / share.devices) if share is not None and share.devices else 0
        watched = (now - wave.soak_since).total_seconds() if wave.soak_since else 0.0
        seconds += release_s(spec.rate, left, size) + (spec.policy.probation_s if left else 0.0)
        seconds += max(0.0, wave.soak_s - watched)
    return max(now, spec.start_at or now) + timedelta(seconds=seconds) if seconds <= MAX_ETA_S else None


def action_views(
    session: Session, row: RolloutRow, chosen: Select[ActionRow], now: datetime, *, steps: bool
) -> list[ActionView]:
    """The chosen devices of a rollout, each with why it is where it is; with their steps."""
    waves = {w.number: w for w in session.scalars(select(WaveRow).where(WaveRow.rollout_id == row.id))}
    heard = func.coalesce(DeviceStateRow.gone_at, DeviceStateRow.last_seen)
    taken = case((is_taken(row), taker(row)), else_="")
    known = chosen.outerjoin(DeviceStateRow, DeviceStateRow.device_id == ActionRow.device_id)
    told = DeviceStateRow.reported if steps else null()
    query = known.add_columns(case((~is_online(session, now), heard), else_=None), taken, told)
    life = session.get(RegistryStateRow, 1)
    return [
        _action_view(session, row, action, waves, _standing(action, away, taken_by, report, life), steps=steps)
        for action, away, taken_by, report in session.execute(query).all()
    ]


def _standing(
    action: ActionRow, away: datetime | None, taken: str, report: str | None, life: RegistryStateRow | None
) -> Standing:
    back = (action.previous_version or "nothing") if action.goes_back else ""
    epoch = Reported.model_validate_json(report).epoch if report else ""
    restored = life.epoch_since if life is not None and epoch not in {"", life.epoch} else None
    return Standing(action.due, away, taken, back, action.retry_at, action.tries, restored)


def _action_view(
    session: Session, row: RolloutRow, action: ActionRow, waves: Mapping[int, WaveRow], standing: Standing, *,
    steps: bool,
) -> ActionView:  # fmt: skip
    wave = waves.get(action.wave) if action.wave is not None else None
    started = wave is not None and wave.state != WaveState.PENDING.value
    history: tuple[ActionStep, ...] = ()
    if steps:
        query = select(StepRow).where(StepRow.action_id == action.id).order_by(StepRow.id.desc()).limit(MAX_STEPS)
        found = reversed(session.scalars(query).all())
        history = tuple(ActionStep(at=s.at, state=ActionState(s.state), code=s.code, message=s.message) for s in found)
    why = why_device(as_action(action, row.public), RolloutState(row.state), reason_of(row), started, standing)
    return ActionView(
        device=action.device,
        wave=action.wave,
        state=ActionState(action.state),
        phase=Phase(action.phase) if action.phase else None,
        failed_in=Phase(action.failed_in) if action.failed_in else None,
        code=action.code,
        message=action.message,
        since=action.since,
        due=action.due,
        why=why,
        variant=action.variant,
        generation=action.generation,
        attempt=action.attempt,
        tries=action.tries,
        retry_at=action.retry_at if action.state == ActionState.PLANNED.value else None,
        previous=action.previous_version,
        goes_back=action.goes_back,
        left=_left(action),
        history=history,
        forgotten=max(0, action.steps - len(history)) if steps else 0,
    )


def _left(action: ActionRow) -> ActionLeft | None:
    if action.left_state is None:
        return None
    state = ActionState(action.left_state)
    return ActionLeft(wave=action.left_wave, state=state, code=action.left_code, message=action.left_message)


def history_entry(row: RolloutHistoryRow) -> HistoryEntry:
    """One transition."""
    return HistoryEntry(
        at=row.at,
        revision=row.revision,
        generation=row.generation,
        before=RolloutState(row.before) if row.before else None,
        after=RolloutState(row.after),
        cause=row.cause,
        by=row.by,
        reason=RolloutReason(code=ReasonCode(row.reason), text=row.reason_text),
        note=row.note,
    )
