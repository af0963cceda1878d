"""A candidate in the shadow of what serves: begun, judged, ended, and what happens to it meanwhile."""

from __future__ import annotations

from typing import Any

import pytest

from agent.core.backoff import DEPLOYMENT
from agent.core.events import WorkerDied
from agent.core.lifecycle import State
from agent.core.machine.install import judge_shadow
from agent.errors import TransientError
from registry.contracts.codes import DeploymentCode
from registry.contracts.device.deployments import DeploymentPolicy, Phase, ShadowFigures, ShadowPolicy, Strategy
from tests.fakes.control import FakeShadow
from tests.fakes.host import Host

POLICY = ShadowPolicy(share=0.5, duration_s=30.0, min_requests=20, min_agreement=0.9)
GOOD = ShadowFigures(compared=20, agreement=0.95, max_abs=0.1, mean_abs=0.01, latency_ratio=1.1)
BAD = GOOD.model_copy(update={"agreement": 0.5})


def wish(policy: ShadowPolicy | None = POLICY, **fields: Any) -> dict[str, Any]:
    return {"policy": DeploymentPolicy(shadow=policy, **fields)}


def in_shadow(found: ShadowFigures | None = None) -> Host:
    """1.0.0 serves; 2.0.0 is compared with it."""
    host = Host().desire(1, lenet="1.0.0").commit()
    host.data_path.found = found or ShadowFigures()
    return host.desire(2, lenet="2.0.0", wish=wish()).settle()


def shadow(host: Host) -> FakeShadow:
    return host.data_path.shadows[-1]


def test_a_candidate_is_compared_while_the_version_before_goes_on_answering() -> None:
    host = in_shadow()
    said = host.progress()
    assert (host.serves(), said.phase, said.serves) == ("1.0.0", Phase.SHADOWING, "1.0.0")
    assert said.until is not None
    assert shadow(host).share == 0.5
    shadow(host).found = ShadowFigures(compared=3, agreement=1.0)
    host.wait(11.0)
    found = host.progress().shadow
    assert found is not None
    assert found.compared == 3


def test_one_that_agrees_often_enough_goes_on_early_and_its_figures_stay() -> None:
    host = in_shadow()
    shadow(host).found = GOOD
    host.wait(1.0)
    said = host.progress()
    assert (host.serves(), said.phase, said.shadow) == ("2.0.0", Phase.PROBATION, GOOD)
    assert "95.0%" in said.message
    assert host.commit().progress().shadow == GOOD


def test_one_that_was_asked_too_little_goes_on_when_its_time_is_over_and_says_how_little() -> None:
    host = in_shadow(ShadowFigures(compared=2, agreement=0.0))
    assert host.wait(29.0).serves() == "1.0.0"
    host.wait(2.0)
    said = host.progress()
    assert (host.serves(), said.phase) == ("2.0.0", Phase.PROBATION)
    assert said.shadow is not None
    assert said.shadow.compared == 2
    assert "too few" in said.message


def test_one_that_disagrees_never_serves_and_only_another_attempt_brings_it() -> None:
    host = in_shadow(BAD)
    said = host.progress()
    assert (host.serves(), said.phase, said.code) == ("1.0.0", Phase.FAILED, DeploymentCode.SHADOW_DISAGREES)
    assert (said.failed_in, said.shadow) == (Phase.SHADOWING, BAD)
    assert [worker.closed for worker in host.steps.started] == [False, True]
    assert shadow(host).ended
    assert host.boot().settle().progress().phase is Phase.FAILED
    assert host.desire(3, lenet="2.0.0", wish={"rollout": "r-2"}).settle().progress().code == DeploymentCode.QUARANTINED
    assert host.desire(4, lenet="2.0.0", wish={"attempt": 1}).commit().serves() == "2.0.0"


@pytest.mark.parametrize("errors", [20, 100])
def test_what_the_candidate_could_not_answer_it_did_not_agree_on(errors: int) -> None:
    figures = ShadowFigures(compared=5, agreement=1.0, errors=errors)
    verdict = judge_shadow(POLICY, figures, over=False)
    assert verdict is not None
    assert verdict.code == DeploymentCode.SHADOW_DISAGREES


