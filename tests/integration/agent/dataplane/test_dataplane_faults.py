"""The data path when things go wrong around it: nothing is lost, nothing grows, and the next request is served."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import paho.mqtt.client as mqtt
import pytest

from agent.core.events import Disconnected
from agent.dataplane.oip.plan import RequestPlan
from agent.dataplane.oip.reply_encoder import ReplyEncoder
from registry.certificates import TlsFiles
from tests.fakes.workers import FakeWorker
from tests.support.clients.asking import Asker, binary_request
from tests.support.clients.serving import BIRTH, DEATH, Serving, until
from tests.support.network.broker import Mosquitto, free_port
from tests.support.network.proxy import Proxy

X = np.array([1, 2, 3, 4], np.float32)


def serve(port: int, folder: Path, **how: object) -> Serving:
    device = Serving(port, folder, **how)  # type: ignore[arg-type]
    device.serve(FakeWorker(slots=2048, arenas=64))
    return device.start()


@pytest.mark.parametrize("fast", [True, False], ids=["fast", "public"])
def test_a_broker_killed_in_the_middle_loses_no_request(mortal_broker: Mosquitto, tmp_path: Path, fast: bool) -> None:
    device = serve(mortal_broker.port, tmp_path, fast=fast)
    client = Asker(mortal_broker.port, device.infer())
    for number in range(1500):
        payload, length = binary_request(X + number, id_=f"k{number}")
        client.ask(payload, header_length=length, correlation=b"%d" % number)
        if number in (400, 900):
            client.wait(number // 2)
            mortal_broker.kill()
            mortal_broker.start()
            device.connected()
            until(client.client.is_connected)

    def missing() -> set[int]:
        return set(range(1500)) - {int(answer.correlation) for answer in list(client.answers)}

    # Mosquitto forgets what it took when it is killed, so a client asks again for what stays unanswered: paho has
    # sent again what was not acknowledged, this does the rest.
    for _ in range(40):
        try:
            until(lambda: not missing(), 1.0)
            break
        except TimeoutError:
            for number in missing():
                payload, length = binary_request(X + number, id_=f"k{number}")
                client.ask(payload, header_length=length, correlation=b"%d" % number)
    assert not missing()
    for answer in list(client.answers):
        np.testing.assert_array_equal(answer.tensor(), (X + int(answer.correlation)) * 2)
    client.close()
    device.stop()


def test_requests_under_way_at_a_cut_are_answered_without_being_asked_again(
    broker: Mosquitto, proxy: Proxy, tmp_path: Path
) -> None:
    device = serve(proxy.port, tmp_path)
    device.workers[0].gate.clear()
    client = Asker(broker.port, device.infer())
    for number in range(30):
        payload, length = binary_request(X + number)
        client.ask(payload, header_length=length, correlation=b"%d" % number)
    until(lambda: device.plane.snapshot().models["double"].queue_depth == 30)
    proxy.sever()
    device.event(Disconnected)
    device.workers[0].gate.set()
    until(lambda: {int(answer.correlation) for answer in list(client.answers)} == set(range(30)))
    client.close()
    device.stop()


def test_an_answer_that_cannot_be_made_costs_itself_and_no_slot(
    broker: Mosquitto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fault of ours: the reply of one request cannot be encoded."""
    encode = ReplyEncoder.fixed

    def faulty(self: ReplyEncoder, plan: RequestPlan, views: Any) -> Any:
        if plan.id == "bad":
            raise KeyError("no such datatype")
        return encode(self, plan, views)

    monkeypatch.setattr(ReplyEncoder, "fixed", faulty)
    device = serve(broker.port, tmp_path)
    client = Asker(broker.port, device.infer())
    for number in range(30):
        payload, length = binary_request(X + number, id_="bad" if number % 3 == 1 else f"k{number}")
        client.ask(payload, header_length=length, correlation=b"%d" % number)
    answers = {int(answer.correlation): answer for answer in client.wait(30)}
    for number, answer in answers.items():
        if number % 3 == 1:
            assert json.loads(answer.payload)["code"] == "run_failed"
        else:
            np.testing.assert_array_equal(answer.tensor(), (X + number) * 2)
    until(lambda: device.plane.snapshot().models["double"].queue_depth == 0)
    client.close()
    device.stop()


@pytest.mark.parametrize("largest", [7, 3000])
@pytest.mark.parametrize("qos", [0, 1])
def test_a_stream_in_small_pieces(broker: Mosquitto, tmp_path: Path, largest: int, qos: int) -> None:
    relay = Proxy(broker.port, largest)
    device = serve(relay.port, tmp_path)
    client = Asker(broker.port, device.infer())
    for number in range(60):
        x = np.arange(4 * (1 + number), dtype=np.float32) + number
        payload, length = binary_request(x, rows=1 + number)
        client.ask(payload, qos=qos, header_length=length, correlation=b"%d" % number)
    for answer in client.wait(60):
        number = int(answer.correlation)
        np.testing.assert_array_equal(answer.tensor(), 2 * (np.arange(4 * (1 + number)) + number))
    if largest > 1000:
        x = np.arange(100_000, dtype=np.float32)
        payload, length = binary_request(x, rows=25_000)
        np.testing.assert_array_equal(client.one(payload, qos=qos, header_length=length).tensor(), x * 2)
    client.close()
    device.stop()
    relay.close()


