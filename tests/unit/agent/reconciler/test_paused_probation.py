"""A pause of the rollout holds what serves on probation: it is not committed, and can still fail or go back."""

from __future__ import annotations

from datetime import timedelta

from agent.errors import PermanentError
from registry.contracts.codes import DeploymentCode
from registry.contracts.device.deployments import Phase
from registry.contracts.device.messages import ServingState
from tests.fakes.host import Host
from tests.unit.agent.reconciler.on_probation import committed, fail_requests, on_probation, policy

HOLD = policy(hold=True)


def held_in_probation() -> Host:
    """As `on_probation`; then the rollout was paused, and the probation's time is over."""
    host = on_probation().wait(30.0).desire(3, lenet="2.0.0", wish=HOLD).wait(1000.0)
    assert (host.serves(), host.progress().phase, host.progress().code) == (
        "2.0.0",
        Phase.PROBATION,
        DeploymentCode.HELD,
    )
    return host


def test_what_serves_when_its_rollout_is_paused_stays_in_probation_and_says_why() -> None:
    host = on_probation()
    began, done = host.progress().since, len(host.steps.done)
    host.desire(3, lenet="2.0.0", wish=HOLD).wait(100_000.0)
    said = host.progress()
    assert (said.phase, said.since, said.until, said.serves) == (Phase.PROBATION, began, None, "2.0.0")
    assert "paused" in said.message
    assert host.state() is ServingState.SERVING
    assert host.steps.done[done:] == []
    assert host.journal.records["lenet"].previous is not None


def test_a_pause_that_ends_commits_at_once_what_has_served_its_probation() -> None:
    host = held_in_probation().desire(4, lenet="2.0.0").settle()
    assert (host.progress().phase, host.progress().code) == (Phase.COMMITTED, "")


def test_a_pause_that_ends_early_leaves_the_rest_of_the_probation() -> None:
    host = on_probation().wait(10.0).desire(3, lenet="2.0.0", wish=HOLD).wait(10.0)
    host.desire(4, lenet="2.0.0").settle()
    said = host.progress()
    assert (said.phase, said.code, said.until) == (Phase.PROBATION, "", said.since + timedelta(seconds=60))
    assert host.wait(35.0).progress().phase is Phase.PROBATION
    assert host.wait(10.0).progress().phase is Phase.COMMITTED


def test_what_has_to_switch_in_a_pause_is_held_in_its_probation_even_where_it_asks_for_none() -> None:
    host = committed()
    host.steps.free = 0
    host.desire(2, lenet="2.0.0", wish=policy(probation_s=0))
    for _ in range(50):
        if host.serves() is None:
            break
        host.step()
    host.desire(3, lenet="2.0.0", wish=policy(probation_s=0, hold=True)).wait(100.0)
    assert (host.serves(), host.progress().phase) == ("2.0.0", Phase.PROBATION)
    assert host.desire(4, lenet="2.0.0", wish=policy(probation_s=0)).settle().progress().phase is Phase.COMMITTED


def test_what_is_held_in_probation_still_fails_and_goes_back() -> None:
    host = fail_requests(held_in_probation())
    assert (host.serves(), host.progress().phase, host.progress().code) == (
        "1.0.0",
        Phase.ROLLED_BACK,
        DeploymentCode.PROBATION_ERRORS,
    )


def test_an_agent_that_starts_anew_holds_on() -> None:
    host = held_in_probation()
    host.reconciler.stop(1.0)
    host.boot().settle()
    assert (host.serves(), host.wait(1000.0).progress().phase) == ("2.0.0", Phase.PROBATION)
    assert host.progress().code == DeploymentCode.HELD
    assert host.desire(4, lenet="2.0.0").wait(100.0).progress().phase is Phase.COMMITTED


def test_a_rollback_takes_back_what_is_held_without_a_download_and_never_counts_it_as_good() -> None:
    host = held_in_probation()
    host.desire(4, lenet="1.0.0", wish=policy(urgent=True))
    for _ in range(50):
        if host.serves() == "1.0.0":
            break
        record = host.journal.records["lenet"]
        assert "1.0.0" in [place.version for place in record.places()], "it may be swept off the disk"
        assert record.proven is False
        host.step()
    assert host.commit().progress().phase is Phase.COMMITTED
    assert host.journal.records["lenet"].previous is None


def test_what_was_held_when_another_version_failed_stays_on_trial_and_can_be_wanted_again() -> None:
    host = held_in_probation()
    host.steps.fail("warm", PermanentError(DeploymentCode.LOAD_FAILED, "broken"))
    host.desire(4, lenet="3.0.0").wait(1000.0)
    assert (host.serves(), host.progress().phase) == ("2.0.0", Phase.FAILED)
    assert host.journal.records["lenet"].previous.version == "1.0.0"  # type: ignore[union-attr]
    host.desire(5, lenet="2.0.0", wish=HOLD).wait(1000.0)
    assert (host.progress().phase, host.progress().code) == (Phase.PROBATION, DeploymentCode.HELD)
    assert host.desire(6, lenet="2.0.0").wait(100.0).progress().phase is Phase.COMMITTED


def test_a_pause_that_comes_after_the_commit_takes_nothing_back() -> None:
    host = committed().desire(2, lenet="1.0.0", wish=HOLD).wait(100.0)
    assert (host.serves(), host.progress().phase, host.progress().code) == ("1.0.0", Phase.COMMITTED, "")
