"""The world of the fleet benchmarks: a database, Mosquitto, a real `registry serve`, and a fleet in its rows.

Devices are rows that were written in bulk (`benchmarks.fleet_seed`); nobody stands behind them. What a measurement
asks of the database it asks beside the registry, by a connection of its own.
"""

from __future__ import annotations

import itertools
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from sqlalchemy import text

from benchmarks.fleet_seed import seed, variants
from registry.db.engine import Database
from scripts.demo.processes import Fleet, wait_until
from tests.support.host.postgres import PostgreSql
from tests.support.programs.registry_process import put_blob

PEERS = Path(__file__).parent / "peers"
MODEL = "bench"


@dataclass
class World:
    """What the measurements use. `fleet` starts and stops the programs."""

    fleet: Fleet
    devices: int
    url: str
    """Of the database."""
    database: Database
    tools: Path
    """The folder of the compiled peers."""
    new_database: Callable[[], str]
    """The URL of another database, an empty one."""

    def client(self, token: str | None = None) -> httpx.Client:
        """An administrator's, or that of a token."""
        token = token or (self.fleet.registry_data / "admin.token").read_text().strip()
        return httpx.Client(base_url=self.fleet.url, headers={"Authorization": f"Bearer {token}"}, timeout=120)

    def scalar(self, statement: str, **values: Any) -> Any:
        """The one value of a query, read beside the registry."""
        with self.database.read() as session:
            return session.connection().execute(text(statement), values).scalar()

    def tool(self, name: str, *arguments: object) -> list[str]:
        """The command line of a peer."""
        return [str(self.tools / name), *map(str, arguments)]

    def start_registry(self, *, bridge: bool) -> None:
        """`registry serve`, with the broker or without one; stops the one that runs."""
        if "registry" in self.fleet.processes:
            self.fleet.processes["registry"].stop()
        env = {} if bridge else {"MODELFLEET_REGISTRY_MQTT__HOST": ""}
        self.fleet.start_registry(MODELFLEET_REGISTRY_DATABASE_URL=self.url, **env)
        if bridge:
            wait_until(lambda: httpx.get(f"{self.fleet.url}/readyz").json()["mqtt"] == "connected", "the bridge")


@contextmanager
def world(folder: Path, database: str, devices: int) -> Iterator[World]:
    """A seeded fleet of `devices`, with a registry that has no bridge yet."""
    server = PostgreSql(folder).start() if database == "postgresql" else None
    names = itertools.count()

    def new_database() -> str:
        return server.new_database() if server is not None else f"sqlite:///{folder}/bench-{next(names)}.db"

    url = new_database()
    try:
        with Fleet(folder) as fleet:
            fleet.start_broker()
            beside = Database(url)
            here = World(fleet, devices, url, beside, folder, new_database)
            for peer in ("http_poll", "mqtt_flood", "mqtt_sink"):
                subprocess.run(["gcc", "-O2", "-o", folder / peer, PEERS / f"{peer}.c"], check=True, timeout=60)
            here.start_registry(bridge=False)
            seed(beside, devices, _publish(here))
            yield here
            beside.close()
    finally:
        if server is not None:
            server.stop()


def _publish(here: World) -> dict[str, str]:
    """Three versions with a variant for CPUs and one for GPUs each; version to manifest."""
    manifests = {}
    with here.client() as http:
        for version in ("1", "2", "3"):
            content = f"version {version}".encode() * 1000
            put_blob(http, content)
            body = {"model": MODEL, "version": version, "variants": variants(content)}
            answer = http.put(f"/v1/models/{MODEL}/versions/{version}", json=body).raise_for_status().json()
            manifests[version] = answer["version"]["manifest"]
    return manifests
