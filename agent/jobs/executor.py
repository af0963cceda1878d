"""Does the jobs that the desired document asks for: one at a time, each once, none for longer than it may take.

INVARIANT: `running` is in the journal before a handler begins, and the outcome before it is reported.
INVARIANT: at most one handler runs. One that does not stop when it is told to keeps the next from beginning.
"""

from __future__ import annotations

import logging
import shutil
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from agent.adapters.disk.durable import disk_error
from agent.adapters.network.registry_answers import UnreachableError
from agent.errors import AgentError, StepCancelledError, TransientError
from agent.jobs import records
from agent.jobs.context import Progress
from agent.jobs.records import JobRecord, JobRecords, Records
from agent.reconciler.context import Context, TaskDone
from agent.reconciler.ports import Pool
from registry.contracts.codes import JobCode
from registry.contracts.device.deployments import Job, JobState, JobStatus

log = logging.getLogger(__name__)
_KEY = "jobs"
PROGRESS_EVERY_S = 1.0
PROGRESS_BURST = 8
"""Told at once before the pace counts, so that the short steps before a long one do not hide that it began."""

Work = Callable[[str, Job, Path, threading.Event, Progress], dict[str, Any]]
"""Does one job, as `agent.jobs.context` says of handlers."""
Outcome = Callable[[JobRecord], JobRecord]


@dataclass
class _Run:
    """The try under way."""

    id: str
    deadline: float
    """Monotonic."""
    cancel: threading.Event = field(default_factory=threading.Event)
    told_at: float = 0.0
    allowance: float = PROGRESS_BURST
    away: bool = False
    """It ended because the registry could not be had."""


