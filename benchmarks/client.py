"""The client of devices against the C load generator and a plain paho client, asking one agent for LeNet in turn.

    .venv/bin/python -m benchmarks.client               # about 3 minutes
    .venv/bin/python -m benchmarks.client --quick
    .venv/bin/python -m benchmarks.client --triton PYTHON   # also Triton; this Python has nvidia-pytriton

Every answer's values are compared with ONNX Runtime's (the plain paho client only counts). Each contender is a process
of its own, whose processor time is counted; what it needs to start and to connect is not. Ratios are of the same round.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import platform
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import paho.mqtt.client as mqtt
from numpy.typing import NDArray
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from benchmarks.data_path import PEERS, VARIANTS, Bench, Workload, peer, start_agents
from benchmarks.models import lenet
from registry.client.devices import Answer, AsyncClient, Client
from registry.contracts.tensors import HEADER_LENGTH_PROPERTY
from scripts.demo.processes import Fleet, free_port

MODEL = "lenet"
KINDS = ("Client", "AsyncClient", "Client, one at a time", "plain paho")


class Asked:
    """What one contender asks: the inputs, what must come, and how often."""

    def __init__(self, port: int, folder: Path, device: str, *, qos: int, window: int, count: int) -> None:
        self.port, self.device, self.qos, self.window, self.count = port, device, qos, window, count
        model = lenet()
        size = 4 * int(np.prod(model.item))
        whole = (folder / f"{MODEL}.bodies").read_bytes()
        self.header = whole[: len(whole) // VARIANTS - size]
        self.bodies = [whole[i * len(whole) // VARIANTS : (i + 1) * len(whole) // VARIANTS] for i in range(VARIANTS)]
        self.inputs = [np.frombuffer(body[-size:], np.float32).reshape(1, *model.item) for body in self.bodies]
        expected = np.frombuffer((folder / f"{MODEL}.expected").read_bytes(), np.float32)
        self.expected = expected.reshape(VARIANTS, 1, -1)
        self.input, self.output = model.input, model.output
        self.latencies: list[float] = []

    def items(self, count: int) -> Iterator[dict[str, NDArray[Any]]]:
        return ({self.input: self.inputs[n % VARIANTS]} for n in range(count))

    def check(self, number: int, answer: Answer) -> None:
        if not abs(answer[self.output] - self.expected[number % VARIANTS]).max() < 1e-3:
            raise SystemExit(f"answer {number} is wrong")
        self.latencies.append(answer.seconds)

    @property
    def url(self) -> str:
        return f"mqtt://127.0.0.1:{self.port}"

    def timed(self, work: Callable[[int], None]) -> None:
        """Prints the figures of `count` requests, after a tenth of them to warm up."""
        work(max(2 * self.window, self.count // 10))
        self.latencies.clear()
        before, cpu = time.perf_counter(), time.process_time()
        work(self.count)
        seconds, spent = time.perf_counter() - before, time.process_time() - cpu
        held = sorted(self.latencies) or [0.0]
        figures = {
            "per_second": self.count / seconds,
            "cpu_us": spent * 1e6 / self.count,
            "p50_us": held[len(held) // 2] * 1e6,
            "p99_us": held[int(len(held) * 0.99)] * 1e6,
        }
        print(json.dumps(figures), flush=True)


def ask_many(asked: Asked) -> None:
    with Client(asked.url) as fleet:

        def work(count: int) -> None:
            answers = fleet.infer_many(
                asked.items(count), device=asked.device, model=MODEL, window=asked.window, qos=asked.qos
            )
            for number, answer in enumerate(answers):
                asked.check(number, answer)  # type: ignore[arg-type]

        asked.timed(work)


def ask_one_at_a_time(asked: Asked) -> None:
    with Client(asked.url) as fleet:

        def work(count: int) -> None:
            for number, inputs in enumerate(asked.items(count)):
                asked.check(number, fleet.infer(asked.device, MODEL, inputs, qos=asked.qos))

        asked.timed(work)


def ask_asynchronously(asked: Asked) -> None:
    loop = asyncio.new_event_loop()
    fleet = AsyncClient(asked.url)
    loop.run_until_complete(fleet.connect())

    async def ask(count: int) -> None:
        number = 0
        async for answer in fleet.infer_many(
            asked.items(count), device=asked.device, model=MODEL, window=asked.window, qos=asked.qos
        ):
            asked.check(number, answer)
            number += 1

    asked.timed(lambda count: loop.run_until_complete(ask(count)))
    loop.run_until_complete(fleet.close())


def ask_with_paho(asked: Asked) -> None:
    """What one writes with paho alone: a semaphore for the window, correlation data, and TCP_NODELAY."""
    room, ended, left = threading.Semaphore(asked.window), threading.Event(), [0]
    topic = f"modelfleet/v1/devices/{asked.device}/infer/{MODEL}"
    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
    client.max_inflight_messages_set(0)
    client.on_socket_open = lambda _c, _u, sock: sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    subscribed = threading.Event()
    client.on_subscribe = lambda *_: subscribed.set()
    client.on_connect = lambda c, *_: c.subscribe("plain/replies", qos=1)

    def on_message(_client: Any, _userdata: Any, message: mqtt.MQTTMessage) -> None:
        length = int(dict(message.properties.UserProperty)[HEADER_LENGTH_PROPERTY])  # type: ignore[union-attr]
        json.loads(message.payload[:length])
        np.frombuffer(message.payload[length:], np.float32)
        left[0] -= 1
        room.release()
        if not left[0]:
            ended.set()

    client.on_message = on_message
    client.connect("127.0.0.1", asked.port)
    client.loop_start()
    subscribed.wait(10)

    def work(count: int) -> None:
        left[0] = count
        ended.clear()
        for number in range(count):
            room.acquire()
            properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
            properties.ResponseTopic = "plain/replies"
            properties.CorrelationData = number.to_bytes(8, "big")
            properties.ContentType = "application/octet-stream"
            properties.UserProperty = (HEADER_LENGTH_PROPERTY, str(len(asked.header)))
            client.publish(topic, asked.bodies[number % VARIANTS], asked.qos, properties=properties)
        ended.wait(60)

    asked.timed(work)
    client.disconnect()
    client.loop_stop()


ASK = dict(zip(KINDS, (ask_many, ask_asynchronously, ask_one_at_a_time, ask_with_paho), strict=True))


def run(kind: str, port: int, folder: Path, *, qos: int, window: int, count: int) -> dict[str, float]:
    """One contender in a process of its own."""
    argv = [sys.executable, "-m", "benchmarks.client", "--ask", kind, "--port", str(port), "--folder", str(folder)]
    argv += ["--qos", str(qos), "--window", str(window), "--count", str(count)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode:
        raise RuntimeError(f"{kind}: {done.stdout}{done.stderr}")
    figures: dict[str, float] = json.loads(done.stdout)
    return figures


def ask_triton(python: str, port: int, folder: Path, *, window: int, count: int) -> dict[str, float]:
    """tritonclient's asyncio gRPC client, in Triton's own environment."""
    argv = [python, PEERS / "triton.py", "ask", port, folder / f"{MODEL}.bodies", VARIANTS, window, count]
    done = subprocess.run([str(a) for a in argv], capture_output=True, text=True, timeout=300, check=True)
    figures: dict[str, float] = json.loads(done.stdout)
    return figures


def show(title: str, table: dict[str, list[dict[str, float]]]) -> None:
    """One Markdown table; ratios are medians of those of each round."""
    print(f"\n### {title}\n\n| contender | req/s (runs) | rate to the C generator | CPU µs a request | p50 / p99 µs |")
    print("|---|---|---|---|---|")
    yardstick = table["C generator"]
    for name, runs in table.items():
        ratio = statistics.median(a["per_second"] / b["per_second"] for a, b in zip(runs, yardstick, strict=True))
        median = {key: statistics.median(each.get(key, 0.0) for each in runs) for key in
                  ("per_second", "cpu_us", "p50_us", "p99_us")}  # fmt: skip
        shown = ", ".join(f"{each['per_second']:,.0f}" for each in runs)
        cpu = f"{median['cpu_us']:.0f}" if median["cpu_us"] else ""
        print(f"| {name} | {median['per_second']:,.0f} ({shown}) | {ratio:.2f} | {cpu} | "
              f"{median['p50_us']:,.0f} / {median['p99_us']:,.0f} |", flush=True)  # fmt: skip


def main() -> None:
    """All contenders in turn, or one of them (`--ask`)."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--triton", help="a Python interpreter that has nvidia-pytriton and onnxruntime")
    parser.add_argument("--only", default="", help="workloads whose name contains this")
    parser.add_argument("--ask", choices=KINDS, help=argparse.SUPPRESS)
    for name in ("port", "qos", "window", "count"):
        parser.add_argument(f"--{name}", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.ask:
        ASK[given.ask](Asked(given.port, given.folder, "worker", qos=given.qos, window=given.window, count=given.count))
        return
    rounds, scale = (1, 0.1) if given.quick else (given.rounds, 1.0)
    with tempfile.TemporaryDirectory() as name, Fleet(Path(name)) as fleet, ExitStack() as stack:
        folder, model = Path(name), lenet()
        bench = Bench(folder)
        header = bench.bodies(model)
        fleet.start_broker()
        fleet.start_registry()
        start_agents(fleet, [model])
        triton_port = free_port()
        if given.triton:
            stack.enter_context(peer([given.triton, PEERS / "triton.py", "serve", triton_port, model.path]))
        print(f"{time.strftime('%Y-%m-%d')}, {platform.machine()}, Python {platform.python_version()}, paho-mqtt "
              f"{version('paho-mqtt')}, {rounds} rounds")  # fmt: skip
        for qos, window in itertools.product((1, 0), (32, 1)):
            count = int((20_000 if window > 1 else 3_000) * scale)
            work = Workload(model, qos, window, count)
            if given.only not in work.name:
                continue
            names = ["Client", "AsyncClient", "plain paho"] if window > 1 else ["Client, one at a time"]
            triton = ["tritonclient to Triton"] if given.triton else []
            table: dict[str, list[dict[str, float]]] = {each: [] for each in ("C generator", *names, *triton)}
            topic = f"modelfleet/v1/devices/worker/infer/{MODEL}"
            for _ in range(rounds):
                table["C generator"].append(bench.load(fleet.broker_port, topic, work, header, checked=True))
                for each in names:
                    table[each].append(run(each, fleet.broker_port, folder, qos=qos, window=window, count=count))
                for each in triton:
                    table[each].append(ask_triton(given.triton, triton_port, folder, window=window, count=count))
            show(work.name, table)


if __name__ == "__main__":
    main()
