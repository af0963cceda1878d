"""Pages of devices and the fleet's figures over HTTP, on a large fleet: how long each takes, and which index is read.

    .venv/bin/python -m benchmarks.fleet_pages --database sqlite --devices 100000
    .venv/bin/python -m benchmarks.fleet_pages --database postgresql --devices 100000

A real `registry serve`; the devices are rows that were written in bulk (`benchmarks.fleet_seed`) and then spread over
the states: 2 % each are late, silent, offline and never seen, 1 % fail, 50 serve a version of their own. Each page is
asked for in turn with /healthz.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import httpx
from sqlalchemy import event, select, update

from benchmarks.fleet_world import MODEL, World, world
from registry.contracts.device.deployments import Phase
from registry.contracts.wire import digest_of
from registry.db.engine import Database
from registry.db.fleet_rows import DeviceStateRow
from registry.db.index_rows import DeviceIndexRow
from registry.services.fleet.device_index import forget_index, rebuild_index
from registry.services.fleet.devices import Devices
from registry.services.fleet.listing import Asked, find_page
from registry.services.fleet.summary import count_fleet

PAGES: dict[str, dict[str, Any]] = {
    "no filter": {},
    "no filter, whole documents": {"brief": "false"},
    "state=online": {"state": "online"},
    "state=late&state=silent": {"state": ["late", "silent"]},
    "state=failing": {"state": "failing"},
    "failing=any": {"failing": "any"},
    "failing=insufficient_disk": {"failing": "insufficient_disk"},
    "behind=true": {"behind": "true"},
    f"serves={MODEL}": {"serves": MODEL},
    f"serves={MODEL}@2, of 50 devices": {"serves": f"{MODEL}@2"},
    "selector=site=site-7": {"selector": "site=site-7"},
    "selector=ring=canary": {"selector": "ring=canary"},
    "selector=part notin (bridge)": {"selector": "part notin (bridge)"},
    "state=online, selector=site in (site-1,site-2)": {"state": "online", "selector": "site in (site-1,site-2)"},
    "name=dev-0999*": {"name": "dev-0999*"},
    "name=777": {"name": "777"},
    "name=nothing": {"name": "nothing"},
    "sort=-changed": {"sort": "-changed"},
    "sort=last_seen": {"sort": "last_seen"},
    "sort=last_seen, failing=any": {"sort": "last_seen", "failing": "any"},
    "sort=last_seen, state=online": {"sort": "last_seen", "state": "online"},
    "online=false": {"online": "false"},
}
REPEATS = 15


def spread_states(database: Database, devices: int, now: datetime) -> float:
    """Give the seeded devices signs of life and reports of every kind, and index them; the seconds of the indexing."""
    long_ago, ago = now - timedelta(hours=5), now - timedelta(seconds=400)
    number = DeviceStateRow.device_id % 50
    with database.write() as session:
        alive = {"last_seen": now, "heard_until": now + timedelta(seconds=600), "online": True}
        session.execute(update(DeviceStateRow).values(**alive))
        session.execute(
            update(DeviceStateRow).where(number == 1).values(last_seen=ago, heard_until=now + timedelta(200))
        )
        session.execute(update(DeviceStateRow).where(number == 2).values(last_seen=long_ago, heard_until=long_ago))
        session.execute(
            update(DeviceStateRow).where(number == 3).values(last_seen=None, heard_until=None, online=False)
        )
        session.execute(update(DeviceStateRow).where(number == 4).values(gone_at=long_ago, last_seen=long_ago))
        failing = select(DeviceStateRow.device_id, DeviceStateRow.reported).where(DeviceStateRow.device_id % 100 == 50)
        for device_id, reported in session.execute(failing).all():
            session.execute(_reports(device_id, _failing(reported)))
        few = select(DeviceStateRow.device_id, DeviceStateRow.reported)
        for device_id, reported in session.execute(few.where(DeviceStateRow.device_id % (devices // 50) == 7)).all():
            session.execute(_reports(device_id, reported.replace('"version":"1"', '"version":"2"')))
        forget_index(session)
    began = time.perf_counter()
    rebuild_index(database, now)
    seconds = time.perf_counter() - began
    if not database.is_sqlite:
        with database.write() as session:
            session.connection().exec_driver_sql("ANALYZE")
    return seconds


def _reports(device_id: int, reported: str) -> Any:
    return update(DeviceStateRow).where(DeviceStateRow.device_id == device_id).values(reported=reported)


def _failing(reported: str) -> str:
    document = json.loads(reported)
    slot = document["models"][MODEL]
    progress = {"version": "1", "manifest": slot["manifest"], "phase": Phase.FAILED.value, "code": "insufficient_disk",
                "since": document["at"]}  # fmt: skip
    document["models"][MODEL] = {**slot, "state": "failed", "manifest": digest_of(b"old"), "deployment": progress}
    return json.dumps(document)


def timed(http: httpx.Client, path: str, query: dict[str, Any]) -> tuple[float, Any]:
    """Milliseconds of a request, and its answer."""
    began = time.perf_counter()
    answer = http.get(path, params=query).raise_for_status()
    return (time.perf_counter() - began) * 1e3, answer.json()


def pages(here: World) -> None:
    """Each page and the figures, in turn with /healthz."""
    with here.client() as http:
        asked = {title: {"brief": "true", "limit": 100, **query} for title, query in PAGES.items()}
        took: dict[str, list[float]] = {title: [] for title in (*asked, "/healthz", "/v1/fleet")}
        counts: dict[str, str] = {}
        for _ in range(REPEATS):
            for title, query in asked.items():
                took["/healthz"].append(timed(http, "/healthz", {})[0])
                milliseconds, answer = timed(http, "/v1/devices", query)
                took[title].append(milliseconds)
                counts[title] = f"{len(answer['items'])} devices{', more' if answer['next'] else ''}"
            took["/v1/fleet"].append(timed(http, "/v1/fleet", {})[0])
    for title, found in took.items():
        worst = sorted(found)[-1 - len(found) // 20]
        print(f"{title:48} median {statistics.median(found):7.1f} ms, p95 {worst:7.1f} ms  {counts.get(title, '')}")


def console(here: World) -> None:
    """The console's page of the fleet with each filter, in turn with /healthz: 100 rows and the counters, as HTML."""
    took: dict[str, list[float]] = {}
    token = (here.fleet.registry_data / "admin.token").read_text().strip()
    with httpx.Client(base_url=here.fleet.url, timeout=60, trust_env=False) as http:
        http.post("/console/sign-in", data={"token": token}, headers={"Sec-Fetch-Site": "same-origin"})
        for _ in range(REPEATS):
            for title, query in {"/healthz": None, **PAGES}.items():
                began = time.perf_counter()
                path = "/healthz" if query is None else "/console/fleet"
                http.get(path, params={"limit": 100, **(query or {})}).raise_for_status()
                took.setdefault(title, []).append((time.perf_counter() - began) * 1e3)
    print("The console's page of the fleet:")
    for title, found in took.items():
        worst = sorted(found)[-1 - len(found) // 20]
        print(f"{title:48} median {statistics.median(found):7.1f} ms, p95 {worst:7.1f} ms")


@contextmanager
def statements(database: Database) -> Iterator[list[tuple[str, Any]]]:
    """What is asked of the database meanwhile."""
    seen: list[tuple[str, Any]] = []

    def note(_c: Any, _cursor: Any, statement: str, parameters: Any, _x: Any, _many: Any) -> None:
        if statement.startswith("SELECT"):
            seen.append((statement, parameters))

    event.listen(database.engine, "before_cursor_execute", note)
    try:
        yield seen
    finally:
        event.remove(database.engine, "before_cursor_execute", note)


def plans(here: World, now: datetime) -> None:
    """Which queries read a table from end to end; and how much of a processor pages and figures take."""
    from registry.contracts.api.devices import DeviceQuery  # noqa: PLC0415
    from registry.server.device_pages import device_filter  # noqa: PLC0415

    whole: dict[str, list[str]] = {}
    cpu: dict[str, float] = {}
    devices = Devices(here.database)
    for title, query in PAGES.items():
        wanted = {key: [value] if key == "state" and isinstance(value, str) else value for key, value in query.items()}
        asked = DeviceQuery(**wanted)
        page = Asked(device_filter(asked), asked.sort, None, 100)
        with statements(here.database) as seen, here.database.read() as session:
            find_page(session, page, now)
        cpu[title] = _cpu_ms(lambda: devices.page(page, now, brief=asked.brief))  # noqa: B023 - called at once
        with here.database.read() as session:
            for statement, parameters in seen:
                prefix = "EXPLAIN QUERY PLAN " if here.database.is_sqlite else "EXPLAIN "
                rows = session.connection().exec_driver_sql(prefix + statement, parameters).all()
                lines = [str(row[-1]).strip() for row in rows]
                found = [line for line in lines if _reads_all(line)]
                if found:
                    whole.setdefault(title, []).extend(found)
    print(whole or "no query of a page reads a table of devices from end to end")
    figures = "figures of the fleet, counted"

    def count() -> None:
        with here.database.read() as session:
            count_fleet(session, now)

    cpu[figures] = _cpu_ms(count)
    print("CPU of this process, which load does not change (of SQLite all, of PostgreSQL the client's part):")
    for title, milliseconds in cpu.items():
        print(f"{title:48} median {milliseconds:7.1f} ms")


def _cpu_ms(work: Callable[[], object]) -> float:
    """The median of REPEATS, after one that is not counted."""
    took = []
    for _ in range(REPEATS + 1):
        began = time.process_time()
        work()
        took.append((time.process_time() - began) * 1e3)
    return statistics.median(took[1:])


def _reads_all(line: str) -> bool:
    tables = (DeviceIndexRow.__tablename__, "device_slots", "device_states", "device_labels", "devices")
    scan = (line.startswith("SCAN ") and "USING" not in line) or "Seq Scan" in line
    return scan and any(f" {table}" in line for table in tables)


def main() -> None:
    """One database, one fleet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--database", choices=("sqlite", "postgresql"), default="sqlite")
    parser.add_argument("--devices", type=int, default=100_000)
    parser.add_argument("--only", choices=("", "api", "console"), default="", help="measure only these pages")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, world(Path(name), options.database, options.devices) as here:
        now = datetime.fromtimestamp(time.time(), timezone.utc)
        here.fleet.processes["registry"].stop()
        seconds = spread_states(here.database, options.devices, now)
        here.start_registry(bridge=False)
        print(f"{options.database}, {options.devices:,} devices; indexed in {seconds:.1f} s", flush=True)
        if options.only in ("", "api"):
            pages(here)
            plans(here, now)
        if options.only in ("", "console"):
            console(here)


if __name__ == "__main__":
    main()
