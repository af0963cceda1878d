"""The states of a request: what is sent, when again, and how it ends. No I/O; the time is a number."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from registry.client.devices.answer import Expected
from registry.client.devices.errors import (
    DeadlineError,
    DeviceError,
    DeviceOfflineError,
    NotConnectedError,
    NotReadyError,
    OverloadedError,
    UnknownDeviceError,
    error_of,
)
from registry.client.devices.metadata import ModelDescription
from registry.client.devices.presence import DevicePresence, Presences, read_presence
from registry.client.devices.requests import (
    LAST_TRY_SECONDS,
    NO_SUBSCRIBERS,
    SILENCE_SECONDS,
    PendingRequest,
    Requests,
    RequestState,
)


@dataclass
class WireLog:
    """Writes down what is sent: (key, expiry)."""

    sent: list[tuple[bytes, int]] = field(default_factory=list)
    watched: list[str] = field(default_factory=list)
    mid: int = 0

    def send(self, request: PendingRequest, expiry: int) -> int:
        self.sent.append((request.key, expiry))
        if not request.qos:
            return 0
        self.mid += 1
        return self.mid

    def watch(self, device: str) -> None:
        self.watched.append(device)


class World:
    """A client whose broker and device are these lines."""

    def __init__(self, *, watched: bool = False, v5: bool = True, window: int = 100) -> None:
        self.wire = WireLog()
        self.requests = Requests(self.wire, lambda: 1.0, Presences(watched=watched), tells_of_nobody=v5)
        self.ended: list[PendingRequest] = []
        self.window = window

    def connect(self, now: float = 0.0) -> None:
        self.requests.connected(self.window, 1 << 20, now)

    def ask(self, key: bytes = b"a", *, now: float = 0.0, **how: Any) -> PendingRequest:
        timeout = how.pop("timeout", 10.0)
        later = {name: how.pop(name) for name in ("answer_within", "probe") if name in how}
        request = PendingRequest(**{
            "key": key, "request_id": key.decode(), "topic": b"\0\1t", "device": "dev", "target": "dev/model",
            "properties": b"", "pieces": (b"x",), "qos": 1, "started": now, "deadline": now + timeout, "retries": None,
            "wait": False, "expected": Expected(key.decode(), "model", "dev"),
            "read": lambda *_: None, "done": self.ended.append, **how,
        })  # fmt: skip
        for name, value in later.items():
            setattr(request, name, value)
        self.requests.submit(request, now)
        return request

    def refuse(self, request: PendingRequest, code: str, now: float) -> None:
        self.requests.answered(request, error_of(code, "says the device"), now)

    def keys(self) -> list[bytes]:
        return [key for key, _ in self.wire.sent]


def connected(**how: Any) -> World:
    world = World(**how)
    world.connect()
    return world


def test_a_request_waits_for_the_connection_and_is_sent_with_the_time_that_is_left_rounded_up() -> None:
    world = World()
    request = world.ask(timeout=10)
    assert (world.wire.sent, request.state) == ([], RequestState.QUEUED)
    world.connect(now=3.5)
    assert (world.wire.sent, request.state) == ([(b"a", 7)], RequestState.SENT)


def test_the_states_of_a_request_that_is_answered() -> None:
    world = connected()
    request = world.ask()
    assert request.state is RequestState.SENT
    assert world.requests.puback(1, 0, 0.1)
    assert request.state is RequestState.ACKNOWLEDGED
    assert world.requests.find(b"a") is request
    world.requests.answered(request, "the answer", 0.2)
    assert (request.state, request.outcome, world.ended) == (RequestState.DONE, "the answer", [request])
    assert (len(world.requests), world.requests.bytes) == (0, 0)


def test_an_answer_before_the_acknowledgement_counts_and_the_acknowledgement_is_taken() -> None:
    world = connected()
    request = world.ask()
    world.requests.answered(request, "the answer", 0.1)
    assert world.requests.puback(1, 0, 0.2)
    assert world.ended == [request]


def test_an_answer_to_nobody_is_counted_as_late() -> None:
    world = connected()
    request = world.ask(timeout=1)
    world.requests.due(1.0)
    assert isinstance(request.outcome, DeadlineError)
    assert world.requests.find(b"a") is None
    assert world.requests.counts["late"] == 1


@pytest.mark.parametrize("code", ["overloaded", "model_not_ready"])
def test_a_refusal_for_now_is_sent_again_after_a_pause_under_the_same_key(code: str) -> None:
    world = connected()
    request = world.ask()
    world.refuse(request, code, 0.0)
    assert request.state is RequestState.WAITING
    world.requests.due(request.retry_at - 0.001)
    assert world.keys() == [b"a"]
    world.requests.due(request.retry_at)
    assert world.keys() == [b"a", b"a"]
    world.requests.answered(request, "the answer", 1.0)
    assert (request.outcome, world.requests.counts["retries"]) == ("the answer", 1)


@pytest.mark.parametrize("code", ["bad_payload", "run_failed", "worker_crashed", "run_timeout", "a_new_code"])
def test_what_may_have_run_or_will_fail_again_is_not_sent_again(code: str) -> None:
    world = connected()
    request = world.ask()
    world.refuse(request, code, 0.0)
    assert (request.outcome.code, world.keys()) == (code, [b"a"])


def test_the_pauses_grow_the_last_leaves_time_for_a_try_and_the_last_refusal_is_raised_at_the_time_out() -> None:
    world = connected()
    request = world.ask(timeout=1.0)
    times: list[float] = []
    now = 0.0
    while request.state is not RequestState.DONE:
        world.refuse(request, "overloaded", now)
        now = world.requests.next_due
        times.append(round(now, 6))
        world.requests.due(now)
    assert times == [0.02, 0.06, 0.14, 0.3, 0.62, 1.0 - LAST_TRY_SECONDS, 1.0]
    assert isinstance(request.outcome, OverloadedError)
    assert request.outcome.message == "says the device; given up after 1 s and 7 tries"


def test_a_try_has_its_own_time_which_begins_when_it_is_sent_and_not_before() -> None:
    world = World()
    request = world.ask(timeout=10, answer_within=2.0)
    world.requests.due(6.0)
    assert request.state is RequestState.QUEUED
    world.connect(now=7.0)
    assert world.requests.next_due == 8.5
    world.requests.due(8.5)
    assert isinstance(request.outcome, DeadlineError)
    assert request.outcome.message.endswith("given up after 8.5 s")


def test_a_device_that_is_waited_for_may_take_until_the_time_out_whatever_one_try_may_take() -> None:
    world = connected()
    request = world.ask(timeout=1.5, answer_within=2.0, wait=True, probe=True)
    now = 0.0
    while request.state is not RequestState.DONE:
        world.requests.puback(world.wire.mid, NO_SUBSCRIBERS, now)
        now = world.requests.next_due
        world.requests.due(now)
    assert (now, request.outcome.code) == (1.5, "no_such_device")
    assert "given up after 1.5 s" in request.outcome.message


def test_the_error_of_a_model_that_is_not_there_names_the_model() -> None:
    world = connected()
    request = world.ask()
    world.refuse(request, "unknown_model", 0.0)
    assert request.outcome.message == "dev/model: says the device"


def test_retries_have_a_limit_where_one_is_given() -> None:
    world = connected()
    request = world.ask(retries=1)
    world.refuse(request, "model_not_ready", 0.0)
    world.requests.due(5.0)
    world.refuse(request, "model_not_ready", 5.0)
    assert isinstance(request.outcome, NotReadyError)
    assert world.keys() == [b"a", b"a"]


def test_what_was_on_its_way_when_the_connection_ended_is_sent_again_in_order() -> None:
    world = connected()
    first, second = world.ask(b"a"), world.ask(b"b")
    world.requests.puback(1, 0, 0.1)
    world.requests.disconnected("cut", 1.0)
    third = world.ask(b"c", now=1.0)
    assert [each.state for each in (first, second, third)] == [RequestState.QUEUED] * 3
    world.connect(now=2.0)
    assert world.keys() == [b"a", b"b", b"a", b"b", b"c"]
    assert world.requests.counts["retries"] == 2


@pytest.mark.parametrize("how", [{"qos": 0}, {"retries": 0}])
def test_what_may_not_be_sent_again_fails_with_the_connection(how: dict[str, Any]) -> None:
    world = connected()
    request = world.ask(**how)
    world.requests.disconnected("cut", 1.0)
    assert isinstance(request.outcome, NotConnectedError)
    assert request.outcome.code == "connection_lost"


def test_without_a_connection_the_time_out_says_so() -> None:
    world = World()
    request = world.ask(timeout=2)
    world.requests.due(2.0)
    assert (request.outcome.code, "not connected" in request.outcome.message) == ("not_connected", True)


def test_no_more_than_the_window_is_unacknowledged() -> None:
    world = connected(window=2)
    for key in (b"a", b"b", b"c", b"d"):
        world.ask(key)
    assert world.keys() == [b"a", b"b"]
    world.requests.puback(2, 0, 0.1)
    assert world.keys() == [b"a", b"b", b"c"]
    world.requests.puback(1, 0, 0.1)
    assert world.keys() == [b"a", b"b", b"c", b"d"]


def test_a_request_over_the_packet_size_of_the_broker_is_refused() -> None:
    world = World()
    world.requests.connected(100, 50, 0.0)
    assert world.ask(pieces=(b"x" * 100,)).outcome.code == "too_large"


def test_a_request_that_is_given_up_is_forgotten_and_its_answer_late() -> None:
    world = connected()
    request = world.ask()
    assert world.requests.give_up(request)
    assert not world.requests.give_up(request)
    assert world.requests.find(b"a") is None
    assert (world.ended, world.requests.bytes) == ([], 0)


def test_the_end_of_the_client_ends_every_request_once() -> None:
    world = connected()
    requests = [world.ask(b"a"), world.ask(b"b")]
    world.requests.fail_all("client_closed", "closed")
    assert world.ended == requests
    assert {request.outcome.code for request in requests} == {"client_closed"}


@pytest.mark.parametrize(("reason", "code"), [(0x87, "publication_refused"), (0x99, "publication_refused")])
def test_a_refusal_by_the_broker_ends_the_request(reason: int, code: str) -> None:
    world = connected()
    request = world.ask()
    world.requests.puback(1, reason, 0.1)
    assert request.outcome.code == code


def test_the_quota_of_the_broker_is_waited_out() -> None:
    world = connected()
    request = world.ask()
    world.requests.puback(1, 0x97, 0.1)
    assert request.state is RequestState.WAITING


def test_nobody_who_subscribed_is_an_unknown_device_at_once() -> None:
    world = connected()
    request = world.ask()
    world.requests.puback(1, NO_SUBSCRIBERS, 0.1)
    assert isinstance(request.outcome, UnknownDeviceError)
    assert request.outcome.device == "dev"


def test_nobody_of_a_pool_is_an_error_of_its_own() -> None:
    world = connected()
    request = world.ask(device="")
    world.requests.puback(1, NO_SUBSCRIBERS, 0.1)
    assert request.outcome.code == "no_pool_member"


def test_nothing_is_kept_of_requests_that_ended_while_they_waited_for_the_window() -> None:
    world = connected(window=1)
    world.ask(b"first")
    for number in range(10):
        world.requests.give_up(world.ask(b"%d" % number))
    world.ask(b"short", timeout=1)
    world.requests.due(1.0)
    assert len(world.requests._for_window) == 0
    world.ask(b"last")
    world.requests.puback(1, 0, 2.0)
    assert world.keys() == [b"first", b"last"]


def test_at_qos_0_a_request_is_sent_once_even_when_it_is_refused_for_now() -> None:
    world = connected()
    request = world.ask(qos=0)
    world.refuse(request, "overloaded", 0.0)
    assert isinstance(request.outcome, OverloadedError)
    assert world.keys() == [b"a"]


def test_a_request_without_retries_is_sent_once_also_where_devices_are_waited_for() -> None:
    world = connected(watched=True)
    world.requests.presence("dev", DevicePresence(True), 0.0)
    world.ask(wait=True, retries=0)
    world.requests.puback(1, 0, 0.1)
    world.requests.presence("dev", DevicePresence(False), 1.0)
    world.requests.presence("dev", DevicePresence(True), 2.0)
    nobody = world.ask(b"b", now=2.0, wait=True, retries=0)
    world.requests.puback(2, NO_SUBSCRIBERS, 2.1)
    world.requests.due(5.0)
    assert nobody.outcome.code == "device_offline"
    assert world.keys() == [b"a", b"b"]


def test_the_expiry_of_a_message_has_its_bound() -> None:
    world = connected()
    world.ask(timeout=1e300)
    assert world.wire.sent == [(b"a", 0xFFFFFFFF)]


def test_a_fault_with_one_request_neither_keeps_others_from_being_sent_nor_from_ending() -> None:
    class Faulty(WireLog):
        def send(self, request: PendingRequest, expiry: int) -> int:
            if request.key == b"bad":
                raise OverflowError("int too big to convert")
            return super().send(request, expiry)

    world = World()
    world.wire = Faulty()
    world.requests = Requests(world.wire, lambda: 1.0, Presences(watched=False))
    bad, good = world.ask(b"bad"), world.ask(b"good", done=lambda _: 1 / 0)
    last = world.ask(b"last")
    world.connect()
    assert (bad.outcome.code, world.keys()) == ("bad_payload", [b"good", b"last"])
    world.requests.due(20.0)
    assert [each.outcome.code for each in (good, last)] == ["no_answer", "no_answer"]


def test_what_many_devices_answer_is_gathered_once_for_each_device() -> None:
    world = connected()
    request = world.ask(device="", timeout=1)
    request.gathered = {}
    for device in ("d", "e", "d"):
        world.requests.answered(request, ModelDescription(device, "model", ready=True), 0.1)
    world.requests.due(1.0)
    assert [each.device for each in request.outcome] == ["d", "e"]


class TestPresence:
    def test_a_device_that_comes_and_goes_does_not_make_a_request_wait_twice(self) -> None:
        world = connected(watched=True, window=1)
        world.requests.presence("dev", DevicePresence(True), 0.0)
        world.ask(b"a", wait=True)
        world.ask(b"b", wait=True)
        for at in range(10):
            world.requests.presence("dev", DevicePresence(at % 2 == 1), 1.0 + at)
        assert len(world.requests._for_window) <= 2

    def test_nothing_is_sent_before_the_presence_of_the_device_is_known(self) -> None:
        world = connected(watched=True)
        world.ask(b"a")
        world.ask(b"b")
        assert (world.wire.watched, world.keys()) == (["dev"], [])
        world.requests.presence("dev", DevicePresence(True), 0.1)
        assert world.keys() == [b"a", b"b"]

    def test_an_offline_device_is_an_error_at_once_and_gets_nothing(self) -> None:
        world = connected(watched=True)
        request = world.ask()
        world.requests.presence("dev", DevicePresence(False, "2026-01-02T03:04:05+00:00"), 0.1)
        assert isinstance(request.outcome, DeviceOfflineError)
        assert request.outcome.since is not None
        assert request.outcome.since.year == 2026
        assert world.ask(b"b").outcome.code == "device_offline"
        assert world.keys() == []

    def test_an_offline_device_is_waited_for_where_that_is_wanted(self) -> None:
        world = connected(watched=True)
        request = world.ask(wait=True)
        world.requests.presence("dev", DevicePresence(False), 0.1)
        assert (request.state, world.keys()) == (RequestState.QUEUED, [])
        world.requests.presence("dev", DevicePresence(True), 5.0)
        assert world.keys() == [b"a"]

    def test_what_a_device_was_asked_before_it_went_is_asked_again_when_it_is_back(self) -> None:
        world = connected(watched=True)
        world.requests.presence("dev", DevicePresence(True), 0.0)
        world.ask(wait=True)
        world.requests.puback(1, 0, 0.1)
        world.requests.presence("dev", DevicePresence(False), 1.0)
        world.requests.presence("dev", DevicePresence(True), 2.0)
        assert world.keys() == [b"a", b"a"]

    def test_a_device_that_goes_ends_what_it_was_asked(self) -> None:
        world = connected(watched=True)
        world.requests.presence("dev", DevicePresence(True), 0.0)
        request = world.ask()
        world.requests.presence("dev", DevicePresence(False), 1.0)
        assert isinstance(request.outcome, DeviceOfflineError)

    @pytest.mark.parametrize(("v5", "qos"), [(False, 1), (True, 0)])
    def test_without_document_and_word_of_the_broker_silence_is_an_unknown_device(self, v5: bool, qos: int) -> None:
        world = connected(watched=True, v5=v5)
        request = world.ask(qos=qos, timeout=600)
        world.requests.presence("dev", None, 1.0)
        assert world.keys() == [b"a"]
        assert world.requests.next_due == 1.0 + SILENCE_SECONDS
        world.requests.due(1.0 + SILENCE_SECONDS)
        assert isinstance(request.outcome, UnknownDeviceError)

    def test_a_missing_document_is_no_proof_where_the_broker_took_the_request(self) -> None:
        world = connected(watched=True)
        request = world.ask(timeout=600)
        world.requests.presence("dev", None, 1.0)
        world.requests.puback(1, 0, 1.1)
        world.requests.due(500.0)
        assert request.state is RequestState.ACKNOWLEDGED

    def test_a_device_that_is_there_and_has_not_subscribed_yet_is_asked_again(self) -> None:
        world = connected(watched=True)
        request = world.ask()
        world.requests.presence("dev", DevicePresence(True), 0.0)
        world.requests.puback(1, NO_SUBSCRIBERS, 0.1)
        assert request.state is RequestState.WAITING

    def test_what_was_known_is_asked_again_on_the_next_connection(self) -> None:
        world = connected(watched=True)
        request = world.ask()
        world.requests.presence("dev", DevicePresence(True), 0.0)
        world.requests.disconnected("cut", 1.0)
        world.connect(now=2.0)
        assert (world.wire.watched, request.state) == (["dev", "dev"], RequestState.QUEUED)


@pytest.mark.parametrize(
    "payload", [b'{"online":"false"}', b'{"online":1}', b"", b"null", b"[1]", b'{"offline":1}', b"\xff", b"[" * 100_000]
)
def test_what_is_no_presence_document_counts_as_none(payload: bytes) -> None:
    assert read_presence(payload) is None


def test_every_error_says_what_to_do() -> None:
    assert "Send the request again" in str(error_of("overloaded", "full", device="edge-1"))
    assert str(error_of("device_offline", "edge-1 is not connected", device="edge-1")).count("edge-1") == 1
    assert isinstance(error_of("no_answer", "x"), TimeoutError)
    assert isinstance(error_of("bad_payload", "x"), ValueError)
    assert type(error_of("of_a_newer_agent", "x")) is DeviceError