def test_without_a_least_agreement_nothing_is_judged() -> None:
    measured = POLICY.model_copy(update={"min_agreement": None})
    verdict = judge_shadow(measured, BAD, over=False)
    assert verdict is not None
    assert not verdict.code
    assert judge_shadow(measured, ShadowFigures(), over=False) is None


def test_a_candidate_that_dies_in_its_shadow_is_tried_again_and_then_given_up() -> None:
    host = in_shadow()
    for _ in range(DEPLOYMENT.limit):
        assert host.journal.records["lenet"].state is State.SHADOWING
        shadow(host).failure = TransientError(DeploymentCode.WORKER_CRASHED, "signal 11")
        host.wait(1.0).wait(400.0)
    said = host.progress()
    assert (said.code, said.failed_in, host.serves()) == (DeploymentCode.WORKER_CRASHED, Phase.SHADOWING, "1.0.0")
    assert [worker.choice.version for worker in host.steps.started if not worker.closed] == ["1.0.0"]


@pytest.mark.parametrize("how", ["stop first", "nothing before"])
def test_where_nothing_serves_beside_it_there_is_no_shadow_and_it_says_so(how: str) -> None:
    host = Host()
    if how == "stop first":
        host.desire(1, lenet="1.0.0").commit()
    host.desire(2, lenet="2.0.0", wish=wish(strategy=Strategy.STOP_FIRST)).settle()
    assert (host.serves(), host.data_path.shadows) == ("2.0.0", [])
    assert "no shadow" in host.progress().message


def test_another_wish_ends_a_shadow() -> None:
    host = in_shadow().desire(3, lenet="3.0.0").settle()
    assert shadow(host).ended
    assert host.serves() == "3.0.0"
    told = [(event.phase, event.version) for event in host.data_path.events if event.kind == "deployment"]
    assert ("superseded", "2.0.0") in told
    assert [worker.choice.version for worker in host.steps.started if not worker.closed] == ["3.0.0"]


def test_what_served_before_is_desired_again_and_the_shadow_is_cancelled() -> None:
    host = in_shadow().desire(3, lenet="1.0.0").settle()
    assert shadow(host).ended
    assert (host.serves(), host.progress().phase) == ("1.0.0", Phase.COMMITTED)


def test_a_hold_is_kept_at_the_end_of_a_shadow_which_is_not_begun_again() -> None:
    host = in_shadow()
    host.desire(3, lenet="2.0.0", wish=wish(hold=True)).settle()
    assert host.progress().phase is Phase.SHADOWING
    shadow(host).found = GOOD
    host.wait(1.0)
    assert (host.serves(), host.progress().phase, host.progress().code) == ("1.0.0", Phase.STAGED, DeploymentCode.HELD)
    host.desire(4, lenet="2.0.0", wish=wish()).settle()
    assert (host.serves(), len(host.data_path.shadows), host.progress().shadow) == ("2.0.0", 1, GOOD)


def test_a_shadow_that_is_not_wanted_any_more_lets_the_candidate_go_on() -> None:
    host = in_shadow().desire(3, lenet="2.0.0", wish=wish(None)).settle().wait(1.0)
    assert (host.serves(), shadow(host).ended) == ("2.0.0", True)


def test_a_restart_begins_a_shadow_anew() -> None:
    host = in_shadow().boot().settle()
    assert (host.serves(), host.progress().phase, len(host.data_path.shadows)) == ("1.0.0", Phase.SHADOWING, 1)
    shadow(host).found = GOOD
    assert host.wait(1.0).serves() == "2.0.0"


def test_a_version_that_dies_beside_its_shadow_is_started_again_and_compared_on() -> None:
    host = in_shadow()
    host.tell(WorkerDied("lenet", host.data_path.serving["lenet"], "signal 11")).settle().wait(2.0)
    assert (host.serves(), host.progress().phase) == ("1.0.0", Phase.SHADOWING)


def test_a_disk_that_refuses_the_end_of_a_shadow_costs_another_one() -> None:
    host = in_shadow()
    shadow(host).found = GOOD
    host.journal.broken = True
    host.wait(1.0)
    assert host.serves() == "1.0.0"
    host.journal.broken = False
    host.data_path.found = GOOD
    for _ in range(5):
        host.wait(5.0)
    assert host.serves() == "2.0.0"
    assert [worker.choice.version for worker in host.steps.started if not worker.closed] == ["2.0.0"]
