"""A whole fleet in one registry: polls, plans, offers, pauses, changed facts, reports, and how the database grows.

    .venv/bin/python -m benchmarks.fleet --database sqlite --devices 5000
    .venv/bin/python -m benchmarks.fleet --database postgresql --devices 100000
    .venv/bin/python -m benchmarks.fleet --only polls,reports      # some of it

A real `registry serve` with a real Mosquitto; the devices are rows, written in bulk before. PostgreSQL runs with
fsync, as SQLite runs with synchronous=FULL. Registry, database, broker and load share the machine.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.fleet_polls import facts_changed, polls, spread
from benchmarks.fleet_reports import growth, ingest
from benchmarks.fleet_rollouts import Offered, offers, pause, plans
from benchmarks.fleet_world import World, world
from registry.db.engine import Database
from registry.db.migrations.upgrade import upgrade
from scripts.demo.processes import wait_until

MEASURES = ("polls", "plan", "offers", "pause", "bridge", "facts", "reports", "growth")


def _polls(here: World, seconds: float) -> None:
    found = polls(here, seconds)
    ceiling, own = found["healthz"], found["polls"]
    print(
        f"unchanged polls: {own['per_second']:,.0f}/s, p50 {own['p50_us'] / 1e3:.1f} ms, "
        f"p95 {own['p95_us'] / 1e3:.1f} ms; {own['not_modified']:,.0f} of {own['answers']:,.0f} answers are 304; "
        f"/healthz {ceiling['per_second']:,.0f}/s, p95 {ceiling['p95_us'] / 1e3:.1f} ms; "
        f"ratio {own['per_second'] / ceiling['per_second']:.2f}"
    )


def _plan(here: World, _seconds: float) -> None:
    found = plans(here)
    print(
        f"plan of {found.devices:,} devices: asked {found.only:.2f} s, submitted until frozen {found.submitted:.2f} s"
    )


def _offered(found: Offered, where: str) -> None:
    published = f"; the broker had all after {found.published:.1f} s" if found.published is not None else ""
    print(f"offers {where}: {found.devices:,} in {found.seconds:.2f} s, "
          f"{found.devices / found.seconds:,.0f}/s{published}")  # fmt: skip


def _pause(here: World, _seconds: float) -> None:
    found = pause(here, "part notin (bridge)")
    print(f"pause: answered after {found.answered * 1e3:.0f} ms, last offer after {found.last_offer * 1e3:.0f} ms; "
          f"{found.offered:,} offered, {found.later:,} of them after the answer, {found.left:,} not")  # fmt: skip


def _restart_with_bridge(here: World) -> None:
    begin = time.perf_counter()
    here.start_registry(bridge=True)
    wait_until(lambda: here.scalar("SELECT count(*) FROM desired WHERE NOT published") == 0, "publication", 300)
    seconds = time.perf_counter() - begin
    print(f"restart with a new broker: all {here.devices:,} documents published again after {seconds:.1f} s")


def _facts(here: World, _seconds: float) -> None:
    found = facts_changed(here, 50)
    print(f"changed facts until the new document: HTTP {spread(found.http)}; MQTT {spread(found.mqtt)}")


def _reports(here: World, _seconds: float) -> None:
    found = ingest(here, min(here.devices, 10_000), max(2, 20_000 // min(here.devices, 10_000)))
    print(
        f"health reports of {found.bytes:,.0f} bytes: {found.reports:,} stored in {found.stored:.2f} s, "
        f"{found.reports / found.stored:,.0f}/s; to a bare subscriber {found.reports / found.bare:,.0f}/s; "
        f"ratio {found.bare / found.stored:.2f}"
    )


def _growth(here: World) -> None:
    url = here.new_database()
    database = Database(url)
    upgrade(database.engine)
    found = growth(database, 8, 4)
    days = [f"{size / 1e6:.2f}" for size in found.days]
    last = found.days[-1] - found.days[-2]
    print(f"database, {found.reports_a_day:,} reports of a device a day: MB a device at the end of each day: "
          f"{', '.join(days)}; the last day added {last / 1e3:.0f} kB")  # fmt: skip
    database.close()


BEFORE: dict[str, Callable[[World, float], None]] = {
    "polls": _polls,
    "plan": _plan,
    "offers": lambda here, _: _offered(offers(here, "part=offers", bridge=False), "without a broker"),
    "pause": _pause,
}
BEHIND: dict[str, Callable[[World, float], None]] = {
    "bridge": lambda here, _: _offered(offers(here, "part=bridge", bridge=True), "with a broker"),
    "facts": _facts,
    "reports": _reports,
}
"""With the bridge."""


def main() -> None:
    """One database, one fleet, one measurement after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--database", choices=("sqlite", "postgresql"), default="sqlite")
    parser.add_argument("--devices", type=int, default=5000)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each load of polls")
    parser.add_argument("--only", default=",".join(MEASURES), help=f"of {','.join(MEASURES)}")
    options = parser.parse_args()
    chosen = options.only.split(",")
    if unknown := set(chosen) - set(MEASURES):
        parser.error(f"--only: {', '.join(sorted(unknown))}; there are {', '.join(MEASURES)}")
    with tempfile.TemporaryDirectory() as name, world(Path(name), options.database, options.devices) as here:
        print(f"{options.database}, {options.devices:,} devices", flush=True)
        for measure in (BEFORE[each] for each in BEFORE if each in chosen):
            measure(here, options.seconds)
        if any(each in chosen for each in BEHIND):
            _restart_with_bridge(here)
        for measure in (BEHIND[each] for each in BEHIND if each in chosen):
            measure(here, options.seconds)
        if "growth" in chosen:
            _growth(here)


if __name__ == "__main__":
    main()
