"""Jobs of a device, driven by hand: done once, one at a time, within their time, whatever happens between."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agent.adapters.network.registry_answers import UnreachableError
from agent.config.settings import AgentConfig
from agent.errors import PermanentError, StepCancelledError, TransientError
from agent.jobs.context import Progress
from agent.jobs.handlers import RealJobs
from agent.jobs.records import AWAY, MAX_RESULT_BYTES, MAX_TRIES
from registry.contracts.device.deployments import Job, JobKind, JobState, JobStatus
from registry.contracts.device.messages import Desired
from registry.contracts.wire import digest_of
from tests.fakes.host import DEVICE, START, Host, desired

JOB = Job(kind=JobKind.CONVERT, model="lenet", version="1", manifest=digest_of(b""), timeout_s=100)


class Work:
    """Remembers what was done; `behave` says how it goes."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.behave: Callable[[threading.Event, Progress], dict[str, Any]] = lambda _cancel, _progress: {"made": 1}

    def __call__(self, name: str, job: Job, folder: Path, cancel: threading.Event, tell: Progress) -> dict[str, Any]:
        assert list(folder.iterdir()) == []
        (folder / "half-done").write_bytes(b"x")
        self.done.append(name)
        return self.behave(cancel, tell)


@pytest.fixture
def work() -> Work:
    return Work()


@pytest.fixture
def host(work: Work, tmp_path: Path) -> Host:
    return Host(work=work, folder=tmp_path / "jobs")


def ask(host: Host, generation: int, *names: str) -> Host:
    document = Desired(device=DEVICE, generation=generation, issued_at=START, jobs=dict.fromkeys(names, JOB))
    host.context.offer(document.canonical())
    return host.settle()


def run_one(host: Host) -> Host:
    host.job_pool.waiting.pop(0)()
    return host.settle()


def status(host: Host, name: str = "a") -> JobStatus:
    return host.reports[-1].jobs[name]


def test_a_job_is_done_once_and_reported_until_it_leaves_the_document(host: Host, work: Work) -> None:
    ask(host, 1, "a")
    assert status(host).state is JobState.RUNNING
    run_one(host)
    assert (status(host).state, status(host).result) == (JobState.SUCCEEDED, {"made": 1})
    ask(host, 2, "a")
    host.boot().settle()
    assert status(host).state is JobState.SUCCEEDED
    assert (work.done, host.job_pool.waiting) == (["a"], [])
    ask(host, 3)
    assert host.reports[-1].jobs == {}


def test_what_only_a_newer_agent_understands_fails_that_job_and_all_else_is_followed(tmp_path: Path) -> None:
    nothing: Any = None  # a job of no known kind touches none of it
    work = RealJobs(AgentConfig(device=DEVICE), nothing, nothing, nothing)
    host = Host(work=work, folder=tmp_path / "jobs")
    document = json.loads(desired(2, lenet="1.1.0"))
    document["models"]["lenet"] |= {"profile": "frugal", "policy": {"strategy": "levitate"}}
    document["jobs"] = {"a": {**JOB.to_json(), "kind": "prune", "to": "unheard-of"}}
    host.context.offer(json.dumps(document).encode())
    run_one(host.settle())
    assert (status(host).state, status(host).code) == (JobState.FAILED, "job_not_known")
    assert "update" in status(host).message
    assert (host.reports[-1].generation, set(host.reports[-1].models)) == (2, {"lenet"})


def test_nothing_of_a_job_is_left_on_disk(host: Host, work: Work, tmp_path: Path) -> None:
    run_one(ask(host, 1, "a"))
    (tmp_path / "jobs" / "killed").mkdir()
    host.boot()
    assert not (tmp_path / "jobs").exists()


def test_jobs_are_done_one_after_the_other(host: Host, work: Work) -> None:
    ask(host, 1, "a", "b")
    assert len(host.job_pool.waiting) == 1
    assert status(host, "b").state is JobState.WAITING
    run_one(host)
    run_one(host)
    assert work.done == ["a", "b"]


def test_a_job_that_a_restart_interrupts_is_tried_again_a_few_times_only(host: Host, work: Work) -> None:
    ask(host, 1, "a")
    for _ in range(MAX_TRIES - 1):
        host.boot().settle()
        assert status(host).state is JobState.RUNNING
    host.boot().settle()
    assert (status(host).state, status(host).code) == (JobState.FAILED, "job_interrupted")
    assert host.job_pool.waiting == []


def test_an_error_that_may_pass_is_tried_again_after_a_pause(host: Host, work: Work) -> None:
    def away(_cancel: threading.Event, _tell: Progress) -> dict[str, Any]:
        raise TransientError("disk_error", "full")

    work.behave = away
    run_one(ask(host, 1, "a"))
    assert (status(host).state, status(host).code) == (JobState.WAITING, "disk_error")
    assert host.job_pool.waiting == []
    for _ in range(MAX_TRIES - 1):
        run_one(host.wait(120))
    assert (status(host).state, status(host).code) == (JobState.FAILED, "disk_error")