def test_while_the_broker_is_away_replies_wait_on_disk_and_arrive(
    broker: Mosquitto, proxy: Proxy, tmp_path: Path
) -> None:
    device = serve(proxy.port, tmp_path)
    worker = device.workers[0]
    worker.gate.clear()
    client = Asker(broker.port, device.infer())
    for number in range(20):
        payload, length = binary_request(X, id_=str(number))
        client.ask(payload, header_length=length, correlation=b"%d" % number)
    until(lambda: device.plane.snapshot().models["double"].queue_depth == 20)
    proxy.refusing = True
    proxy.sever()
    device.event(Disconnected)
    worker.gate.set()
    until(lambda: device.plane.snapshot().total("outbox_queued") == 20)
    device.plane.publish_durable(device.topics.device(device.name, "events"), b'{"seq":1}')
    assert device.plane.snapshot().total("outbox_queued") == 21
    proxy.refusing = False
    client.wait(20)
    until(lambda: device.plane.snapshot().total("outbox_queued") == 0)
    client.close()
    device.stop()


def test_events_arrive_in_order_and_leave_the_disk(broker: Mosquitto, tmp_path: Path) -> None:
    device = Serving(broker.port, tmp_path)
    topic = device.topics.device(device.name, "events")
    listener = Asker(broker.port, device.infer(), listen=(topic,))
    for number in range(100):
        device.plane.publish_durable(topic, b"%d" % number)
    device.start()
    assert [int(answer.payload) for answer in listener.wait(100)] == list(range(100))
    until(lambda: device.plane.snapshot().total("outbox_queued") == 0)
    listener.close()
    device.stop()


def test_what_the_outbox_drops_is_counted_and_events_are_dropped_last(broker: Mosquitto, tmp_path: Path) -> None:
    device = Serving(free_port(), tmp_path, outbox_rows=10)
    device.plane.start()
    device.event(Disconnected)
    for number in range(12):
        device.plane.publish_durable("e", b"%d" % number)
    snapshot = device.plane.snapshot()
    assert (snapshot.total("outbox_queued"), snapshot.total("outbox_dropped")) == (10, 2)
    device.stop()


def test_qos_0_replies_without_a_connection_are_counted(mortal_broker: Mosquitto, tmp_path: Path) -> None:
    device = serve(mortal_broker.port, tmp_path)
    device.workers[0].gate.clear()
    client = Asker(mortal_broker.port, device.infer())
    payload, length = binary_request(X)
    for _ in range(5):
        client.ask(payload, qos=0, header_length=length)
    until(lambda: device.plane.snapshot().models["double"].queue_depth == 5)
    mortal_broker.kill()
    device.event(Disconnected)
    device.workers[0].gate.set()
    until(lambda: device.plane.snapshot().total("replies_dropped") == 5)
    client.close()
    device.stop()


def test_the_brokers_default_receive_maximum_is_kept(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    strict = Mosquitto(tmp_path_factory.mktemp("strict"), extra="max_inflight_messages 3").start()
    device = serve(strict.port, tmp_path)
    client = Asker(strict.port, device.infer())
    for number in range(300):
        payload, length = binary_request(X + number)
        client.ask(payload, header_length=length, correlation=b"%d" % number)
    client.wait(300)
    assert device.plane.snapshot().total("mqtt_connections") == 1
    client.close()
    device.stop()
    strict.stop()


def test_presence_is_said_on_every_way(broker: Mosquitto, proxy: Proxy, tmp_path: Path) -> None:
    device = Serving(proxy.port, tmp_path)
    topic = device.topics.device(device.name, "presence")
    watcher = Asker(broker.port, device.infer(), listen=(topic,))
    device.start()
    assert watcher.wait(1)[-1].payload == BIRTH
    proxy.sever()
    assert [answer.payload for answer in watcher.wait(3)][1:] == [DEATH, BIRTH]
    device.stop()
    assert watcher.wait(4)[-1].payload == DEATH
    watcher.close()


def test_retained_documents_are_sent_again_after_a_reconnect(mortal_broker: Mosquitto, tmp_path: Path) -> None:
    device = serve(mortal_broker.port, tmp_path)
    topic = device.topics.device(device.name, "reported")
    device.plane.publish(topic, b"old", retain=True)
    device.plane.publish(topic, b"new", retain=True)
    device.plane.snapshot()
    mortal_broker.kill()
    mortal_broker.start()  # without its memory
    device.connected()
    watcher = Asker(mortal_broker.port, device.infer(), listen=(topic,))
    assert watcher.wait(1)[0].payload == b"new"
    watcher.close()
    device.stop()


def test_a_takeover_by_the_same_client_id_is_survived(broker: Mosquitto, tmp_path: Path) -> None:
    device = serve(broker.port, tmp_path)
    thief = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id=device.name, protocol=mqtt.MQTTv5)
    thief.connect("127.0.0.1", broker.port)
    thief.loop()
    device.event(Disconnected)
    device.connected()
    client = Asker(broker.port, device.infer())
    payload, length = binary_request(X)
    np.testing.assert_array_equal(client.one(payload, header_length=length).tensor(), X * 2)
    client.close()
    thief.disconnect()
    device.stop()


