"""Swap under load: LeNet answers a steady stream of requests while the device goes from one version to the next.

    .venv/bin/python -m benchmarks.swap [--rounds 5] [--seconds 8] [--rate 400]

Rounds without and with a swap take turns, so that both see the same machine. Requests leave at a fixed rate, whatever
the answers do, at QoS 1; each is matched by its correlation data. Quoted is the longest latency of the rounds with a
swap over the longest of the rounds without one; and what was lost, which must be nothing.
"""

from __future__ import annotations

import argparse
import json
import socket
import statistics
import struct
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import numpy as np
import onnx
import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from benchmarks.models import lenet
from registry.contracts.tensors import HEADER_LENGTH_PROPERTY
from scripts.demo.paho_session import end_session
from scripts.demo.processes import Fleet

DEVICE = "swap"
TOPIC = f"modelfleet/v1/devices/{DEVICE}/infer/lenet"
REPLIES = "benchmark/swap/replies"
DEPLOYMENTS = f"/v1/devices/{DEVICE}/deployments"
LOST_AFTER_S = 10.0


@dataclass
class Round:
    """What one round saw."""

    latencies: list[float] = field(default_factory=list)
    """Seconds."""
    versions: set[str] = field(default_factory=set)
    errors: int = 0
    lost: int = 0


class Load:
    """An open-loop MQTT 5 client."""

    def __init__(self, port: int) -> None:
        self._sent: dict[int, float] = {}
        self._round = Round()
        self._lock = threading.Lock()
        self._ready = threading.Event()
        model = lenet()
        item = np.random.default_rng(0).random((1, *model.item), dtype=np.float32)
        tensor = {"name": model.input, "shape": [1, *model.item], "datatype": "FP32"}
        header = {
            "inputs": [{**tensor, "parameters": {"binary_data_size": item.nbytes}}],
            "parameters": {"binary_data_output": True},
        }
        head = json.dumps(header).encode()
        self._length, self._body = str(len(head)), head + item.tobytes()
        client = self._client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
        client.max_inflight_messages_set(1000)
        client.on_socket_open = lambda _c, _u, sock: sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.on_connect = lambda c, *_: c.subscribe(REPLIES, qos=1)
        client.on_subscribe = lambda *_: self._ready.set()
        client.on_message = self._answered
        client.connect("127.0.0.1", port)
        client.loop_start()
        self._ready.wait(10)

    def close(self) -> None:
        """Disconnects."""
        end_session(self._client)

    def run(self, seconds: float, rate: float) -> Round:
        """Sends at `rate` a second for `seconds`, then waits for what is under way."""
        with self._lock:
            self._round, self._sent = Round(), {}
        begin = time.perf_counter()
        for number in range(int(seconds * rate)):
            time.sleep(max(0.0, begin + number / rate - time.perf_counter()))
            properties = Properties(PacketTypes.PUBLISH)
            properties.ResponseTopic = REPLIES
            properties.CorrelationData = struct.pack("<I", number)
            properties.ContentType = "application/octet-stream"
            properties.UserProperty = [(HEADER_LENGTH_PROPERTY, self._length)]
            with self._lock:
                self._sent[number] = time.perf_counter()
            self._client.publish(TOPIC, self._body, qos=1, properties=properties)
        deadline = time.monotonic() + LOST_AFTER_S
        while self._sent and time.monotonic() < deadline:
            time.sleep(0.01)
        self._round.lost = len(self._sent)
        return self._round

    def _answered(self, _client: mqtt.Client, _userdata: object, message: mqtt.MQTTMessage) -> None:
        now = time.perf_counter()
        (number,) = struct.unpack("<I", getattr(message.properties, "CorrelationData", b"\xff" * 4))
        length = int(
            dict(getattr(message.properties, "UserProperty", [])).get(HEADER_LENGTH_PROPERTY, len(message.payload))
        )
        head = json.loads(message.payload[:length])
        with self._lock:
            sent = self._sent.pop(number, None)
            if sent is None:
                return
            if "error" in head:
                self._round.errors += 1
                return
            self._round.latencies.append(now - sent)
            self._round.versions.add(head["model_version"])


def two_versions(folder: Path) -> list[Path]:
    """LeNet twice: the same weights, other bytes."""
    files = []
    for version in ("1", "2"):
        model = onnx.load(str(lenet().path))
        model.doc_string = f"version {version}"
        files.append(folder / f"lenet-{version}.onnx")
        onnx.save(model, str(files[-1]))
    return files


def administrator(fleet: Fleet) -> httpx.Client:
    """Asks over HTTP: a command line would take a third of a second of the two cores itself. Opened, and its code
    loaded, before the first round: that takes 20 ms of this process, in which it could send and note no answer."""
    token = (fleet.registry_data / "admin.token").read_text().strip()
    client = httpx.Client(base_url=fleet.url, headers={"Authorization": f"Bearer {token}"}, trust_env=False)
    client.get(DEPLOYMENTS).raise_for_status()
    return client


def deploy(client: httpx.Client, version: str) -> None:
    """Tells the device to go to a version."""
    client.put(f"{DEPLOYMENTS}/lenet", json={"version": version}).raise_for_status()


def longest_ms(rounds: list[Round]) -> float:
    """Of all requests of these rounds."""
    return max(max(each.latencies) for each in rounds) * 1e3


def main() -> None:
    """Alternate, then print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--rate", type=float, default=400.0)
    options = parser.parse_args()
    still: list[Round] = []
    swapped: list[Round] = []
    with tempfile.TemporaryDirectory() as name, Fleet(Path(name)) as fleet:
        fleet.start_broker()
        fleet.start_registry()
        for version, path in enumerate(two_versions(Path(name)), 1):
            fleet.registry("publish", "lenet", str(path), "--version", str(version), "--target", "cpu")
        fleet.start_agent(DEVICE, fleet.add_device(DEVICE))
        fleet.registry("deploy", "lenet@1", "--device", DEVICE, "--wait")
        client = administrator(fleet)
        serving, load = "1", Load(fleet.broker_port)
        load.run(2.0, options.rate)
        for _ in range(options.rounds):
            still.append(load.run(options.seconds, options.rate))
            after = "2" if serving == "1" else "1"
            swap = threading.Timer(options.seconds / 4, deploy, (client, after))
            swap.start()
            swapped.append(load.run(options.seconds, options.rate))
            swap.join()
            serving = after
        load.close()
        client.close()
    for what, rounds in (("without a swap", still), ("with a swap", swapped)):
        every = [latency for each in rounds for latency in each.latencies]
        cuts = statistics.quantiles(every, n=1000)
        errors, lost = sum(each.errors for each in rounds), sum(each.lost for each in rounds)
        print(
            f"{what}: {len(every)} answers, {errors} errors, {lost} lost; "
            f"p50 {cuts[499] * 1e3:.2f} ms, p99 {cuts[989] * 1e3:.1f} ms, p99.9 {cuts[998] * 1e3:.1f} ms, "
            f"longest {longest_ms(rounds):.1f} ms (rounds: {', '.join(f'{longest_ms([r]):.0f}' for r in rounds)})"
        )
    if not all(len(each.versions) == 2 for each in swapped):
        raise SystemExit("a round with a swap saw only one version: make the rounds longer")
    print(f"longest with a swap / longest without: {longest_ms(swapped) / longest_ms(still):.2f}")


if __name__ == "__main__":
    main()