class JobExecutor:
    """Control thread only; `work` runs in `pool`."""

    def __init__(self, context: Context, work: Work, pool: Pool, folder: Path) -> None:
        """`folder`: below it each job has a folder of its own while it runs."""
        self._context = context
        self._work = work
        self._pool = pool
        self._folder = folder
        self._records: Records = {}
        self._run: _Run | None = None
        self._not_before: dict[str, float] = {}

    def begin(self) -> None:
        """Takes up what the journal says, and removes what a kill left behind."""
        shutil.rmtree(self._folder, ignore_errors=True)
        data = self._context.journal.get(_KEY)
        if data is None:
            return
        try:
            known = JobRecords.model_validate_json(data).jobs
        except ValidationError:
            log.warning("the journal's jobs cannot be read: the registry brings them again")
            return
        self._save({name: records.interrupted(record) for name, record in known.items()})

    def want(self, jobs: Mapping[str, Job]) -> None:
        """What the desired document asks for now."""
        if self._records.keys() != jobs.keys():
            if self._run is not None and self._run.id not in jobs:
                self._run.cancel.set()
            self._save(records.wanted(self._records, jobs))

    def tend(self) -> None:
        """Begins the next job when it is time; ends one whose time is over."""
        now = self._context.clock.monotonic()
        if self._run is not None:
            if now >= self._run.deadline and not self._run.cancel.is_set():
                self._run.cancel.set()
                timeout = self._records[self._run.id].job.timeout_s
                self._change(
                    self._run.id,
                    lambda record: records.failed(
                        record,
                        JobCode.JOB_TIMEOUT,
                        f"It was not done in {timeout:g} s and was stopped; give it more time with its timeout_s.",
                    ),
                )
            return
        for name, record in self._records.items():
            if record.status.state is JobState.RUNNING:
                self._change(name, records.interrupted)  # its outcome could not be written down
            if self._records[name].status.state is JobState.WAITING and now >= self._not_before.get(name, 0.0):
                self._start(name, self._records[name], now)
                return

    def statuses(self) -> dict[str, JobStatus]:
        """For the report."""
        return {name: record.status for name, record in self._records.items()}

    def next_due(self) -> float | None:
        """Monotonic time at which `tend` has something to do; None: when something happens."""
        if self._run is not None:
            return None if self._run.cancel.is_set() else self._run.deadline
        waiting = [name for name, record in self._records.items() if record.status.state is JobState.WAITING]
        return min((self._not_before.get(name, 0.0) for name in waiting), default=None)

    def stop(self) -> None:
        """The agent ends: what runs is told to stop, and is tried again after the next start."""
        if self._run is not None:
            self._run.cancel.set()

    def _start(self, name: str, record: JobRecord, now: float) -> None:
        self._change(name, records.started)
        run = self._run = _Run(id=name, deadline=now + record.job.timeout_s)
        self._context.publisher.publish(
            "job", phase="running", message=f"{name}: {record.job.kind} of {_what(record.job)}"
        )
        self._pool.submit(lambda: self._do(run, record.job))

    def _do(self, run: _Run, job: Job) -> None:
        """In the pool. Whatever happens, the folder is gone and the control thread hears of it."""
        folder = self._folder / run.id
        outcome: Outcome
        try:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(mode=0o700, parents=True)
            result = self._work(run.id, job, folder, run.cancel, lambda done, text: self._tell(run, done, text))
            outcome = partial(records.succeeded, result=result)
        except StepCancelledError:
            outcome = partial(records.again, code=JobCode.JOB_CANCELLED, message="It was stopped.")
        except UnreachableError as error:
            run.away = True
            outcome = partial(records.away, code=error.code, message=error.message)
        except TransientError as error:
            outcome = partial(records.again, code=error.code, message=error.message)
        except OSError as error:
            refused = disk_error(error, folder)
            outcome = partial(records.again, code=refused.code, message=refused.message)
        except AgentError as error:
            outcome = partial(records.failed, code=error.code, message=error.message)
        except Exception as error:
            log.exception("a job failed in a way that nobody foresaw")
            outcome = partial(records.failed, code="internal", message=f"{type(error).__name__}: {error}")
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        self._context.put(TaskDone(lambda: self._ended(run, outcome)))

    def _ended(self, run: _Run, outcome: Outcome) -> None:
        self._run = None
        record = self._records.get(run.id)
        if record is None:
            self._context.publisher.publish("job", phase="cancelled", message=run.id)
            return
        if record.status.state is JobState.RUNNING:
            record = self._change(run.id, outcome)
        status = record.status
        if status.state is JobState.WAITING:
            chance = self._context.clock.chance()
            pause = (records.AWAY if run.away else records.PAUSE).delay(record.tries, chance)
            self._not_before[run.id] = self._context.clock.monotonic() + pause
        self._context.publisher.publish(
            "job", phase=str(status.state), code=status.code, message=f"{run.id}: {status.message}".rstrip(": ")
        )

    def _tell(self, run: _Run, done: float | None, text: str) -> None:
        """In the pool: progress, not too often. It is not worth a write to the journal."""
        now = self._context.clock.monotonic()
        run.allowance = min(run.allowance + (now - run.told_at) / PROGRESS_EVERY_S, PROGRESS_BURST)
        run.told_at = now
        if run.allowance >= 1:
            run.allowance -= 1
            self._context.put(TaskDone(lambda: self._progressed(run, done, text)))

    def _progressed(self, run: _Run, done: float | None, text: str) -> None:
        record = self._records.get(run.id)
        if record is not None and self._run is run:
            self._records = {**self._records, run.id: records.progressed(record, done, text)}
            self._context.changed = True

    def _change(self, name: str, outcome: Outcome) -> JobRecord:
        record = outcome(self._records[name])
        self._save({**self._records, name: record})
        return record

    def _save(self, changed: Records) -> None:
        """To disk before it is believed. Raises TransientError when the disk refuses."""
        if changed != self._records:
            self._context.journal.put(_KEY, JobRecords(jobs=changed).canonical())
        self._records = changed
        self._not_before = {name: at for name, at in self._not_before.items() if name in changed}
        self._context.changed = True


def _what(job: Job) -> str:
    return f"{job.model}@{job.version}" + (f" to {job.to}" if job.to else "")
