"""One caller at full speed: how much longer do the others wait?

`.venv/bin/python -m benchmarks.shares`. A registry on SQLite; one caller asks one request after the other, alone and
while another caller does what it can. The goal is less than twice. Both share the processors of the machine with this
program, so the flood itself is made by processes of their own with a low priority.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import httpx

from tests.support.programs.registry_process import RegistryProcess

DEVICES = 500
AT = "2026-11-28T12:00:00Z"


def _reads(url: str, token: str) -> None:
    with _client(url, token) as client:
        while True:
            client.get("/v1/devices?limit=200")


def _reports(url: str, token: str) -> None:
    """Beyond the device's budget soon: then the registry says 429, and this goes on all the same."""
    events = [
        {"event_id": f"{os.getpid()}-{n}", "seq": n, "at": AT, "kind": "agent", "message": "m" * 500}
        for n in range(200)
    ]
    body = json.dumps({"events": events})
    with _client(url, token) as client:
        while True:
            client.post("/v1/devices/device-0/reports", content=body, headers={"content-type": "application/json"})


FLOODS: dict[str, Callable[[str, str], None]] = {"reads": _reads, "reports": _reports}


def _client(url: str, token: str) -> httpx.Client:
    return httpx.Client(base_url=url, headers={"Authorization": f"Bearer {token}"}, timeout=120, trust_env=False)


def _flood(kind: str, url: str, token: str) -> None:
    os.nice(19)
    FLOODS[kind](url, token)


def latencies(client: httpx.Client, seconds: float) -> list[float]:
    """Of one request after the other: a device, and a group that is set."""
    found, until = [], time.monotonic() + seconds
    while time.monotonic() < until:
        began = time.perf_counter()
        client.get("/v1/devices/device-1").raise_for_status()
        found.append(time.perf_counter() - began)
    return found


def main() -> None:
    """Prints medians and 95th percentiles, and their ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--flooders", type=int, default=16)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        server = RegistryProcess(Path(folder)).start()
        try:
            with server.client() as admin:
                made = [
                    admin.put(f"/v1/devices/device-{n}", json={"labels": {}}).json()["token"] for n in range(DEVICES)
                ]
                reader = admin.post("/v1/tokens", json={"name": "flood", "scope": "read"}).json()["token"]
                for kind, token in (("reads", reader), ("reports", made[0])):
                    ratios = [_round(server.url, admin, kind, token, given) for _ in range(given.rounds)]
                    print(f"{kind}: median of the rounds' ratios {statistics.median(ratios):.2f}")
        finally:
            server.stop()


def _round(url: str, admin: httpx.Client, kind: str, token: str, given: argparse.Namespace) -> float:
    alone = latencies(admin, given.seconds)
    floods = [
        multiprocessing.Process(target=_flood, args=(kind, url, token), daemon=True) for _ in range(given.flooders)
    ]
    for each in floods:
        each.start()
    time.sleep(2)
    beside = latencies(admin, given.seconds)
    for each in floods:
        each.kill()
        each.join()
    for name, values in (("alone", alone), ("beside", beside)):
        p95 = statistics.quantiles(values, n=20)[-1]
        print(f"  {kind} {name}: p50 {statistics.median(values) * 1e3:.2f} ms, p95 {p95 * 1e3:.2f} ms of {len(values)}")
    return statistics.median(beside) / statistics.median(alone)


if __name__ == "__main__":
    main()
