"""What this device knows of its jobs, as the journal keeps it, and what changes it. Pure; the executor acts.

| state | event | next |
|---|---|---|
| waiting | its turn | running, one try more |
| running | result | succeeded |
| running | the agent ended in the middle | waiting; failed after MAX_TRIES |
| running | the registry is away, or somebody in between answers for it | waiting, after a pause; no try is counted |
| running | any other error that may pass | waiting, after a pause; failed after MAX_TRIES |
| running | any other error, or its time is over | failed |
| any | gone from the desired document | forgotten; a running one is told to stop |
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field

from registry.contracts.backoff import Backoff
from registry.contracts.codes import JobCode
from registry.contracts.device.deployments import MAX_JOBS, Job, JobState, JobStatus
from registry.contracts.wire import Name, Wire

MAX_TRIES = 3
PAUSE = Backoff(first_s=2.0, cap_s=60.0, limit=MAX_TRIES)
"""Before a job is tried again."""
AWAY = Backoff(first_s=15.0, cap_s=15.0, factor=1.0)
"""While the registry is away. That says nothing about the job; the registry ends one that takes too long."""
MAX_RESULT_BYTES = 12 << 10
"""Of one job's result as JSON: those of MAX_JOBS jobs go into one report."""


class JobRecord(Wire):
    """One job."""

    job: Job
    status: JobStatus = JobStatus(state=JobState.WAITING)
    tries: Annotated[int, Field(ge=0)] = 0


class JobRecords(Wire):
    """All jobs of this device, by id, in the order in which they came."""

    jobs: Annotated[dict[Name, JobRecord], Field(max_length=MAX_JOBS)] = Field(default_factory=dict)


Records = dict[str, JobRecord]


def wanted(records: Mapping[str, JobRecord], jobs: Mapping[str, Job]) -> Records:
    """The records after a desired document: what is gone is forgotten, what is new waits."""
    kept = {name: record for name, record in records.items() if name in jobs}
    return kept | {name: JobRecord(job=job) for name, job in jobs.items() if name not in kept}


def interrupted(record: JobRecord) -> JobRecord:
    """After a restart of the agent."""
    if record.status.state is not JobState.RUNNING:
        return record
    if record.tries >= MAX_TRIES:
        return failed(
            record,
            JobCode.JOB_INTERRUPTED,
            f"The agent ended {record.tries} times in the middle of it: look at its log and at the host's memory.",
        )
    return record.model_copy(update={"status": JobStatus(state=JobState.WAITING)})


def started(record: JobRecord) -> JobRecord:
    """To be in the journal before anything is done."""
    return record.model_copy(update={"status": JobStatus(state=JobState.RUNNING), "tries": record.tries + 1})


def progressed(record: JobRecord, done: float | None, message: str) -> JobRecord:
    """How far a running job says it is."""
    if record.status.state is not JobState.RUNNING:
        return record
    bounded = None if done is None else min(max(done, 0.0), 1.0)
    return record.model_copy(update={"status": JobStatus(state=JobState.RUNNING, done=bounded, message=message[:2000])})


def succeeded(record: JobRecord, result: Mapping[str, Any]) -> JobRecord:
    """A result that is too long for a report is a fault of the handler."""
    status = JobStatus(state=JobState.SUCCEEDED, done=1.0, result=dict(result))
    size = len(status.canonical())
    if size > MAX_RESULT_BYTES:
        return failed(record, "internal", f"the job's result has {size} bytes; {MAX_RESULT_BYTES} are the most")
    return record.model_copy(update={"status": status})


def failed(record: JobRecord, code: str, message: str) -> JobRecord:
    """For good."""
    status = JobStatus(state=JobState.FAILED, code=code[:64], message=message[:2000])
    return record.model_copy(update={"status": status})


def again(record: JobRecord, code: str, message: str) -> JobRecord:
    """An error that may pass: waiting, with the reason; failed when it was the last try."""
    if record.tries >= MAX_TRIES:
        return failed(record, code, f"{message} (tried {record.tries} times)")
    status = JobStatus(state=JobState.WAITING, code=code[:64], message=message[:2000])
    return record.model_copy(update={"status": status})


def away(record: JobRecord, code: str, message: str) -> JobRecord:
    """The registry cannot be had, or somebody in between answered: waiting, as if it had not been tried."""
    status = JobStatus(state=JobState.WAITING, code=code[:64], message=message[:2000])
    return record.model_copy(update={"status": status, "tries": max(record.tries - 1, 0)})
