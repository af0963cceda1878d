"""Lost connections, devices that go, brokers that refuse, time-outs: what a client makes of them."""

from __future__ import annotations

import asyncio
import gc
import os
import queue
import socket
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import numpy as np
import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from registry.client.devices import (
    Answer,
    AsyncClient,
    BadRequestError,
    Client,
    DeadlineError,
    DeviceOfflineError,
    InferenceRequest,
    NotConnectedError,
    NotReadyError,
)
from registry.client.devices.requests import PendingRequest
from scripts.demo.paho_session import end_session
from tests.fakes.workers import FakeWorker
from tests.support.clients.serving import Serving, until
from tests.support.network.broker import Mosquitto
from tests.support.network.proxy import Proxy

X = np.array([[1, 2, 3, 4]], np.float32)
LONG = 120.0


def through(proxy: Proxy, device: Serving, **settings: object) -> Client:
    return Client(f"mqtt://127.0.0.1:{proxy.port}", prefix=device.topics.prefix, **settings)


def repeats(device: Serving) -> float:
    """Requests that came again while they ran."""
    return device.plane.snapshot().figures["repeats_joined"][()]


def depth(device: Serving) -> int:
    return device.plane.snapshot().models["double"].queue_depth


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
def test_a_connection_cut_in_the_middle_loses_no_answer_and_no_request_runs_twice(
    proxy: Proxy, device: Serving, protocol: str
) -> None:
    worker = device.workers[0]
    worker.gate.clear()
    with through(proxy, device, protocol=protocol) as fleet:
        futures = [fleet.submit(device.name, "double", {"x": X + n}, timeout=LONG) for n in range(10)]
        until(lambda: depth(device) == 10)
        proxy.sever()
        until(lambda: repeats(device) == 10)
        worker.gate.set()
        for number, future in enumerate(futures):
            np.testing.assert_array_equal(future.result(LONG)["y"], (X + number) * 2)
        assert (sum(worker.batches), fleet.statistics().retries) == (10, 10)


def test_connections_cut_again_and_again_lose_no_answer_and_no_request_runs_twice(
    proxy: Proxy, device: Serving
) -> None:
    with through(proxy, device) as fleet:
        asked = ({"x": X + n} for n in range(2000))
        for number, answer in enumerate(
            fleet.infer_many(asked, device=device.name, model="double", window=64, timeout=LONG)
        ):
            np.testing.assert_array_equal(answer["y"], (X + number) * 2)
            if number % 500 == 250:
                proxy.sever()
        assert sum(device.workers[0].batches) == 2000
        assert fleet.statistics().retries > 0


def test_at_qos_0_a_lost_connection_is_an_error_and_nothing_is_repeated(proxy: Proxy, device: Serving) -> None:
    device.workers[0].gate.clear()
    with through(proxy, device) as fleet:
        future = fleet.submit(device.name, "double", {"x": X}, qos=0, timeout=LONG)
        until(lambda: depth(device) == 1)
        proxy.sever()
        with pytest.raises(NotConnectedError) as lost:
            future.result(LONG)
    assert lost.value.code == "connection_lost"
    device.workers[0].gate.set()


def test_a_broker_that_is_away_is_waited_for_until_the_time_out(proxy: Proxy, device: Serving) -> None:
    with through(proxy, device) as fleet:
        proxy.refusing = True
        proxy.sever()
        until(lambda: not fleet.statistics().connected)
        with pytest.raises(NotConnectedError) as away:
            fleet.infer(device.name, "double", {"x": X}, timeout=0.2)
        assert away.value.code == "not_connected"
        future = fleet.submit(device.name, "double", {"x": X}, timeout=LONG)
        proxy.refusing = False
        np.testing.assert_array_equal(future.result(LONG)["y"], X * 2)


def test_a_client_that_starts_without_a_broker_says_why_or_waits(proxy: Proxy, device: Serving) -> None:
    proxy.refusing = True
    with pytest.raises(NotConnectedError):
        through(proxy, device)
    with through(proxy, device, wait_connected=False) as fleet:
        future = fleet.submit(device.name, "double", {"x": X}, timeout=LONG)
        proxy.refusing = False
        np.testing.assert_array_equal(future.result(LONG)["y"], X * 2)


