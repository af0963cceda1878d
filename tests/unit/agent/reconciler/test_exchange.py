"""What goes over HTTP between a device and the registry: desired state, reports and facts."""

from __future__ import annotations

from agent.core.events import Connected, ControlMessage, Disconnected, Tick
from agent.errors import PermanentError
from registry.contracts.api.devices import DeviceReports
from registry.contracts.codes import DeploymentCode
from registry.contracts.topics import Topics
from tests.fakes.control import FakeUplink
from tests.fakes.host import DEVICE, Host, desired


def test_without_a_broker_desired_state_and_reports_go_over_http() -> None:
    host = Host().tell(Disconnected("gone"))
    host.uplink.document = desired(1, lenet="1.0.0")
    host.tell(Tick("poll")).settle()
    assert host.serves() == "1.0.0"
    host.tell(Tick("health"), Tick("poll")).settle()
    told = host.uplink.reports[-1]
    assert told.reported is not None
    assert told.reported.models["lenet"].version == "1.0.0"
    assert told.health
    assert [event.phase for event in told.events if event.kind == "deployment"][-1] == "probation"
    host.tell(Tick("poll")).settle()
    assert host.uplink.reports[-1].events == ()


def test_an_unchanged_desired_state_is_asked_for_by_its_etag() -> None:
    host = Host()
    host.uplink.document = desired(1, lenet="1.0.0")
    host.tell(Tick("poll")).settle().tell(Tick("poll")).settle()
    assert host.uplink.asked[0] is None
    assert host.uplink.asked[1] is not None


def test_with_a_broker_the_registry_is_asked_only_now_and_then() -> None:
    host = Host().tell(Connected(False)).settle()
    for _ in range(20):
        host.tell(Tick("poll")).settle()
    assert len(host.uplink.asked) == 2
    assert host.uplink.reports == []


def test_facts_are_sent_with_reports_until_the_registry_has_them() -> None:
    host = Host().desire(1, lenet="1.0.0").commit()
    assert host.reports[-1].facts is not None
    host.tell(Tick("poll")).settle()
    assert len(host.uplink.facts) == 1
    host.desire(2).settle()
    assert host.reports[-1].facts is None
    assert host.reports[-1].facts_digest == host.uplink.facts[0].facts_digest()


def test_a_registry_that_takes_no_reports_still_says_what_is_desired() -> None:
    class Picky(FakeUplink):
        def post_reports(self, reports: DeviceReports) -> None:
            raise PermanentError(DeploymentCode.REGISTRY_REFUSED, "403")

    host = Host(uplink=Picky())
    host.uplink.document = desired(1, lenet="1.0.0")
    assert host.tell(Tick("poll")).settle().serves() == "1.0.0"


def test_an_answer_that_the_broker_has_overtaken_is_no_fault() -> None:
    host = Host()
    host.uplink.document = desired(1, lenet="1.0.0")
    host.tell(Tick("poll")).reconciler.handle_waiting()
    while host.pool.waiting:  # the registry has answered, and nobody has looked at it yet
        host.pool.waiting.pop(0)()
    host.context.offer(desired(2, lenet="1.1.0"))
    host.settle()
    assert host.serves() == "1.1.0"
    assert host.reports[-1].fault is None


def test_a_desired_state_that_the_disk_refused_is_asked_for_again_as_if_it_never_came() -> None:
    host = Host()
    host.uplink.document = desired(1, lenet="1.0.0")
    host.journal.broken = True
    host.tell(Tick("poll")).settle().tell(Tick("poll")).settle()
    assert host.uplink.asked == [None, None]
    host.journal.broken = False
    assert host.tell(Tick("poll")).settle().serves() == "1.0.0"


def test_a_desired_state_that_the_disk_refused_is_taken_once_it_can_be_without_being_sent_again() -> None:
    host = Host()
    host.journal.broken = True
    for generation, version in ((1, "1.0.0"), (2, "2.0.0")):
        host.tell(ControlMessage(Topics().device(DEVICE, "desired"), desired(generation, lenet=version))).settle()
    host.journal.broken = False
    assert host.wait(10.0).serves() == "2.0.0"
