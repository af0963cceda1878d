"""A restored registry is obeyed where it says itself, over HTTP, that it is one; the broker only makes a device ask."""

from __future__ import annotations

import pytest

from agent.core.events import Connected, ControlMessage, Tick
from agent.reconciler.desired import EpochVerdict, judge
from registry.contracts.device.messages import MAX_GENERATION, Desired, Notice
from registry.contracts.topics import Topics
from tests.fakes.host import DEVICE, Host, desired


@pytest.mark.parametrize(
    ("known", "epoch", "generation", "from_registry", "verdict"),
    [
        (None, "a", 3, False, EpochVerdict.TAKE),
        (("a", 3), "a", 4, False, EpochVerdict.TAKE),
        (("a", 3), "a", 3, True, EpochVerdict.KNOWN),
        (("a", 3), "a", 2, True, EpochVerdict.STALE),
        (("a", 9), "b", 2, True, EpochVerdict.RESTORED),
        (("a", 9), "b", 9, True, EpochVerdict.RESTORED),
        (("a", 9), "b", 10, True, EpochVerdict.RESTORED),
        (("a", 9), "b", 10, False, EpochVerdict.ASK),
        (("a", 9), "b", 2, False, EpochVerdict.ASK),
        (("", 9), "b", 10, False, EpochVerdict.TAKE),  # the registry was upgraded
        (("", 9), "b", 2, False, EpochVerdict.STALE),
        (("a", 9), "", 10, False, EpochVerdict.TAKE),  # and put back to its older program
        (("a", 9), "", 2, True, EpochVerdict.STALE),
    ],
)
def test_what_becomes_of_a_document(
    known: tuple[str, int] | None, epoch: str, generation: int, from_registry: bool, verdict: EpochVerdict
) -> None:
    assert judge(known, epoch, generation, from_registry=from_registry) is verdict


@pytest.mark.parametrize(("from_registry", "verdict"), [(True, EpochVerdict.RESTORED), (False, EpochVerdict.ASK)])
def test_another_text_of_the_generation_that_is_known_is_of_a_database_that_went_back(
    from_registry: bool, verdict: EpochVerdict
) -> None:
    assert judge(("a", 3), "a", 3, from_registry=from_registry, same=False) is verdict


def of(epoch: str, generation: int, version: str) -> bytes:
    document = Desired.model_validate_json(desired(generation, lenet=version))
    return document.model_copy(update={"epoch": epoch}).canonical()


def by_broker(document: bytes) -> ControlMessage:
    return ControlMessage(Topics().device(DEVICE, "desired"), document)


def test_an_unknown_epoch_from_the_broker_makes_the_device_ask_and_nothing_more() -> None:
    host = Host().tell(Connected(False), by_broker(of("a", 9, "1.0.0"))).commit()
    host.uplink.document = of("a", 9, "1.0.0")
    host.tell(Tick("poll")).settle()
    asked = len(host.uplink.asked)
    host.elapsed += 60
    host.tell(by_broker(of("b", 2000, "1.1.0"))).settle()
    assert host.serves() == "1.0.0"
    assert len(host.uplink.asked) == asked + 1
    assert host.reports[-1].fault is None


def test_the_registrys_own_answer_of_another_epoch_is_obeyed_at_once() -> None:
    host = Host().tell(Connected(False), by_broker(of("a", 9, "1.0.0"))).commit()
    host.elapsed += 60
    host.uplink.document = of("b", 3, "1.1.0")
    host.tell(by_broker(of("b", 3, "1.1.0"))).commit()
    assert host.serves() == "1.1.0"
    assert (host.reports[-1].epoch, host.reports[-1].generation) == ("b", 3)
    host.tell(by_broker(of("b", 4, "1.0.0"))).commit()  # known by now
    assert host.serves() == "1.0.0"


def test_a_generation_that_the_registry_could_not_hear_of_is_not_believed() -> None:
    host = Host().tell(Connected(False), by_broker(of("a", 9, "1.0.0"))).commit()
    for generation in (MAX_GENERATION + 1, 1 << 63, 10**30):
        forged = of("a", 10, "1.1.0").replace(b'"generation":10', b'"generation":%d' % generation)
        assert str(generation).encode() in forged
        host.tell(by_broker(forged)).settle()
    assert host.context.desired.generation == 9
    host.tell(by_broker(of("a", 10, "1.1.0"))).commit()
    assert host.context.desired.generation == 10


def test_a_flood_of_unknown_epochs_is_no_flood_of_questions() -> None:
    host = Host().tell(Connected(False), by_broker(of("a", 9, "1.0.0"))).commit()
    host.uplink.document = of("a", 9, "1.0.0")
    host.elapsed += 60
    for number in range(50):
        host.tell(by_broker(of(f"evil-{number}", 9, "1.1.0"))).settle()
    assert len(host.uplink.asked) == 1


def test_facts_are_sent_again_when_the_registry_asks_for_them() -> None:
    host = Host().desire(1, lenet="1.0.0").commit()
    host.tell(Tick("poll")).settle()
    host.tell(Connected(False)).settle()
    assert host.reports[-1].facts is None
    host.uplink.facts.clear()
    host.elapsed += 60
    notice = Notice(device=DEVICE, facts_wanted=True).canonical()
    host.tell(ControlMessage(Topics().device(DEVICE, "notice"), notice)).settle()
    assert any(report.facts is not None for report in host.reports[-2:])
    assert len(host.uplink.facts) == 1


def test_facts_are_sent_again_when_the_answer_to_a_report_asks_for_them() -> None:
    host = Host().desire(1, lenet="1.0.0").commit()
    host.tell(Tick("poll")).settle()
    host.uplink.facts.clear()  # the device was removed and registered anew
    host.elapsed += 60
    host.tell(Tick("poll")).settle().wait(60.0)
    assert len(host.uplink.facts) == 1


@pytest.mark.parametrize("payload", [b"", b"{", b"[]", b'{"device": "other", "facts_wanted": true}'])
def test_what_is_no_notice_to_this_device_says_nothing(payload: bytes) -> None:
    host = Host().desire(1, lenet="1.0.0").commit()
    asked = len(host.uplink.asked)
    host.tell(Connected(False), ControlMessage(Topics().device(DEVICE, "notice"), payload)).settle()
    assert len(host.uplink.asked) == asked
