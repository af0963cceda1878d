"""Requests and results while the device's disk refuses or the network cuts: nothing is acknowledged and then lost."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from agent.core.events import Disconnected
from agent.core.strikes import MAX_STRIKES
from tests.fakes.workers import FakeWorker
from tests.integration.agent.dataplane.test_dataplane_faults import serve
from tests.support.clients.asking import Asker, binary_request
from tests.support.clients.serving import Serving, until
from tests.support.network.broker import Mosquitto
from tests.support.network.proxy import Proxy

X = np.array([1, 2, 3, 4], np.float32)
REQUESTS = 30


def refuse(device: Serving) -> None:
    """From now on the disk is full: the file may not grow."""
    pages = device.outbox._opened().execute("PRAGMA page_count").fetchone()[0]
    device.outbox._opened().execute(f"PRAGMA max_page_count = {pages}")


def relent(device: Serving) -> None:
    """There is room again."""
    device.outbox._opened().execute(f"PRAGMA max_page_count = {1 << 30}")


def ask(client: Asker, count: int, *, reply_to: str | None) -> None:
    for number in range(count):
        payload, length = binary_request(X + number, id_=str(number))
        client.ask(payload, header_length=length, correlation=b"%d" % number, reply_to=reply_to)


def answered(client: Asker) -> set[int]:
    return {int(answer.correlation) for answer in list(client.answers)}


@pytest.mark.parametrize("to", ["results", "reply topic"])
@pytest.mark.parametrize("end", ["the disk recovers", "only the broker recovers", "the agent is started again"])
def test_no_result_is_lost_when_the_disk_refuses_it(
    broker: Mosquitto, proxy: Proxy, tmp_path: Path, to: str, end: str
) -> None:
    device = serve(proxy.port, tmp_path)
    worker = device.workers[0]
    worker.gate.clear()
    client = Asker(broker.port, device.infer(), listen=(device.results(),))
    ask(client, REQUESTS, reply_to="" if to == "results" else None)
    until(lambda: device.plane.snapshot().models["double"].queue_depth == REQUESTS)
    refuse(device)
    proxy.refusing = True
    proxy.sever()
    device.event(Disconnected)
    worker.gate.set()
    until(lambda: device.plane.snapshot().models["double"].requests == REQUESTS)
    assert device.plane.snapshot().total("results_unwritten") > 0
    if end == "the disk recovers":
        relent(device)
        until(lambda: device.plane.snapshot().total("outbox_queued") == REQUESTS)
    elif end == "the agent is started again":
        device.stop()
        device = Serving(broker.port, tmp_path, inherit=device)
        device.serve(FakeWorker(slots=2048, arenas=64))
        device.start()
    proxy.refusing = False
    until(lambda: answered(client) == set(range(REQUESTS)))
    for answer in list(client.answers):
        np.testing.assert_array_equal(answer.tensor(), (X + int(answer.correlation)) * 2)
    if end != "the agent is started again":
        assert device.plane.snapshot().total("outbox_dropped") == 0
    client.close()
    device.stop()


def test_results_that_wait_behind_older_ones_are_not_acknowledged_before_they_are_on_disk(
    broker: Mosquitto, proxy: Proxy, tmp_path: Path
) -> None:
    device = serve(proxy.port, tmp_path)
    client = Asker(broker.port, device.infer(), listen=(device.results(),))
    proxy.flowing.clear()  # the broker's acknowledgements stand still, so later results go to the disk
    device.plane.publish_durable(device.topics.device(device.name, "events"), b"{}")
    refuse(device)
    proxy.flowing.set()
    ask(client, REQUESTS, reply_to="")
    until(lambda: answered(client) == set(range(REQUESTS)))
    assert device.plane.snapshot().total("outbox_dropped") == 0
    client.close()
    device.stop()


def test_replies_that_the_network_cut_again_and_again_still_reach_their_client(
    broker: Mosquitto, proxy: Proxy, tmp_path: Path
) -> None:
    device = serve(proxy.port, tmp_path)
    worker = device.workers[0]
    worker.gate.clear()
    client = Asker(broker.port, device.infer())
    for number in range(MAX_STRIKES + 1):
        payload, length = binary_request(X + number, id_=str(number))
        client.ask(payload, header_length=length, correlation=b"%d" % number)
        until(lambda: device.plane.snapshot().models["double"].queue_depth > 0)
        proxy.flowing.clear()
        worker.gate.set()
        until(lambda: device.plane.snapshot().total("unacknowledged") > 0)
        worker.gate.clear()
        proxy.refusing = True
        proxy.sever()
        proxy.flowing.set()
        device.event(Disconnected)
        proxy.refusing = False
        if number < MAX_STRIKES:
            proxy.flowing.set()
            device.connected()
    worker.gate.set()
    until(lambda: answered(client) == set(range(MAX_STRIKES + 1)))
    assert device.plane.snapshot().total("replies_refused") == 0
    client.close()
    device.stop()
