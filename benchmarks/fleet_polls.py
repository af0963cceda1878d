"""Unchanged polls of a whole fleet, against /healthz of the same server asked by the same loop; and how soon a device
whose facts change is told another variant."""

from __future__ import annotations

import json
import statistics
import struct
import subprocess
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import paho.mqtt.client as mqtt

from benchmarks.fleet_seed import device_name, device_token, numbers, platform
from benchmarks.fleet_world import World
from registry.contracts.topics import Topics
from scripts.demo.paho_session import end_session

CONNECTIONS = 64
DEADLINE_S = 20.0


@dataclass(frozen=True)
class Told:
    """Seconds from the request with new facts until the device could know what follows, per device."""

    http: list[float]
    mqtt: list[float]


def polls(here: World, seconds: float) -> dict[str, dict[str, float]]:
    """Every device in turn, each with its own credential and the ETag of the document it has."""
    with here.database.read() as session:
        query = "SELECT d.name, s.digest FROM devices d JOIN desired s ON s.device_id = d.id ORDER BY d.id"
        tags = {name: tag for name, tag in session.connection().exec_driver_sql(query)}  # noqa: C416 - rows are no pairs
    asked = (
        _request(f"/v1/devices/{device_name(n)}/desired", f"Bearer {device_token(n)}", tags[device_name(n)])
        for n in range(here.devices)
    )
    ceiling = _load(here, [_request("/healthz")], seconds)
    return {"healthz": ceiling, "polls": _load(here, asked, seconds)}


def _request(path: str, authorization: str = "", tag: str = "") -> bytes:
    lines = [f"GET {path} HTTP/1.1", "Host: 127.0.0.1"]
    lines += [f"Authorization: {authorization}"] if authorization else []
    lines += [f'If-None-Match: "{tag}"'] if tag else []
    return "\r\n".join([*lines, "", ""]).encode()


def _load(here: World, requests: Iterable[bytes], seconds: float) -> dict[str, float]:
    file = here.tools / "requests"
    with file.open("wb") as out:
        for request in requests:
            out.write(struct.pack("<I", len(request)) + request)
    argv = here.tool("http_poll", here.fleet.registry_port, file, CONNECTIONS, seconds, 2)
    done = subprocess.run(argv, capture_output=True, text=True, timeout=seconds + 60, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return dict(json.loads(done.stdout))


def facts_changed(here: World, count: int) -> Told:
    """`count` devices, one after the other, say that they have a GPU now, or none any more."""
    told = Told([], [])
    topics, subscribed, arrived = Topics(), threading.Event(), threading.Event()
    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)

    def taken(_client: mqtt.Client, _userdata: object, message: mqtt.MQTTMessage) -> None:
        if not message.retain:
            arrived.set()

    client.on_message = taken
    client.on_subscribe = lambda *_: subscribed.set()
    client.connect("127.0.0.1", here.fleet.broker_port)
    client.loop_start()
    with here.client() as http:
        for number in numbers(count, here.devices):
            topic = topics.device(device_name(number), "desired")
            subscribed.clear()
            client.subscribe(topic, 1)
            if not subscribed.wait(DEADLINE_S):
                raise RuntimeError(f"the broker did not subscribe us to {topic}")
            path = f"/v1/devices/{device_name(number)}"
            before = http.get(f"{path}/desired").raise_for_status().headers["etag"]
            had_gpu = http.get(f"{path}/desired").json()["models"]["bench"]["variant"] == "gpu"
            body = platform(number, gpu=not had_gpu).to_json()
            arrived.clear()
            begin = time.perf_counter()
            http.put(f"{path}/facts", json=body).raise_for_status()
            _until(lambda path=path, before=before: _changed(http, path, before), f"the ETag of {path}")
            told.http.append(time.perf_counter() - begin)
            if not arrived.wait(DEADLINE_S):
                raise RuntimeError(f"nothing came on {topic}")
            told.mqtt.append(time.perf_counter() - begin)
            client.unsubscribe(topic)
    end_session(client)
    return told


def _changed(http: Any, path: str, before: str) -> bool:
    return bool(http.get(f"{path}/desired").raise_for_status().headers["etag"] != before)


def _until(true: Any, what: str) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not true():
        if time.monotonic() > deadline:
            raise RuntimeError(f"{what}: not within {DEADLINE_S:g} s")
        time.sleep(0.002)


def spread(seconds: list[float]) -> str:
    """Median and longest, in milliseconds."""
    return f"median {statistics.median(seconds) * 1e3:.0f} ms, longest {max(seconds) * 1e3:.0f} ms"
