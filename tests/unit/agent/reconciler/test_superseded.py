"""A version that was superseded before it had proven itself, and goes on answering: it is watched all the same."""

from __future__ import annotations

from agent.adapters.network.registry_answers import UnreachableError
from agent.core.probation import MAX_ENDS
from agent.errors import PermanentError
from registry.contracts.codes import DeploymentCode
from registry.contracts.device.deployments import Phase
from tests.fakes.host import Host


def unproven_beside_a_failure() -> Host:
    """1.0.0 was committed; 2.0.0 serves and was superseded in its probation by 3.0.0, whose manifest is wrong."""
    host = Host().desire(1, lenet="1.0.0").commit().desire(2, lenet="2.0.0").settle()
    host.steps.fail("resolve", PermanentError(DeploymentCode.MANIFEST_MISMATCH, "it is of another model"))
    host.desire(3, lenet="3.0.0").settle()
    assert (host.serves(), host.progress().phase) == ("2.0.0", Phase.FAILED)
    return host


def test_a_version_that_was_superseded_in_its_probation_is_watched_on_when_the_next_one_fails() -> None:
    host = unproven_beside_a_failure()
    tally = host.data_path.tallies["lenet"]
    tally.answered, tally.errors["run_failed"] = 30, 10
    host.wait(2.0)
    assert (host.serves(), host.progress().phase, host.progress().version) == ("1.0.0", Phase.FAILED, "3.0.0")
    assert {bad.version for bad in host.journal.records["lenet"].quarantine} >= {"2.0.0"}
    told = [(event.phase, event.code) for event in host.data_path.events if event.kind == "worker"]
    assert ("taken_back", DeploymentCode.PROBATION_ERRORS) in told


def test_its_deaths_and_those_of_the_agent_are_counted_on() -> None:
    host = unproven_beside_a_failure()
    for _ in range(MAX_ENDS - 1):
        assert host.boot().settle().serves() == "2.0.0"
    host.boot().settle()
    assert host.serves() == "1.0.0"


def test_when_it_stays_well_it_has_proven_itself_and_is_what_to_go_back_to() -> None:
    host = unproven_beside_a_failure().wait(100.0)
    assert host.serves() == "2.0.0"
    record = host.journal.records["lenet"]
    assert record.proven
    assert not host.data_path.tallies["lenet"].watching


def test_it_is_watched_while_the_next_one_is_on_its_way() -> None:
    host = Host().desire(1, lenet="1.0.0").commit().desire(2, lenet="2.0.0").settle()
    host.steps.fail("download", *[UnreachableError("away")] * 90)
    host.desire(3, lenet="3.0.0").settle()
    tally = host.data_path.tallies["lenet"]
    tally.answered, tally.unexpected[0] = 30, 3
    host.wait(2.0)
    assert (host.serves(), host.progress().phase) == ("1.0.0", Phase.DOWNLOADING)
    host.steps.errors.clear()
    for _ in range(5):
        host.wait(400.0)
    assert (host.serves(), host.progress().phase) == ("3.0.0", Phase.COMMITTED)


def test_it_is_watched_while_the_next_one_waits_for_its_next_try() -> None:
    host = Host().desire(1, lenet="1.0.0").commit().desire(2, lenet="2.0.0").settle()
    host.steps.fail("download", UnreachableError("busy", retry_after_s=3600.0))
    host.desire(3, lenet="3.0.0").settle()
    assert host.progress().until is not None
    host.wait(5.0)
    assert host.reconciler.patience() > 0.0
    tally = host.data_path.tallies["lenet"]
    tally.answered, tally.errors["run_failed"] = 30, 10
    assert host.wait(2.0).serves() == "1.0.0"