@pytest.mark.parametrize("inputs", [{"x": X}, {"x": X.tolist()}], ids=["array", "list, for which metadata is asked"])
def test_without_a_broker_a_request_ends_at_its_time_out_and_says_that_time(inputs: dict[str, object]) -> None:
    with Client("mqtt://127.0.0.1:1", wait_connected=False) as fleet:
        began = time.monotonic()
        with pytest.raises(NotConnectedError) as away:
            fleet.infer("edge-1", "double", inputs, timeout=0.6)
    assert time.monotonic() - began >= 0.6
    assert "given up after 0.6 s" in away.value.message


def test_connect_timeout_bounds_a_broker_that_takes_the_connection_and_says_nothing() -> None:
    async def connect(url: str) -> None:
        await AsyncClient(url, connect_timeout=0.3).connect()

    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"mqtt://127.0.0.1:{silent.getsockname()[1]}"
        for refused in (lambda: Client(url, connect_timeout=0.3), lambda: asyncio.run(connect(url))):
            with pytest.raises(NotConnectedError) as error:
                refused()
            assert error.value.message.endswith("accepted the connection and did not answer within 0.3 s")


def test_a_model_that_is_not_ready_yet_is_asked_again_until_it_is(client: Client, device: Serving) -> None:
    device.plane.swap("late", None, None).result(LONG)
    with pytest.raises(NotReadyError):
        client.infer(device.name, "late", {"x": X}, retries=0)
    future = client.submit(device.name, "late", {"x": X}, timeout=LONG)
    until(lambda: client.statistics().retries > 0)
    device.serve(FakeWorker(), "late")
    np.testing.assert_array_equal(future.result(LONG)["y"], X * 2)


def test_a_full_queue_is_waited_out(client: Client, device: Serving) -> None:
    worker = FakeWorker(slots=2)
    worker.gate.clear()
    device.serve(worker, "small").result(LONG)
    until(lambda: device.plane.snapshot().models["small"].version is not None)
    futures = [client.submit(device.name, "small", {"x": X + n}, timeout=LONG) for n in range(6)]
    until(lambda: client.statistics().retries > 3)
    worker.gate.set()
    for number, future in enumerate(futures):
        np.testing.assert_array_equal(future.result(LONG)["y"], (X + number) * 2)
    assert sum(worker.batches) == 6


def test_a_time_out_is_an_error_and_the_late_answer_is_dropped_and_counted(client: Client, device: Serving) -> None:
    device.workers[0].gate.clear()
    with pytest.raises(DeadlineError) as late:
        client.infer(device.name, "double", {"x": X}, timeout=0.3)
    assert (late.value.code, late.value.device) == ("no_answer", device.name)
    device.workers[0].gate.set()
    until(lambda: client.statistics().late == 1)
    np.testing.assert_array_equal(client.infer(device.name, "double", {"x": X})["y"], X * 2)


def test_the_time_that_is_left_is_the_expiry_of_the_message(broker: Mosquitto, device: Serving) -> None:
    seen: queue.SimpleQueue[paho.MQTTMessage] = queue.SimpleQueue()
    watcher = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
    subscribed = threading.Event()
    watcher.on_connect = lambda connected, *_: connected.subscribe(device.infer(), qos=1)
    watcher.on_subscribe = lambda *_: subscribed.set()
    watcher.on_message = lambda _client, _data, message: seen.put(message)
    watcher.connect("127.0.0.1", broker.port)
    watcher.loop_start()
    assert subscribed.wait(LONG)
    with Client(f"mqtt://127.0.0.1:{broker.port}", prefix=device.topics.prefix) as fleet:
        fleet.infer(device.name, "double", {"x": X}, timeout=99.5)
    properties = seen.get(timeout=LONG).properties
    assert properties is not None
    assert 90 <= properties.MessageExpiryInterval <= 100
    assert properties.ResponseTopic == fleet.settings.reply_topic
    end_session(watcher)


@pytest.fixture
def remote(broker: Mosquitto, proxy: Proxy, tmp_path: Path) -> Serving:
    """A device whose connection goes through the proxy; stopped by its test."""
    serving = Serving(proxy.port, tmp_path)
    serving.serve(FakeWorker())
    return serving.start()


