"""The control thread over fakes: what is desired comes to serve, and nothing that serves is lost on the way."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest

from agent.adapters.network.registry_answers import UnreachableError
from agent.core.events import ControlMessage, Tick, WorkerDied
from agent.errors import PermanentError, TransientError
from registry.contracts.codes import DeploymentCode
from registry.contracts.device.deployments import Phase
from registry.contracts.device.messages import ServingState
from registry.contracts.fit.platforms import Evidence
from tests.fakes.control import MEASURED, FakeWorker
from tests.fakes.host import DEVICE, START, Host, desired

DESIRED_TOPIC = f"modelfleet/v1/devices/{DEVICE}/desired"


def serving(version: str = "1.0.0") -> Host:
    host = Host().desire(1, lenet=version).commit()
    assert host.serves() == version
    return host


def worker_of(host: Host, model: str = "lenet") -> FakeWorker:
    worker = host.data_path.serving[model]
    assert isinstance(worker, FakeWorker)
    return worker


class SetBack(Host):
    """Its clock can be set back; nothing else can."""

    back = timedelta(0)

    def now(self) -> datetime:
        return super().now() - self.back


def test_a_clock_that_is_set_back_makes_no_report_older_than_the_last() -> None:
    host = SetBack()
    host.desire(1, lenet="1.0.0").commit()
    host.back = timedelta(days=1)
    host.desire(2, lenet="2.0.0").commit()
    times = [report.at for report in host.reports]
    assert times == sorted(times)
    assert host.reports[-1].generation == 2


def test_what_is_desired_comes_to_serve() -> None:
    host = Host().tell(ControlMessage(DESIRED_TOPIC, desired(1, lenet="1.0.0"))).settle()
    assert host.serves() == "1.0.0"
    assert host.state() is ServingState.SERVING
    assert host.reports[-1].generation == 1
    steps = ["offered", "downloading", "verified", "warming", "switching", "probation"]
    assert host.phases() == steps
    assert host.commit().phases() == [*steps, "committed"]


def test_every_deployment_goes_through_all_steps_in_order() -> None:
    assert serving().steps.done == ["resolve 1.0.0", "download 1.0.0", "verify 1.0.0", "warm 1.0.0"]


def test_the_old_version_serves_until_the_new_one_is_warm_and_is_then_ended() -> None:
    host = serving()
    old = worker_of(host)
    host.desire(2, lenet="2.0.0")
    while host.steps.done[-1] != "warm 2.0.0":
        assert host.serves() == "1.0.0"
        assert not old.closed
        host.step()
    host.settle()
    assert host.serves() == "2.0.0"
    assert old.closed
    assert host.journal.records["lenet"].previous.version == "1.0.0"  # type: ignore[union-attr]


def test_a_model_that_is_not_desired_any_more_is_stopped_and_forgotten() -> None:
    host = serving()
    worker = worker_of(host)
    host.desire(2).settle()
    assert worker.closed
    assert host.reports[-1].models == {}
    assert host.journal.records == {}


def test_several_models_are_independent() -> None:
    host = Host()
    host.steps.fail("resolve", PermanentError(DeploymentCode.NO_FITTING_VARIANT, "no"))
    host.desire(1, alpha="1.0.0", beta="1.0.0").settle()
    states = {name: model.state for name, model in host.reports[-1].models.items()}
    assert sorted(states.values()) == [ServingState.FAILED, ServingState.SERVING]


@pytest.mark.parametrize("step", ["resolve", "download", "verify", "warm"])
def test_a_step_that_fails_for_good_leaves_what_serves(step: str) -> None:
    host = serving()
    host.steps.fail(step, PermanentError(DeploymentCode.LOAD_FAILED, "broken"))
    host.desire(2, lenet="2.0.0").settle()
    assert host.serves() == "1.0.0"
    model = host.reports[-1].models["lenet"]
    assert (model.state, model.version, model.desired_version) == (ServingState.FAILED, "1.0.0", "2.0.0")
    assert model.fault is not None
    assert model.fault.code == DeploymentCode.LOAD_FAILED


@pytest.mark.parametrize("step", ["resolve", "download", "verify", "warm"])
def test_a_step_that_fails_for_now_is_tried_again(step: str) -> None:
    host = Host()
    host.steps.fail(step, TransientError(DeploymentCode.REGISTRY_UNREACHABLE, "away"))
    host.desire(1, lenet="1.0.0").settle()
    assert host.state() is ServingState.PENDING
    assert host.serves() is None
    assert host.wait(1.0).serves() == "1.0.0"


def test_an_outage_is_waited_out_ever_more_slowly() -> None:
    host = Host()
    host.steps.fail("download", *[UnreachableError("away") for _ in range(30)])
    host.desire(1, lenet="1.0.0").settle()
    for _ in range(40):
        host.wait(300.0)
    assert host.serves() == "1.0.0"


def test_what_keeps_failing_on_this_host_is_given_up_until_it_is_asked_for_again() -> None:
    host = Host()
    host.steps.fail("warm", *[TransientError(DeploymentCode.WORKER_CRASHED, "died") for _ in range(8)])
    host.desire(1, lenet="1.0.0").settle()
    for _ in range(20):
        host.wait(300.0)
    assert host.state() is ServingState.FAILED
    assert len([done for done in host.steps.done if done.startswith("warm")]) == 8
    assert host.desire(2, lenet="1.0.0", other="1.0.0").settle().serves() is None
    assert host.desire(3, lenet="1.0.0", wish={"attempt": 1}).settle().serves() == "1.0.0"


def test_a_download_that_is_not_wanted_any_more_is_cancelled() -> None:
    host = Host().desire(1, lenet="1.0.0")
    while "resolve 1.0.0" not in host.steps.done:
        host.step()
    host.desire(2, lenet="2.0.0").settle()
    assert host.serves() == "2.0.0"
    assert "warm 1.0.0" not in host.steps.done


def test_a_worker_that_came_up_too_late_is_ended() -> None:
    host = Host().desire(1, lenet="1.0.0")
    while "warm 1.0.0" not in host.steps.done:
        host.step()
    host.desire(2, lenet="2.0.0")
    host.reconciler.look()
    host.settle()
    assert host.serves() == "2.0.0"
    assert host.steps.started[0].closed


def test_going_back_to_what_serves_ends_the_deployment() -> None:
    host = serving()
    host.steps.fail("download", UnreachableError("away"))
    host.desire(2, lenet="2.0.0").settle()
    assert host.state() is ServingState.CHANGING
    host.desire(3, lenet="1.0.0").settle()
    assert host.state() is ServingState.SERVING
    assert host.wait(1000).serves() == "1.0.0"
    assert "download 1.0.0" in host.steps.done
    assert host.steps.done.count("warm 1.0.0") == 1


def test_a_worker_that_dies_is_started_again_without_the_registry() -> None:
    host = serving()
    done = len(host.steps.done)
    host.tell(WorkerDied("lenet", worker_of(host), "signal 11")).settle()
    assert host.state() is ServingState.RECOVERING
    assert host.reports[-1].models["lenet"].fault.code == DeploymentCode.WORKER_CRASHED  # type: ignore[union-attr]
    host.wait(1.0)
    assert host.state() is ServingState.SERVING
    assert host.steps.done[done:] == ["verify 1.0.0", "warm 1.0.0"]


def test_a_worker_that_keeps_dying_is_given_up_until_it_is_asked_for_again() -> None:
    host = serving()
    for _ in range(10):
        host.tell(WorkerDied("lenet", worker_of(host), "signal 11")).settle().wait(60.0)
    assert host.state() is ServingState.FAILED
    fault = host.reports[-1].models["lenet"].fault
    assert fault is not None
    assert fault.code == DeploymentCode.ATTEMPTS_EXHAUSTED
    host.desire(2, lenet="1.0.0", wish={"attempt": 1}).settle()
    assert host.state() is ServingState.SERVING


def test_deaths_long_ago_are_forgiven() -> None:
    host = serving()
    for _ in range(30):
        host.wait(600.0).tell(WorkerDied("lenet", worker_of(host), "out of memory")).settle().wait(60.0)
    assert host.state() is ServingState.SERVING


def test_the_death_of_a_replaced_worker_is_no_news() -> None:
    host = serving()
    old = worker_of(host)
    host.desire(2, lenet="2.0.0").settle().tell(WorkerDied("lenet", old, "ended")).settle()
    assert host.serves() == "2.0.0"
    assert host.state() is ServingState.SERVING


def test_an_active_artifact_that_is_broken_is_pulled_again() -> None:
    host = serving()
    host.boot()
    host.steps.fail("verify", TransientError(DeploymentCode.DIGEST_MISMATCH, "bit rot"))
    host.settle()
    assert host.serves() == "1.0.0"
    assert host.steps.done == ["verify 1.0.0", "download 1.0.0", "verify 1.0.0", "warm 1.0.0"]
    assert host.progress().phase is Phase.COMMITTED


def test_a_broken_artifact_stays_the_active_one_for_as_long_as_the_registry_is_away() -> None:
    host = serving()
    host.boot()
    host.steps.fail("verify", TransientError(DeploymentCode.DIGEST_MISMATCH, "bit rot"))
    host.steps.fail("download", *[UnreachableError("away")] * 30)
    for _ in range(60):
        host.wait(301.0)
        if not host.steps.errors["download"]:
            break
        assert host.serves() is None
        assert host.state() is ServingState.RECOVERING
        assert host.reports[-1].models["lenet"].fault.code == DeploymentCode.REGISTRY_UNREACHABLE  # type: ignore[union-attr]
    assert host.wait(301.0).serves() == "1.0.0"
    assert host.reports[-1].models["lenet"].fault is None


def test_what_served_before_is_tried_again_when_it_does_not_load_and_is_not_given_up() -> None:
    host = serving()
    host.boot()
    host.steps.fail("warm", *[PermanentError(DeploymentCode.BACKEND_UNAVAILABLE, "no driver yet")] * 20)
    for _ in range(25):
        host.wait(301.0)
    assert host.serves() == "1.0.0"
    assert "resolve 1.0.0" not in host.steps.done
    assert host.journal.records["lenet"].proven


def test_a_version_that_did_not_fit_is_tried_again_once_the_host_is_another() -> None:
    host = Host()
    host.steps.fail("resolve", PermanentError(DeploymentCode.NO_FITTING_VARIANT, "no driver"))
    host.desire(1, lenet="1.0.0").settle()
    assert host.progress().phase is Phase.FAILED
    host.wait(61.0)
    assert host.progress().phase is Phase.FAILED, "nothing has changed"
    host.steps.platform = host.steps.platform.model_copy(update={"memory_bytes": 1 << 30})
    assert host.wait(61.0).serves() == "1.0.0"


def test_what_a_failed_look_left_open_is_waited_for_and_looked_at_again_ever_more_slowly() -> None:
    host = Host()
    failed = {"cuda": Evidence(source="NVML", failed=True)}
    host.steps.platform = host.steps.platform.model_copy(update={"evidence": failed})
    host.steps.fail("resolve", *[TransientError(DeploymentCode.FACTS_UNKNOWN, "a probe stalled")] * 20)
    host.desire(1, lenet="1.0.0").settle()
    looks = []
    for _ in range(40):
        host.wait(300.0)
        looks.append(host.steps.looks)
    assert host.serves() == "1.0.0", "it is an outage: there is no last try"
    assert looks[0] >= 1
    assert looks[-1] <= 40 * 300 / 300 + 6


def test_a_journal_that_cannot_be_read_for_a_while_is_asked_again_and_nothing_is_decided_meanwhile() -> None:
    host = serving()
    host.journal.unreadable = 3
    host.boot()
    host.reconciler.look()
    assert host.steps.done == []
    host.settle()
    assert host.serves() == "1.0.0"
    assert host.steps.done == ["verify 1.0.0", "warm 1.0.0"]


def test_an_older_generation_changes_nothing() -> None:
    host = Host().desire(5, lenet="1.0.0").settle()
    host.tell(ControlMessage(DESIRED_TOPIC, desired(4, lenet="0.9.0"))).settle()
    assert host.serves() == "1.0.0"
    assert host.boot().tell(ControlMessage(DESIRED_TOPIC, desired(4, lenet="0.9.0"))).settle().serves() == "1.0.0"


@pytest.mark.parametrize(
    "payload",
    [b"{", b"[]", b'{"device":"edge-1"}', desired(9, device="other", lenet="2.0.0"), b" " * (257 << 10), b""],
    ids=["cut", "list", "fields", "other device", "too long", "cleared"],
)
def test_a_document_that_is_none_changes_nothing(payload: bytes) -> None:
    host = serving().tell(ControlMessage(DESIRED_TOPIC, payload)).settle()
    assert host.serves() == "1.0.0"
    assert host.reports[-1].generation == 1


def test_nothing_new_is_installed_after_expiry_and_what_serves_goes_on() -> None:
    host = serving()
    host.steps.fail("download", UnreachableError("away"))
    host.desire(2, expires_at=START + timedelta(seconds=100), lenet="2.0.0").settle().wait(200.0)
    assert host.serves() == "1.0.0"
    fault = host.reports[-1].models["lenet"].fault
    assert fault is not None
    assert fault.code == DeploymentCode.DESIRED_EXPIRED


def test_a_restart_serves_what_it_had_without_asking_anybody() -> None:
    host = serving()
    host.uplink.error = UnreachableError("away")
    host.boot().settle()
    assert host.serves() == "1.0.0"
    assert host.steps.done == ["verify 1.0.0", "warm 1.0.0"]
    assert host.steps.measured == [MEASURED]


def test_a_kill_between_any_two_steps_ends_in_what_is_desired() -> None:
    for cut in range(30):
        host = serving()
        host.desire(2, lenet="2.0.0", squeezenet="1.0.0")
        for _ in range(cut):
            host.step()
        host.boot().settle()
        assert (host.serves(), host.serves("squeezenet")) == ("2.0.0", "1.0.0")
        assert host.state() is ServingState.SERVING


def test_a_kill_while_a_model_is_retired_ends_with_it_gone() -> None:
    for cut in range(6):
        host = serving().desire(2)
        for _ in range(cut):
            host.step()
        host.boot().settle()
        assert host.reports[-1].models == {}
        assert "lenet" not in host.data_path.serving


def test_a_full_disk_stops_nothing_that_serves_and_is_got_over() -> None:
    host = serving()
    host.desire(2, lenet="2.0.0")
    host.journal.broken = True
    host.settle()
    assert host.serves() == "1.0.0"
    fault = host.reports[-1].fault
    assert fault is not None
    assert fault.code == "disk_error"
    host.journal.broken = False
    assert host.wait(10.0).serves() == "2.0.0"
    assert host.reports[-1].fault is None


@pytest.mark.parametrize("cut", range(8))
def test_a_disk_that_fills_up_in_the_middle_is_got_over(cut: int) -> None:
    host = serving().desire(2, lenet="2.0.0")
    for _ in range(cut):
        host.step()
    host.journal.broken = True
    host.settle()
    host.journal.broken = False
    for _ in range(5):
        host.wait(10.0)
    assert host.serves() == "2.0.0"
    assert host.state() is ServingState.SERVING
    alive = [worker for worker in host.steps.started if not worker.closed]
    assert alive == [worker_of(host)]


def test_event_numbers_rise_across_restarts() -> None:
    host = serving()
    first = [event.seq for event in host.data_path.events]
    host.boot().desire(2).settle()
    second = [event.seq for event in host.data_path.events]
    assert first + second == sorted(set(first + second))


def test_the_cache_is_swept_only_while_nothing_is_installed() -> None:
    host = Host().desire(1, lenet="1.0.0")
    host.reconciler.look()
    host.tell(Tick("sweep"))
    host.reconciler.handle_waiting()
    assert "sweep" not in host.steps.done
    host.settle().tell(Tick("sweep")).settle()
    assert host.steps.done[-1] == "sweep"


def test_what_this_host_cannot_run_any_more_is_chosen_anew() -> None:
    host = serving()
    host.boot()
    host.steps.fail("warm", PermanentError(DeploymentCode.VARIANT_UNFIT, "the driver is gone"))
    host.settle()
    assert host.steps.done[:3] == ["verify 1.0.0", "warm 1.0.0", "resolve 1.0.0"]
    assert host.serves() == "1.0.0"


def test_a_flood_of_nonsense_is_one_event() -> None:
    host = serving()
    for _ in range(100):
        host.tell(ControlMessage(DESIRED_TOPIC, b"nonsense")).settle()
    assert len([event for event in host.data_path.events if event.code == DeploymentCode.BAD_ANSWER]) == 1


def test_it_is_known_when_what_served_before_is_back() -> None:
    host = serving().boot()
    host.reconciler.look()
    assert not host.reconciler.revived.is_set()
    host.settle()
    assert host.reconciler.revived.is_set()


def test_a_worker_that_cannot_be_started_holds_up_nobody() -> None:
    host = serving().boot()
    host.steps.fail("warm", TransientError(DeploymentCode.WORKER_CRASHED, "died"))
    assert host.settle().reconciler.revived.is_set()
