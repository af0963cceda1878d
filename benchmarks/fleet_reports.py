"""Health reports through the broker into the database, against the same messages through the broker to a bare
subscriber; and how the database grows by them when old ones are folded and forgotten."""

from __future__ import annotations

import json
import random
import struct
import subprocess
import time
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any

from benchmarks.fleet_seed import device_name, numbers, seed
from benchmarks.fleet_world import MODEL, World
from registry.contracts.device.messages import Health, ModelHealth, Quantiles
from registry.contracts.topics import Topics
from registry.contracts.wire import digest_of
from registry.core.intake import DeviceMessage, checked
from registry.core.retention import RetentionLimits
from registry.db.engine import Database
from registry.services.fleet.retention import RetentionSweep
from registry.services.telemetry import Telemetry

INTERVAL_S = 30
"""The agent's default between two health reports."""
WINDOW = 500
DEADLINE_S = 300.0
TOPICS = Topics()


@dataclass(frozen=True)
class Ingested:
    """Reports, and seconds until the database had them, until the broker had them, until a bare subscriber had."""

    reports: int
    bytes: float
    """Of one report."""
    stored: float
    taken: float
    bare: float


@dataclass(frozen=True)
class Growth:
    """Bytes that the database has grown by for each device, at the end of each simulated day."""

    days: list[float]
    reports_a_day: int


def report(device: str, seq: int, at: datetime, rng: random.Random) -> Health:
    """What an agent with one busy model says."""
    model = ModelHealth(
        version="1", requests=seq * 400 + rng.randrange(100), errors={"deadline_exceeded": seq // 10},
        latency_us=_quantiles(rng), run_us=_quantiles(rng), queue_limit=64, batch_sizes={"1": seq * 300, "2": seq * 50},
    )  # fmt: skip
    return Health(
        device=device, session_id=f"s-{device}", seq=seq, at=at, window_s=30.0, uptime_s=30.0 * seq,
        cpu_fraction=rng.random(), rss_bytes=rng.randrange(1 << 28), memory_free_bytes=rng.randrange(1 << 32),
        disk_free_bytes=rng.randrange(1 << 36), load_1m=rng.random() * 4,
        temperatures_c={"cpu": 40 + 20 * rng.random()}, data_path="fast", models={MODEL: model},
    )  # fmt: skip


def _quantiles(rng: random.Random) -> Quantiles:
    p50 = rng.random() * 1000
    return Quantiles(p50=p50, p90=p50 * 2, p99=p50 * 3, max=p50 * 5)


def ingest(here: World, devices: int, each: int) -> Ingested:
    """`each` reports of `devices` devices, in turn; their sessions are known already, as those of a fleet are."""
    names = [device_name(number) for number in numbers(devices, here.devices)]
    now = datetime.fromtimestamp(time.time(), timezone.utc)
    _write(here, names, range(1), now)
    _flood(here)
    _until_stored(here, len(names))
    size = _write(here, names, range(1, each + 1), now)
    count = len(names) * each
    argv = here.tool("mqtt_sink", here.fleet.broker_port, "bare/#", count)
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as sink:
        assert sink.stdout is not None
        if sink.stdout.readline().strip() != "ready":
            raise RuntimeError("the bare subscriber did not start")
        _flood(here, "bare")
        bare = float(json.loads(sink.stdout.readline())["seconds"])
    begin = time.perf_counter()
    taken = _flood(here)
    _until_stored(here, len(names) + count)
    return Ingested(count, size / count, time.perf_counter() - begin, taken, bare)


def _write(here: World, names: list[str], seqs: range, now: datetime) -> int:
    """Two files with the messages: one with the fleet's topics, one with others; bytes of all payloads."""
    rng, size = random.Random(1), 0
    with (here.tools / "fleet").open("wb") as out, (here.tools / "bare").open("wb") as bare:
        for seq in seqs:
            for name in names:
                payload = report(name, seq, now, rng).canonical()
                size += len(payload)
                for file, topic in ((out, TOPICS.device(name, "health")), (bare, f"bare/devices/{name}/health")):
                    file.write(struct.pack("<II", len(topic), len(payload)) + topic.encode() + payload)
    return size


def _flood(here: World, file: str = "fleet") -> float:
    argv = here.tool("mqtt_flood", here.fleet.broker_port, here.tools / file, WINDOW)
    done = subprocess.run(argv, capture_output=True, text=True, timeout=DEADLINE_S, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr)
    answer: dict[str, Any] = json.loads(done.stdout)
    if answer["refused"]:
        raise RuntimeError(f"the broker refused {answer['refused']} messages")
    return float(answer["seconds"])


def _until_stored(here: World, reports: int) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while (stored := here.scalar("SELECT count(*) FROM health")) < reports:
        if time.monotonic() > deadline:
            raise RuntimeError(f"{stored} of {reports} reports are stored after {DEADLINE_S:g} s")
        time.sleep(0.1)


def growth(database: Database, devices: int, days: int) -> Growth:
    """A small fleet's reports on a simulated clock, with the retention sweep of every hour; on a database of its own,
    whose migrations have been run."""
    seed(database, devices, {"1": digest_of(b"no version")})
    empty = _size(database)
    telemetry, retention = Telemetry(database), RetentionSweep(database, RetentionLimits())
    rng, clock = random.Random(1), datetime(2026, 1, 1, tzinfo=timezone.utc)
    batch: list[DeviceMessage] = []
    sizes, seq = [], 0
    for _ in range(days):
        for _ in range(24):
            for _ in range(3600 // INTERVAL_S):
                clock, seq = clock + timedelta(seconds=INTERVAL_S), seq + 1
                names = (device_name(number) for number in range(devices))
                batch += [checked(name, report(name, seq, clock, rng), clock) for name in names]
                if len(batch) >= 1000:
                    telemetry.take(batch)
                    batch = []
            retention.sweep(clock)
        telemetry.take(batch)
        batch = []
        sizes.append((_size(database) - empty) / devices)
    return Growth(sizes, 86400 // INTERVAL_S)


def _size(database: Database) -> int:
    """Bytes of all tables with their indexes; what SQLite has free for new rows does not count."""
    if not database.is_sqlite:
        with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.exec_driver_sql("VACUUM")
            return int(connection.exec_driver_sql("SELECT pg_database_size(current_database())").scalar_one())
    with database.read() as session:
        connection = session.connection()
        values = [int(connection.exec_driver_sql(f"PRAGMA {name}").scalar_one())
                  for name in ("page_count", "freelist_count", "page_size")]  # fmt: skip
    return (values[0] - values[1]) * values[2]