def test_a_device_that_goes_ends_its_requests_with_the_time_and_comes_back(
    broker: Mosquitto, proxy: Proxy, remote: Serving
) -> None:
    url = f"mqtt://127.0.0.1:{broker.port}"
    with (
        Client(url, prefix=remote.topics.prefix) as fleet,
        Client(url, prefix=remote.topics.prefix, when_offline="wait") as patient,
    ):
        remote.workers[0].gate.clear()
        future = fleet.submit(remote.name, "double", {"x": X}, timeout=LONG)
        until(lambda: depth(remote) == 1)
        proxy.refusing = True
        proxy.sever()
        with pytest.raises(DeviceOfflineError) as gone:
            future.result(LONG)
        assert gone.value.since is not None
        with pytest.raises(DeviceOfflineError):
            fleet.infer(remote.name, "double", {"x": X}, timeout=LONG)
        waiting = patient.submit(remote.name, "double", {"x": X + 1}, timeout=LONG)
        with pytest.raises(DeviceOfflineError):
            patient.infer(remote.name, "double", {"x": X + 1}, timeout=0.2)
        remote.workers[0].gate.set()
        proxy.refusing = False
        np.testing.assert_array_equal(waiting.result(LONG)["y"], (X + 1) * 2)
    remote.stop()


def test_many_threads_use_one_client(client: Client, device: Serving) -> None:
    def ask(number: int) -> None:
        x = np.full((1, 4), number, np.float32)
        np.testing.assert_array_equal(client.infer(device.name, "double", {"x": x})["y"], x * 2)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(ask, range(400)))
    assert client.statistics().answered == 400


def test_submit_waits_while_so_many_are_under_way(broker: Mosquitto, device: Serving) -> None:
    url = f"mqtt://127.0.0.1:{broker.port}"
    device.workers[0].gate.clear()
    with Client(url, prefix=device.topics.prefix, max_in_flight=4) as fleet, ThreadPoolExecutor(1) as pool:
        asked = pool.submit(lambda: [fleet.submit(device.name, "double", {"x": X}, timeout=LONG) for _ in range(20)])
        until(lambda: fleet.statistics().in_flight == 4)
        with pytest.raises(DeadlineError):
            fleet.submit(device.name, "double", {"x": X}, timeout=0.1)
        assert fleet.statistics().in_flight == 4
        device.workers[0].gate.set()
        assert len([future.result(LONG) for future in asked.result(LONG)]) == 20


def test_in_a_callback_on_its_own_thread_the_client_refuses_to_wait(client: Client, device: Serving) -> None:
    said: list[BaseException | None] = []
    later: Future[Future[Answer]] = Future()

    def ended(_: Future[Answer]) -> None:
        for call in (
            lambda: client.infer(device.name, "double", {"x": X}), client.statistics,
            lambda: client.metadata(device.name, "double"),
            lambda: list(client.infer_many([{"x": X}], device=device.name, model="double", errors="return")),
        ):  # fmt: skip
            try:
                call()  # type: ignore[no-untyped-call]
            except BaseException as error:  # noqa: BLE001 - it is looked at below
                said.append(error)
        later.set_result(client.submit(device.name, "double", {"x": X + 1}))

    client.submit(device.name, "double", {"x": X}).add_done_callback(ended)
    np.testing.assert_array_equal(later.result(LONG).result(LONG)["y"], (X + 1) * 2)
    assert [type(each) for each in said] == [RuntimeError] * 4


@pytest.mark.parametrize("errors", ["raise", "return"])
def test_an_item_that_cannot_be_sent_has_its_turn_and_loses_no_answer(
    client: Client, device: Serving, errors: Literal["raise", "return"]
) -> None:
    wrong = [
        "/no/such/picture", InferenceRequest(device.name, "double", {"x": X}, request_id="i" * 300),
        InferenceRequest(device.name, "no such model", {"x": X}), 5,
    ]  # fmt: skip
    items: list[Any] = [{"x": X}, *wrong, {"x": X + 1}]
    stream = client.infer_many(items, device=device.name, model="double", errors=errors)
    np.testing.assert_array_equal(next(stream)["y"], X * 2)
    if errors == "raise":
        with pytest.raises(FileNotFoundError):
            next(stream)
        return
    found = list(stream)
    assert [isinstance(each, BadRequestError) for each in found] == [True] * 4 + [False]
    np.testing.assert_array_equal(found[4]["y"], (X + 1) * 2)


