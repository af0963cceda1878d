"""The life of a deployment on one device: hold, strategy, golden vectors, probation, rollback, quarantine."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest

from agent.adapters.network.registry_answers import UnreachableError
from agent.core.events import WorkerDied
from agent.core.lifecycle import State
from agent.core.local_policy import Wait
from agent.core.probation import MAX_ENDS
from agent.errors import PermanentError, TransientError
from registry.contracts.catalogue.manifest import FileRef, Golden, Parity
from registry.contracts.codes import DeploymentCode
from registry.contracts.device.deployments import DeploymentPolicy, Phase, Strategy
from registry.contracts.device.messages import ServingState
from registry.contracts.wire import digest_of
from tests.fakes.host import Host
from tests.unit.agent.reconciler.on_probation import committed, fail_requests, on_probation, policy

GOLDEN = Golden(file=FileRef(path="golden.safetensors", digest=digest_of(b"golden"), size=6), cases=1)


def kill(host: Host, model: str = "lenet") -> Host:
    return host.tell(WorkerDied(model, host.data_path.serving[model], "signal 11")).settle().wait(2.0)


def test_a_version_that_stays_well_is_committed_when_its_probation_is_over() -> None:
    host = on_probation()
    assert host.progress().until is not None
    assert host.wait(59.0).progress().phase is Phase.PROBATION
    assert host.wait(2.0).progress().phase is Phase.COMMITTED
    assert host.journal.records["lenet"].previous.version == "1.0.0"  # type: ignore[union-attr]


def test_without_a_probation_it_is_committed_as_soon_as_it_serves() -> None:
    host = Host().desire(1, lenet="1.0.0", wish=policy(probation_s=0)).settle()
    assert host.progress().phase is Phase.COMMITTED


def test_a_version_that_fails_goes_back_without_network_and_is_not_tried_again() -> None:
    host = on_probation()
    host.steps.fail("download", *[UnreachableError("away")] * 9)
    host.steps.fail("resolve", *[UnreachableError("away")] * 9)
    done = len(host.steps.done)
    fail_requests(host)
    assert (host.serves(), host.progress().phase, host.progress().code) == (
        "1.0.0",
        Phase.ROLLED_BACK,
        DeploymentCode.PROBATION_ERRORS,
    )
    assert host.progress().failed_in is Phase.PROBATION
    assert host.state() is ServingState.FAILED
    assert host.steps.done[done:] == ["verify 1.0.0", "warm 1.0.0"]
    assert host.desire(3, lenet="2.0.0", other="1.0.0").settle().progress().phase is Phase.ROLLED_BACK


def test_a_failing_version_answers_until_the_previous_one_is_there() -> None:
    host = on_probation()
    tally = host.data_path.tallies["lenet"]
    tally.answered, tally.unexpected[0] = 30, 1
    while "verify 1.0.0" not in host.steps.done[5:]:
        assert host.serves() == "2.0.0"
        host.elapsed += 0.5
        host.step()
    assert host.settle().serves() == "1.0.0"
    assert [worker.closed for worker in host.steps.started] == [True, True, False]


def test_a_quarantined_variant_is_refused_until_somebody_asks_for_another_attempt() -> None:
    host = fail_requests(on_probation())
    host.desire(3, lenet="1.0.0").settle().desire(4, lenet="2.0.0").settle()
    said = host.progress()
    assert (said.phase, said.code, said.failed_in, said.retriable) == (
        Phase.FAILED,
        DeploymentCode.QUARANTINED,
        Phase.OFFERED,
        False,
    )
    assert host.serves() == "1.0.0"
    assert host.boot().settle().progress().phase is Phase.FAILED
    host.desire(5, lenet="2.0.0", wish={"attempt": 1}).commit()
    assert (host.serves(), host.progress().phase, host.progress().attempt) == ("2.0.0", Phase.COMMITTED, 1)


def test_a_worker_that_dies_too_often_in_probation_is_rolled_back() -> None:
    host = on_probation()
    assert kill(host).progress().phase is Phase.PROBATION
    kill(host)
    assert (host.serves(), host.progress().code) == ("1.0.0", DeploymentCode.PROBATION_CRASHES)


def test_an_agent_that_ends_too_often_in_a_probation_rolls_back_before_it_loads_the_version_again() -> None:
    host = on_probation()
    for _ in range(MAX_ENDS - 1):
        assert host.boot().settle().serves() == "2.0.0"
    host.boot().settle()
    assert (host.serves(), host.progress().phase) == ("1.0.0", Phase.ROLLED_BACK)
    assert "warm 2.0.0" not in host.steps.done


def test_cuts_of_power_are_no_crashes_of_the_version_that_was_watched() -> None:
    host = on_probation()
    for _ in range(3 * MAX_ENDS):
        assert host.wait(20.0).cut_power().settle().serves() == "2.0.0"
    record = host.journal.records["lenet"]
    assert (record.trial.deaths, record.trial.ends, record.quarantine) == (0, 0, ())  # type: ignore[union-attr]
    assert host.wait(100.0).progress().phase is Phase.COMMITTED


def test_cuts_of_power_while_a_version_is_loaded_do_not_use_up_its_tries() -> None:
    host = committed().desire(2, lenet="2.0.0")
    for _ in range(20):
        while host.journal.records["lenet"].state is not State.WARMING:
            assert host.step()
        host.cut_power()
    assert host.journal.records["lenet"].attempts == 0
    assert host.commit().serves() == "2.0.0"


def test_an_agent_that_is_stopped_in_order_counts_as_no_death() -> None:
    host = on_probation()
    for _ in range(5):
        host.reconciler.stop(1.0)
        host.boot().settle()
    assert host.progress().phase is Phase.PROBATION
    assert host.wait(100.0).progress().phase is Phase.COMMITTED


def test_a_first_version_that_fails_says_so_and_answers_on_as_well_as_it_can() -> None:
    host = Host().desire(1, lenet="1.0.0").settle()
    fail_requests(host)
    said = host.wait(1000.0).progress()
    assert (said.phase, said.code, said.failed_in) == (Phase.FAILED, DeploymentCode.PROBATION_ERRORS, Phase.PROBATION)
    assert host.serves() == "1.0.0"
    assert host.boot().settle().serves() == "1.0.0"
    assert host.progress().phase is Phase.FAILED


def test_a_first_version_whose_workers_keep_dying_is_started_again_and_again() -> None:
    host = Host().desire(1, lenet="1.0.0").settle()
    for _ in range(3):
        host.tell(WorkerDied("lenet", host.data_path.serving["lenet"], "killed")).settle().wait(5.0)
    assert host.progress().code == DeploymentCode.PROBATION_CRASHES
    assert host.serves() == "1.0.0"


def test_a_previous_version_that_does_not_come_up_is_told_and_tried_on() -> None:
    host = on_probation()
    host.steps.fail("warm", *[TransientError(DeploymentCode.WORKER_CRASHED, "died")] * 7)
    fail_requests(host)
    for _ in range(20):
        host.wait(20.0)
    assert host.progress().phase is Phase.ROLLBACK_FAILED
    assert host.progress().code == DeploymentCode.ROLLBACK_FAILED
    for _ in range(5):
        host.wait(301.0)
    assert (host.serves(), host.progress().phase, host.progress().code) == (
        "1.0.0",
        Phase.ROLLED_BACK,
        DeploymentCode.PROBATION_ERRORS,
    )


def test_a_rollback_that_failed_makes_way_for_another_version() -> None:
    host = on_probation()
    host.steps.fail("verify", TransientError(DeploymentCode.DIGEST_MISMATCH, "bit rot"))
    host.steps.fail("download", *[UnreachableError("away")] * 2)
    fail_requests(host)
    assert host.progress().phase is Phase.ROLLBACK_FAILED
    host.steps.errors.clear()
    assert host.desire(3, lenet="3.0.0").commit().serves() == "3.0.0"
    assert host.progress().phase is Phase.COMMITTED


def test_the_registrys_rollback_settles_at_once_on_what_the_device_went_back_to() -> None:
    host = fail_requests(on_probation())
    done = len(host.steps.done)
    host.desire(3, lenet="1.0.0", wish={"rollout": "r-2"}).settle()
    assert (host.progress().phase, host.progress().rollout) == (Phase.COMMITTED, "r-2")
    assert host.steps.done[done:] == []


def test_a_rollout_that_assigns_what_serves_starts_no_worker_and_is_committed_at_once() -> None:
    host = committed()
    done, worker = len(host.steps.done), host.data_path.serving["lenet"]
    host.desire(2, lenet="1.0.0", wish={"rollout": "r-1", "record_results": True}).settle()
    said = host.progress()
    assert (said.phase, said.rollout, said.serves) == (Phase.COMMITTED, "r-1", "1.0.0")
    assert host.steps.done[done:] == []
    assert host.data_path.serving["lenet"] is worker
    bound = host.data_path.bound["lenet"]
    assert (bound.rollout, bound.record_results) == ("r-1", True)
    assert host.boot().settle().data_path.bound["lenet"].rollout == "r-1"


def test_a_held_deployment_waits_staged_and_goes_on_without_starting_anew() -> None:
    host = committed().desire(2, lenet="2.0.0", wish=policy(hold=True)).settle()
    assert (host.serves(), host.progress().phase, host.progress().code) == ("1.0.0", Phase.STAGED, DeploymentCode.HELD)
    assert host.boot().settle().progress().phase is Phase.STAGED
    done = len(host.steps.done)
    host.desire(3, lenet="2.0.0").settle()
    assert (host.serves(), host.progress().code) == ("2.0.0", "")
    assert host.steps.done[done:] == ["warm 2.0.0"]


def test_a_shorter_probation_is_taken_up_by_the_one_under_way() -> None:
    host = on_probation().desire(3, lenet="2.0.0", wish=policy(probation_s=1.0)).settle()
    assert host.wait(2.0).progress().phase is Phase.COMMITTED


def test_where_there_is_no_room_for_two_the_active_version_ends_first_and_the_gap_is_told() -> None:
    host = committed()
    host.steps.free = 0
    host.desire(2, lenet="2.0.0")
    while "warm 2.0.0" not in host.steps.done:
        host.elapsed += 0.25
        host.step()
    assert host.serves() is None
    assert host.steps.started[0].closed
    host.settle()
    assert host.serves() == "2.0.0"
    assert host.progress().gap_s
    assert len([worker for worker in host.steps.started if not worker.closed]) == 1


def test_a_candidate_that_fails_after_the_active_one_was_ended_brings_that_back() -> None:
    host = committed()
    host.steps.free = 0
    host.steps.fail("warm", PermanentError(DeploymentCode.LOAD_FAILED, "broken"))
    host.desire(2, lenet="2.0.0").settle()
    assert (host.serves(), host.progress().phase, host.progress().failed_in) == ("1.0.0", Phase.FAILED, Phase.WARMING)


def test_beside_without_room_is_given_up_and_may_be_tried_again() -> None:
    host = committed()
    host.steps.free = 0
    host.desire(2, lenet="2.0.0", wish=policy(strategy=Strategy.BESIDE)).settle()
    said = host.progress()
    assert (host.serves(), said.phase, said.code) == ("1.0.0", Phase.FAILED, DeploymentCode.MEMORY_INSUFFICIENT)
    assert said.retriable


def test_a_swap_beside_leaves_no_gap() -> None:
    assert on_probation().progress().gap_s == 0.0


def test_golden_vectors_are_answered_before_the_switch_and_not_again_after_a_restart() -> None:
    host = Host()
    host.steps.golden = GOLDEN
    host.desire(1, lenet="1.0.0").settle()
    assert host.steps.done[-2:] == ["warm 1.0.0", "compare 1.0.0"]
    assert host.reports[-1].models["lenet"].parity == host.steps.parity
    assert host.progress().parity == host.steps.parity
    host.boot().settle()
    assert "compare 1.0.0" not in host.steps.done
    assert host.reports[-1].models["lenet"].parity is not None


def test_wrong_answers_keep_a_version_from_serving_and_put_it_into_quarantine() -> None:
    host = committed()
    host.steps.golden = GOLDEN
    host.steps.parity = Parity(cases=1, max_abs=9.0, max_rel=1.0, top1_agreement=0.5, passed=False)
    host.desire(2, lenet="2.0.0").settle()
    said = host.progress()
    assert (said.phase, said.code, said.failed_in) == (Phase.FAILED, DeploymentCode.GOLDEN_MISMATCH, Phase.WARMING)
    assert said.parity == host.steps.parity
    assert host.serves() == "1.0.0"
    assert host.steps.started[-1].closed
    assert [bad.version for bad in host.journal.records["lenet"].quarantine] == ["2.0.0"]


def test_another_wish_in_a_probation_supersedes_it_and_the_last_committed_version_stays_the_previous_one() -> None:
    host = on_probation().desire(3, lenet="3.0.0").settle()
    assert "superseded" in host.phases()
    assert host.serves() == "3.0.0"
    assert host.journal.records["lenet"].previous.version == "1.0.0"  # type: ignore[union-attr]
    assert fail_requests(host).serves() == "1.0.0"


def test_going_back_in_a_probation_needs_no_network() -> None:
    host = on_probation()
    host.steps.fail("download", *[UnreachableError("away")] * 9)
    host.steps.errors["download"].clear()
    host.desire(3, lenet="1.0.0").settle()
    assert host.serves() == "1.0.0"
    told = [(event.phase, event.version) for event in host.data_path.events if event.kind == "deployment"]
    assert ("superseded", "2.0.0") in told


def test_what_is_called_off_before_the_switch_is_told_under_its_own_name() -> None:
    host = committed()
    host.steps.fail("download", UnreachableError("away"))
    host.desire(2, lenet="2.0.0").settle().desire(3, lenet="1.0.0").settle()
    told = [(event.phase, event.version) for event in host.data_path.events if event.kind == "deployment"]
    assert told[-2:] == [("cancelled", "2.0.0"), ("committed", "1.0.0")]


def test_a_deployment_that_waits_says_in_which_phase_why_and_until_when() -> None:
    host = Host()
    host.steps.fail("download", UnreachableError("away"))
    host.desire(1, lenet="1.0.0").settle()
    said = host.progress()
    assert (said.phase, said.code, said.tries) == (Phase.DOWNLOADING, DeploymentCode.REGISTRY_UNREACHABLE, 1)
    assert said.until is not None
    assert said.bytes_total > 0


def test_a_report_that_cannot_be_sent_rolls_nothing_back() -> None:
    host = on_probation()
    host.uplink.error = UnreachableError("away")
    assert host.wait(100.0).progress().phase is Phase.COMMITTED


def test_a_full_disk_is_told_and_waited_out_while_the_version_before_serves() -> None:
    host = committed()
    host.steps.fail("download", *[TransientError(DeploymentCode.INSUFFICIENT_DISK, "no space left on device")] * 20)
    host.desire(2, lenet="2.0.0").settle()
    for _ in range(15):
        said = host.wait(301.0).progress()
        assert (host.serves(), said.phase, said.code) == (
            "1.0.0",
            Phase.DOWNLOADING,
            DeploymentCode.INSUFFICIENT_DISK,
        )
    assert host.state() is ServingState.CHANGING
    assert said.tries > 8, "an outage has no last try"
    host.steps.errors.clear()
    assert host.wait(301.0).commit().serves() == "2.0.0"
    assert host.progress().phase is Phase.COMMITTED


def test_files_that_rot_during_a_probation_are_no_fault_of_the_version() -> None:
    host = on_probation()
    host.steps.fail("verify", TransientError(DeploymentCode.DIGEST_MISMATCH, "bit rot"))
    kill(host)
    host.wait(5.0).wait(5.0)
    assert host.serves() == "2.0.0"
    assert host.journal.records["lenet"].quarantine == ()


class _Busy:
    """A host that says not now, for a while."""

    def __init__(self, host: Host, seconds: float) -> None:
        self.code = DeploymentCode.LEASE
        self.message = "a program runs"
        self.until = host.now() + timedelta(seconds=seconds)
        self._host = host

    def may_download(self, model: str, wish: DeploymentPolicy, offered_at: datetime, missing: int) -> Wait | None:
        return self if missing and self._host.now() < self.until else None

    def may_switch(self, model: str, wish: DeploymentPolicy, offered_at: datetime) -> Wait | None:
        return self if self._host.now() < self.until else None


@pytest.mark.parametrize("missing", [True, False])
def test_a_host_that_says_not_now_is_waited_for(missing: bool) -> None:
    host = committed()
    host.steps.missing = missing
    host.context.host = _Busy(host, 50.0)
    host.desire(2, lenet="2.0.0").settle()
    said = host.progress()
    assert (said.phase, said.code, host.serves()) == (Phase.DEFERRED, DeploymentCode.LEASE, "1.0.0")
    assert said.until is not None
    assert ("download 2.0.0" in host.steps.done) is not missing
    assert host.wait(49.0).serves() == "1.0.0"
    assert host.wait(2.0).serves() == "2.0.0"


def test_a_candidate_that_keeps_taking_the_agent_down_is_given_up() -> None:
    host = committed().desire(2, lenet="2.0.0")
    for _ in range(20):
        while host.journal.records["lenet"].state is not State.WARMING and host.step():
            pass
        if host.journal.records["lenet"].state is not State.WARMING:
            break
        host.boot()
    said = host.settle().progress()
    assert (said.phase, said.code) == (Phase.FAILED, DeploymentCode.ATTEMPTS_EXHAUSTED)
    assert host.serves() == "1.0.0"


def test_all_workers_but_the_one_that_serves_are_ended() -> None:
    host = fail_requests(on_probation())
    alive = [worker for worker in host.steps.started if not worker.closed]
    assert [worker.choice.version for worker in alive] == ["1.0.0"]


def answers(host: Host, *specials: int) -> Host:
    """30 answers were looked at; so many of them held NaN, infinity, minus infinity."""
    tally = host.data_path.tallies["lenet"]
    assert tally.watching
    tally.answered, tally.specials, tally.unexpected = 30, list(specials), list(specials)
    return host


@pytest.mark.parametrize(
    ("before", "now", "phase"),
    [
        ((0, 0, 30), (0, 0, 30), Phase.COMMITTED),
        ((0, 0, 30), (1, 0, 30), Phase.ROLLED_BACK),
        ((0, 0, 0), (0, 0, 1), Phase.ROLLED_BACK),
        ((10, 0, 0), (12, 0, 0), Phase.COMMITTED),
    ],
)
@pytest.mark.parametrize("restarted", [False, True])
def test_nan_in_answers_is_compared_with_the_version_before(
    before: tuple[int, ...], now: tuple[int, ...], phase: Phase, restarted: bool
) -> None:
    host = answers(Host().desire(1, lenet="1.0.0").settle(), *before)
    assert host.wait(100.0).progress().phase is Phase.COMMITTED, "nothing is there to compare the first one with"
    if restarted:
        host.boot().settle()
    answers(host.desire(2, lenet="2.0.0").settle(), *now).wait(2.0)
    assert host.wait(100.0).progress().phase is phase


def test_what_serves_is_looked_at_while_its_successor_is_on_its_way() -> None:
    host = committed()
    assert not host.data_path.tallies["lenet"].watching
    host.steps.fail("download", *[UnreachableError("away")] * 2)
    host.desire(2, lenet="2.0.0")
    host.step()
    assert host.data_path.tallies["lenet"].watching
    for _ in range(5):
        host.wait(1000.0)
    assert (host.serves(), host.data_path.tallies["lenet"].watching) == ("2.0.0", False)