def test_a_short_keepalive_holds_while_idle_and_under_load(broker: Mosquitto, proxy: Proxy, tmp_path: Path) -> None:
    device = serve(proxy.port, tmp_path, keepalive_s=2)
    client = Asker(broker.port, device.infer())
    idle_until = time.monotonic() + 3.5  # the broker waits for one and a half of it
    until(lambda: time.monotonic() > idle_until)
    busy_until = time.monotonic() + 3.5
    payload, length = binary_request(X)
    while time.monotonic() < busy_until:
        client.one(payload, header_length=length)
    assert device.plane.snapshot().total("mqtt_connections") == 1
    client.close()
    device.stop()


def test_a_broker_that_goes_silent_is_given_up(broker: Mosquitto, proxy: Proxy, tmp_path: Path) -> None:
    device = serve(proxy.port, tmp_path, keepalive_s=2)
    proxy.flowing.clear()
    device.event(Disconnected)
    proxy.sever()
    proxy.flowing.set()
    device.connected()
    device.stop()


def test_a_result_longer_than_the_broker_takes_is_an_error(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    strict = Mosquitto(tmp_path_factory.mktemp("strict"), extra="max_packet_size 100000").start()
    device = serve(strict.port, tmp_path)
    client = Asker(strict.port, device.infer())
    x = np.arange(10_000, dtype=np.float32)
    numbers = json.dumps({"inputs": [{"name": "x", "shape": [2500, 4], "datatype": "FP32", "data": x.tolist()}]})
    assert "outputs" in client.one(numbers.encode()).head
    payload, length = binary_request(np.arange(24_900, dtype=np.float32), rows=6225)
    assert client.one(payload, header_length=length).head["code"] == "result_too_large"
    device.plane.publish_durable(device.topics.device(device.name, "events"), b"x" * 200_000)
    until(lambda: device.plane.snapshot().total("outbox_queued") == 0)
    snapshot = device.plane.snapshot()
    assert (snapshot.total("mqtt_connections"), snapshot.total("replies_refused")) == (1, 1)
    client.close()
    device.stop()
    strict.stop()


def test_tls(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("tls")
    key, certificate = folder / "key.pem", folder / "cert.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    alternative = ["-addext", "subjectAltName=DNS:localhost"]
    subprocess.run([*command, *alternative, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    port = free_port()
    extra = f"listener {port} 127.0.0.1\ncertfile {certificate}\nkeyfile {key}\nallow_anonymous true"
    secure = Mosquitto(folder, extra=extra).start()
    device = serve(port, tmp_path, tls=TlsFiles(ca_file=certificate), host="localhost")
    client = Asker(secure.port, device.infer())
    for number in range(200):
        payload, length = binary_request(X + number)
        client.ask(payload, qos=number % 2, header_length=length, correlation=b"%d" % number)
    for answer in client.wait(200):
        np.testing.assert_array_equal(answer.tensor(), (X + int(answer.correlation)) * 2)
    x = np.arange(200_000, dtype=np.float32)
    payload, length = binary_request(x, rows=50_000)
    np.testing.assert_array_equal(client.one(payload, header_length=length).tensor(), x * 2)
    client.close()
    device.stop()
    secure.stop()


def test_a_stop_answers_what_is_under_way_and_leaves_the_rest_to_the_broker(broker: Mosquitto, tmp_path: Path) -> None:
    device = serve(broker.port, tmp_path)
    client = Asker(broker.port, device.infer())
    payload, length = binary_request(X)
    for number in range(50):
        client.ask(payload, header_length=length, correlation=b"%d" % number)
    client.wait(1)
    device.stop()
    for number in range(50, 60):
        client.ask(payload, header_length=length, correlation=b"%d" % number)
    successor = Serving(broker.port, tmp_path, inherit=device)
    successor.serve(FakeWorker())
    successor.start()
    until(lambda: {int(answer.correlation) for answer in list(client.answers)} == set(range(60)))
    client.close()
    successor.stop()