def test_a_registry_that_is_away_or_answered_for_costs_a_job_no_try(host: Host, work: Work) -> None:
    def away(_cancel: threading.Event, _tell: Progress) -> dict[str, Any]:
        raise UnreachableError("a proxy's page")

    work.behave = away
    run_one(ask(host, 1, "a"))
    for _ in range(10 * MAX_TRIES):
        run_one(host.wait(AWAY.cap_s))
        assert (status(host).state, status(host).code) == (JobState.WAITING, "registry_unreachable")
    work.behave = Work().behave
    run_one(host.wait(AWAY.cap_s))
    assert status(host).state is JobState.SUCCEEDED


def test_an_error_for_good_is_not_tried_again(host: Host, work: Work) -> None:
    def refuse(_cancel: threading.Event, _tell: Progress) -> dict[str, Any]:
        raise PermanentError("tool_missing", "no atc")

    work.behave = refuse
    run_one(ask(host, 1, "a")).wait(1000)
    assert (status(host).state, status(host).code, status(host).message) == (JobState.FAILED, "tool_missing", "no atc")
    assert work.done == ["a"]
    assert any(e.kind == "job" and e.code == "tool_missing" for e in host.data_path.events)


def test_a_fault_that_nobody_foresaw_fails_the_job_and_not_the_agent(host: Host, work: Work) -> None:
    work.behave = lambda _cancel, _tell: dict[str, Any]()["nothing"]
    run_one(ask(host, 1, "a"))
    assert (status(host).state, status(host).code) == (JobState.FAILED, "internal")
    work.behave = lambda _cancel, _tell: {"text": "x" * MAX_RESULT_BYTES}
    run_one(ask(host, 2, "b"))
    assert (status(host, "b").state, status(host, "b").code) == (JobState.FAILED, "internal")


def test_a_job_whose_time_is_over_is_stopped_and_the_next_begins_when_it_has_stopped(host: Host, work: Work) -> None:
    ask(host, 1, "a", "b").wait(101)
    assert (status(host).state, status(host).code) == (JobState.FAILED, "job_timeout")
    assert len(host.job_pool.waiting) == 1

    def stopped(cancel: threading.Event, _tell: Progress) -> dict[str, Any]:
        assert cancel.is_set()
        raise StepCancelledError

    work.behave = stopped
    run_one(host)
    assert status(host).code == "job_timeout"
    assert status(host, "b").state is JobState.RUNNING


def test_a_job_that_leaves_the_document_is_cancelled(host: Host, work: Work) -> None:
    ask(host, 1, "a")
    ask(host, 2)
    assert host.reports[-1].jobs == {}
    seen: list[bool] = []

    def stopped(cancel: threading.Event, _tell: Progress) -> dict[str, Any]:
        seen.append(cancel.is_set())
        raise StepCancelledError

    work.behave = stopped
    run_one(host)
    assert seen == [True]
    assert [e.phase for e in host.data_path.events if e.kind == "job"] == ["running", "cancelled"]


def test_progress_is_reported_while_a_job_runs(host: Host, work: Work) -> None:
    host.elapsed = 5.0
    told: list[JobStatus] = []

    def tell(_cancel: threading.Event, progress: Progress) -> dict[str, Any]:
        progress(7.5, "half")
        host.reconciler.handle_waiting()
        host.reconciler.look()
        told.append(status(host))
        return {}

    work.behave = tell
    run_one(ask(host, 1, "a"))
    assert [(s.done, s.message) for s in told] == [(1.0, "half")]


def test_the_last_of_some_quick_steps_is_told_and_a_flood_of_them_is_held_back(host: Host, work: Work) -> None:
    told: list[str] = []

    def look() -> None:
        host.reconciler.handle_waiting()
        host.reconciler.look()
        told.append(status(host).message)

    def tell(_cancel: threading.Event, progress: Progress) -> dict[str, Any]:
        for text in ("bringing", "the tool runs"):
            progress(None, text)
        look()
        for number in range(1000):
            progress(None, f"{number} of 1000")
        look()
        return {}

    work.behave = tell
    run_one(ask(host, 1, "a"))
    assert told[0] == "the tool runs"
    assert int(told[1].split()[0]) < 10


def test_a_disk_that_refuses_the_journal_keeps_a_job_from_beginning(host: Host, work: Work) -> None:
    ask(host, 1)
    document = Desired(device=DEVICE, generation=2, issued_at=START, jobs={"a": JOB})
    host.context.offer(document.canonical())
    host.journal.broken = True
    host.settle()
    assert host.job_pool.waiting == []
    host.journal.broken = False
    host.wait(400)
    assert len(host.job_pool.waiting) == 1


def test_an_outcome_that_cannot_be_written_down_is_not_reported_and_the_job_is_tried_again(
    host: Host, work: Work
) -> None:
    ask(host, 1, "a")
    host.journal.broken = True
    run_one(host)
    assert status(host).state is JobState.RUNNING
    host.journal.broken = False
    host.wait(10)
    run_one(host)
    assert status(host).state is JobState.SUCCEEDED
    assert work.done == ["a", "a"]
