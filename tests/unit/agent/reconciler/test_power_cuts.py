"""The power is cut after any write to the journal, and wishes, failures and time come in any order: what must hold.

One version answers at a time, a version that was given up answers no more, `committed` is only said of what answers,
and every deployment comes to an end.
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from agent.core.events import WorkerDied
from agent.core.lifecycle import State
from agent.errors import AgentError, PermanentError, TransientError
from registry.contracts.codes import DeploymentCode
from registry.contracts.device.deployments import FINAL, DeploymentPolicy, Phase, ShadowFigures, ShadowPolicy, Strategy
from tests.fakes.control import FakeWorker, PowerCutError
from tests.fakes.host import Host

VERSIONS = ("1.0.0", "2.0.0", "3.0.0")
ENDED = FINAL - {Phase.ROLLBACK_FAILED}


def alive(host: Host) -> list[FakeWorker]:
    return [worker for worker in host.steps.started if not worker.closed]


def check_journal(host: Host) -> None:
    """What the journal says could be brought back by a start right now."""
    for record in host.journal.records.values():
        if record.previous is not None and record.active is not None:
            assert record.previous.variant_digest != record.active.variant_digest
        if record.proven:
            assert record.active is not None
        if record.state is State.PROBATION:
            assert not record.proven


def bad_request_rate(host: Host) -> None:
    tally = host.data_path.tallies.get("lenet")
    if tally is not None:
        tally.answered, tally.errors["run_failed"] = 100, 100


def cut_after(host: Host, writes: int, seconds: float = 80.0) -> bool:
    """Runs until the power is cut after so many more writes; False when there were fewer."""
    host.journal.power_for = writes
    try:
        for _ in range(int(seconds / 10)):
            host.settle()
            host.elapsed += 10.0
        host.settle()
    except PowerCutError:
        return True
    finally:
        host.journal.power_for = None
    return False


def to_the_end(host: Host) -> Host:
    for _ in range(30):
        host.wait(30.0)
    return host


@pytest.mark.parametrize("shadow", [None, ShadowPolicy(duration_s=30.0)], ids=["no shadow", "shadow"])
@pytest.mark.parametrize("free", [None, 0], ids=["beside", "stop first"])
def test_a_power_cut_at_any_write_of_a_good_deployment_ends_with_it_committed(
    free: int | None, shadow: ShadowPolicy | None
) -> None:
    wish = {"policy": DeploymentPolicy(shadow=shadow)}
    writes = 0
    while True:
        writes += 1
        host = Host().desire(1, lenet="1.0.0").commit()
        host.steps.free = free
        host.desire(2, lenet="2.0.0", wish=wish)
        was_cut = cut_after(host, writes)
        check_journal(host)
        host.boot().steps.free = free
        to_the_end(host)
        assert (host.serves(), host.progress().phase) == ("2.0.0", Phase.COMMITTED)
        assert [worker.choice.version for worker in alive(host)] == ["2.0.0"]
        if not was_cut:
            break
    assert writes > 8


def test_a_power_cut_at_any_write_of_a_bad_deployment_ends_with_the_version_before() -> None:
    writes = 0
    while True:
        writes += 1
        host = Host().desire(1, lenet="1.0.0").commit().desire(2, lenet="2.0.0").settle()
        bad_request_rate(host)
        was_cut = cut_after(host, writes)
        check_journal(host)
        host.boot().settle()
        bad_request_rate(host) if host.serves() == "2.0.0" else None
        to_the_end(host)
        assert (host.serves(), host.progress().phase) == ("1.0.0", Phase.ROLLED_BACK)
        assert [bad.version for bad in host.journal.records["lenet"].quarantine] == ["2.0.0"]
        if not was_cut:
            break
    assert writes > 2


def test_a_power_cut_at_any_write_of_a_withdrawal_ends_with_nothing() -> None:
    writes = 0
    while True:
        writes += 1
        host = Host().desire(1, lenet="1.0.0").commit().desire(2)
        was_cut = cut_after(host, writes, 10.0)
        to_the_end(host.boot())
        assert host.serves() is None
        assert host.journal.records == {}
        if not was_cut:
            break
    assert writes > 1


class Life(RuleBasedStateMachine):
    """One device, one model, and everything that can happen to it, in any order."""

    @initialize()
    def begin(self) -> None:
        self.host = Host()
        self.generation = 0
        self.attempt = 0
        self.wish("1.0.0", hold=False, probation_s=30.0, strategy=Strategy.AUTO, rollout=None, retry=False, shadow=None)
        self.host.commit()

    @rule(
        version=st.sampled_from((*VERSIONS, None)),
        hold=st.booleans(),
        probation_s=st.sampled_from((0.0, 30.0)),
        strategy=st.sampled_from(list(Strategy)),
        rollout=st.sampled_from((None, "r1", "r2")),
        shadow=st.sampled_from((None, ShadowPolicy(duration_s=20.0, min_agreement=0.9))),
        retry=st.booleans(),
    )
    def wish(self, version: str | None, retry: bool, rollout: str | None, **policy: Any) -> None:
        self.generation += 1
        self.attempt += retry
        wish = {"policy": DeploymentPolicy(**policy), "attempt": self.attempt, "rollout": rollout}
        models: dict[str, Any] = {"lenet": version} if version else {}
        with_disk(self.host, lambda: self.host.desire(self.generation, wish=wish, **models))

    @rule(steps=st.integers(1, 12))
    def go_on(self, steps: int) -> None:
        for _ in range(steps):
            self.host.step()

    @rule(seconds=st.sampled_from((1.0, 10.0, 40.0, 400.0)))
    def wait(self, seconds: float) -> None:
        self.host.wait(seconds)

    @rule(
        step=st.sampled_from(("resolve", "download", "verify", "warm")),
        code=st.sampled_from(("registry_unreachable", "digest_mismatch", "worker_crashed", "load_failed")),
        times=st.integers(1, 7),
    )
    def fail(self, step: str, code: str, times: int) -> None:
        error: AgentError = TransientError(code, "for now")
        if code == DeploymentCode.LOAD_FAILED:
            error = PermanentError(code, "for good")
        self.host.steps.fail(step, *[error] * times)

    @rule()
    def heal(self) -> None:
        self.host.steps.errors.clear()
        self.host.journal.broken = False

    @rule()
    def disk_full(self) -> None:
        self.host.journal.broken = True

    @rule(free=st.sampled_from((None, 0)))
    def memory(self, free: int | None) -> None:
        self.host.steps.free = free

    @rule(agreement=st.sampled_from((None, 0.0, 1.0)), dies=st.booleans())
    def compare(self, agreement: float | None, dies: bool) -> None:
        data_path = self.host.data_path
        data_path.found = ShadowFigures(compared=0 if agreement is None else 50, agreement=agreement)
        for shadow in data_path.shadows[-1:]:
            shadow.found = data_path.found
            shadow.failure = TransientError(DeploymentCode.WORKER_CRASHED, "signal 11") if dies else None

    @rule()
    def answer_badly(self) -> None:
        bad_request_rate(self.host)

    @precondition(lambda self: self.host.serves() is not None)
    @rule()
    def die(self) -> None:
        worker = self.host.data_path.serving["lenet"]
        self.host.data_path.serving["lenet"] = None
        self.host.tell(WorkerDied("lenet", worker, "signal 11"))

    @rule(orderly=st.booleans())
    def restart(self, orderly: bool) -> None:
        if orderly:
            self.host.reconciler.stop(1.0)
        self.host.journal.broken = False
        self.host.boot()

    @rule(writes=st.integers(1, 4))
    def power_cut(self, writes: int) -> None:
        self.host.journal.broken = False
        cut_after(self.host, writes, 40.0)
        self.host.boot()

    @invariant()
    def the_journal_can_be_taken_up(self) -> None:
        check_journal(self.host)

    @invariant()
    def one_worker_answers_and_at_most_one_candidate_is_beside_it(self) -> None:
        assert len(alive(self.host)) <= 3  # The third drains, or was started for what is not wanted any more.

    @invariant()
    def a_worker_is_compared_or_answers_and_never_both(self) -> None:
        data_path = self.host.data_path
        answers = data_path.serving.get("lenet")
        assert all(shadow.ended for shadow in data_path.shadows if shadow.worker is answers)

    @invariant()
    def committed_is_only_said_of_what_answers_or_is_being_started_again(self) -> None:
        for report in self.host.reports[-1:]:
            said = report.models.get("lenet")
            if said is not None and said.deployment is not None and said.deployment.phase is Phase.COMMITTED:
                assert said.version in (None, said.deployment.version)

    def teardown(self) -> None:
        """When the trouble is over and nothing is held, it comes to an end, and the truth is told."""
        host = self.host
        self.heal()
        host.steps.free = None
        record = host.journal.records.get("lenet")
        wish = host.context.desired.current.models.get("lenet") if host.context.desired.current else None
        if wish is not None and wish.policy.hold:
            fields = {"policy": DeploymentPolicy(probation_s=30.0), "attempt": wish.attempt, "rollout": wish.rollout}
            host.desire(self.generation + 1, wish=fields, lenet=wish.version)
        to_the_end(host)
        record = host.journal.records.get("lenet")
        if wish is None:
            assert record is None
            assert host.serves() is None
            return
        assert record is not None
        assert host.progress().phase in ENDED
        active = record.active.version if record.active else None
        assert host.serves() in (active, None)
        if host.progress().phase is Phase.COMMITTED:
            assert active == wish.version
            assert host.serves() == wish.version or host.state() == "failed"
        workers = [worker.choice.version for worker in alive(host)]
        assert workers == ([host.serves()] if host.serves() else [])


def with_disk(host: Host, work: Any) -> None:
    """A wish that the disk does not take is not taken; it comes again, here at once."""
    broken, host.journal.broken = host.journal.broken, False
    work()
    host.journal.broken = broken


TestLife = Life.TestCase
TestLife.settings = settings(
    max_examples=40,
    stateful_step_count=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