def test_infer_many_takes_no_more_than_its_window_from_the_iterable(client: Client, device: Serving) -> None:
    taken = 0

    def items() -> object:
        nonlocal taken
        for number in range(1000):
            taken += 1
            yield {"x": X + number}

    stream = client.infer_many(items(), device=device.name, model="double", window=8)  # type: ignore[arg-type]
    next(stream)
    assert taken <= 10
    stream.close()  # type: ignore[attr-defined]
    until(lambda: client.statistics().in_flight == 0)


def test_a_cancelled_future_leaves_nothing(client: Client, device: Serving) -> None:
    client.infer(device.name, "double", {"x": X})
    device.workers[0].gate.clear()
    future = client.submit(device.name, "double", {"x": X})
    until(lambda: client.statistics().in_flight == 1)
    assert future.cancel()
    until(lambda: client.statistics().in_flight == 0)
    device.workers[0].gate.set()
    until(lambda: client.statistics().late == 1)


def test_closing_ends_what_is_under_way_and_the_thread(broker: Mosquitto, device: Serving) -> None:
    device.workers[0].gate.clear()
    before = set(threading.enumerate())
    fleet = Client(f"mqtt://127.0.0.1:{broker.port}", prefix=device.topics.prefix)
    future = fleet.submit(device.name, "double", {"x": X}, timeout=LONG)
    fleet.close()
    fleet.close()
    with pytest.raises(NotConnectedError) as closed:
        future.result(LONG)
    assert closed.value.code == "client_closed"
    with pytest.raises(NotConnectedError):
        fleet.infer(device.name, "double", {"x": X})
    until(lambda: not [each for each in threading.enumerate() if each not in before])
    device.workers[0].gate.set()


def test_a_client_that_nobody_holds_leaves_no_thread_and_no_socket(broker: Mosquitto, device: Serving) -> None:
    def use() -> None:
        fleet = Client(f"mqtt://127.0.0.1:{broker.port}", prefix=device.topics.prefix)
        fleet.infer(device.name, "double", {"x": X})

    use()
    gc.collect()
    threads, files = threading.active_count(), len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        use()
    gc.collect()
    until(lambda: threading.active_count() <= threads)
    until(lambda: len(os.listdir("/proc/self/fd")) <= files)


def test_thousands_of_requests_leave_nothing_behind(broker: Mosquitto, device: Serving) -> None:
    with Client(f"mqtt://127.0.0.1:{broker.port}", prefix=device.topics.prefix) as fleet:

        def ask(count: int) -> int:
            asked = ({"x": X} for _ in range(count))
            assert sum(1 for _ in fleet.infer_many(asked, device=device.name, model="double")) == count
            gc.collect()
            return sum(isinstance(each, (PendingRequest, Answer, Future)) for each in gc.get_objects())

        assert (ask(500), ask(4000)) == (0, 0)
        figures = fleet.statistics()
        assert (figures.answered, figures.in_flight, figures.bytes_in_flight, figures.late) == (4500, 0, 0, 0)


def test_a_forked_process_may_not_use_the_client_and_does_not_end_it(broker: Mosquitto, device: Serving) -> None:
    with Client(f"mqtt://127.0.0.1:{broker.port}", prefix=device.topics.prefix) as fleet:
        fleet.infer(device.name, "double", {"x": X})
        child = os.fork()
        if not child:
            try:
                fleet.infer(device.name, "double", {"x": X})
            except NotConnectedError:
                fleet.close()
                os._exit(7)
            os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        np.testing.assert_array_equal(fleet.infer(device.name, "double", {"x": X})["y"], X * 2)


def test_the_same_request_id_is_the_same_request(client: Client, device: Serving) -> None:
    first = client.infer(device.name, "double", {"x": X}, request_id="mine")
    again = client.infer(device.name, "double", {"x": X}, request_id="mine")
    assert (first.request_id, again.request_id) == ("mine", "mine")
    assert sum(device.workers[0].batches) == 1


def test_a_large_answer_comes_whole(client: Client, device: Serving) -> None:
    x = np.arange(1 << 20, dtype=np.float32).reshape(-1, 4)[: 1 << 16]
    device.serve(FakeWorker(arena_bytes=8 << 20), "large").result(LONG)
    started = time.monotonic()
    np.testing.assert_array_equal(client.infer(device.name, "large", {"x": x}, timeout=LONG)["y"], x * 2)
    assert time.monotonic() - started < LONG
