"""What happened to a device, from all that remembers it, as one line of time. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from itertools import groupby

from registry.contracts.api.devices import DeploymentView, DeviceView, JobView
from registry.contracts.device.deployments import JobState, Phase
from registry.contracts.device.messages import Event
from registry.contracts.rollout.states import ActionState
from registry.services.rollouts.rollouts import DeviceInRollout

MOST = 150
_GOOD = frozenset({Phase.COMMITTED})
_STEPS = frozenset({Phase.OFFERED, Phase.VERIFIED, Phase.WARMING, Phase.SUPERSEDED, Phase.CANCELLED})
_ON_THE_WAY = frozenset(
    {
        *(ActionState.PLANNED, ActionState.DEFERRED, ActionState.DOWNLOADING, ActionState.VERIFIED, ActionState.STAGED),
        *(ActionState.WARMING, ActionState.SHADOWING, ActionState.SWITCHING, ActionState.PROBATION),
        *(ActionState.ROLLING_BACK, ActionState.CONFIRMING),
    }
)
"""States of a device in a rollout that follow what the device itself says."""
_ENDS: dict[ActionState, str] = {
    **dict.fromkeys((ActionState.COMMITTED, ActionState.COMMITTED_LATE, ActionState.ALREADY_CURRENT), "ok"),
    **dict.fromkeys((ActionState.FAILED, ActionState.ROLLED_BACK, ActionState.ROLLBACK_FAILED), "bad"),
    **dict.fromkeys((ActionState.REGRESSED, ActionState.TIMED_OUT, ActionState.INCOMPATIBLE), "warn"),
}
"""How they are shown; the others are busy."""
_BAD = frozenset({Phase.ROLLED_BACK, Phase.FAILED, Phase.ROLLBACK_FAILED})
_PHASES = {
    Phase.OFFERED: "The device has seen the new desired state",
    Phase.DEFERRED: "The host lets it wait",
    Phase.DOWNLOADING: "Downloads the files",
    Phase.VERIFIED: "Every byte is there and verified",
    Phase.STAGED: "Ready, held until it may switch",
    Phase.WARMING: "Warms up and answers the golden vectors",
    Phase.SHADOWING: "Runs in the shadow of the active version",
    Phase.SWITCHING: "Takes over",
    Phase.PROBATION: "Serves, on probation",
    Phase.COMMITTED: "Serves, its probation is over",
    Phase.ROLLING_BACK: "Puts the previous version back",
    Phase.ROLLED_BACK: "The previous version serves again",
    Phase.ROLLBACK_FAILED: "Neither version serves",
    Phase.FAILED: "Given up before it served",
    Phase.SUPERSEDED: "Another version was wanted before it was done",
    Phase.CANCELLED: "No longer wanted before it was done",
}


@dataclass(frozen=True)
class Moment:
    """One thing that happened."""

    at: datetime
    kind: str
    """ok, busy, warn, bad, idle."""
    what: str
    about: str = ""
    """Model and version."""
    detail: str = ""
    code: str = ""
    link: str = ""
    """A path of the console."""
    source: str = "device"
    """device, people or rollout: who made it happen."""
    is_step: bool = False
    """On the way to something else on this line: left out of the short form."""


def timeline(
    device: DeviceView,
    events: Sequence[Event],
    deployments: Sequence[DeploymentView],
    jobs: Sequence[JobView],
    rollouts: Sequence[DeviceInRollout],
) -> list[Moment]:
    """Newest first, at most MOST."""
    moments = [
        *_of_device(device),
        *(_of_event(event) for event in events),
        *(_of_deployment(each) for each in deployments if each.set_by not in {part.set_by for part in rollouts}),
        *(moment for job in jobs for moment in _of_job(job)),
        *(moment for each in rollouts for moment in _of_rollout(each)),
    ]
    return sorted(moments, key=lambda moment: moment.at, reverse=True)[:MOST]


def short_form(moments: Iterable[Moment]) -> list[Moment]:
    """Without the steps on the way."""
    return [moment for moment in moments if not moment.is_step]


def by_day(moments: Iterable[Moment]) -> list[tuple[date, list[Moment]]]:
    """The moments under their days, UTC."""
    return [(day, list(some)) for day, some in groupby(moments, key=lambda moment: moment.at.date())]


def _of_device(device: DeviceView) -> Iterator[Moment]:
    yield Moment(device.created_at, "idle", "Registered", source="people")
    if device.facts_at is not None:
        yield Moment(device.facts_at, "idle", "Told the facts of its host")
    if device.last_seen is not None:
        yield Moment(device.last_seen, "ok" if device.online else "idle", "Last sign of life")
    if device.presence is not None and device.presence.online and device.presence.at is not None:
        version = f"agent {device.presence.agent_version}" if device.presence.agent_version else ""
        yield Moment(device.presence.at, "idle", "Its agent connected", detail=version)


def _of_event(event: Event) -> Moment:
    about = "@".join(part for part in (event.model, event.version) if part)
    try:
        phase = Phase(event.phase) if event.kind == "deployment" else None
    except ValueError:  # of a newer agent
        phase = None
    if phase is not None:
        kind = "ok" if phase in _GOOD else "bad" if phase in _BAD or event.code else "busy"
        return Moment(
            event.at, kind, _PHASES[phase], about, event.message, event.code, is_step=phase in _STEPS and not event.code
        )
    what = f"{event.kind}: {event.phase}" if event.phase else event.kind
    kind = "warn" if event.code else "idle"
    is_step = event.kind == "agent" and not event.code
    return Moment(event.at, kind, what.replace("_", " "), about, event.message, event.code, is_step=is_step)


def _of_deployment(wanted: DeploymentView) -> Moment:
    return Moment(
        wanted.set_at,
        "busy",
        f"{wanted.set_by or 'Somebody'} set what the slot should serve",
        f"{wanted.model}@{wanted.version}",
        wanted.note,
        source="people",
    )


def _of_job(job: JobView) -> Iterator[Moment]:
    about = f"{job.job.model}@{job.job.version}"
    link = f"/jobs/{job.id}"
    yield Moment(job.created_at, "busy", f"{job.created_by} asked to {job.job.kind}", about, link=link, source="people")
    if job.status.state in (JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED):
        kind = {"succeeded": "ok", "failed": "bad"}.get(job.status.state, "idle")
        text = f"The job to {job.job.kind} {job.status.state}"
        yield Moment(job.updated_at, kind, text, about, job.status.message, job.status.code, link)


def _of_rollout(part: DeviceInRollout) -> Iterator[Moment]:
    steps, about = part.action.history, f"{part.model}@{part.version}"
    offers = [number for number, step in enumerate(steps) if step.state is ActionState.OFFERED]
    back = offers[-1] if part.action.goes_back and offers else len(steps)
    for number, step in enumerate(steps):
        kind = _ENDS.get(step.state, "busy")
        way = "on the way back, " if number >= back else ""
        text = f"Rollout {part.rollout}: {way}{step.state.replace('_', ' ')}"
        link = f"/rollouts/{part.rollout}"
        is_step = step.state in _ON_THE_WAY and not step.code
        yield Moment(step.at, kind, text, about, step.message, step.code, link, "rollout", is_step)
