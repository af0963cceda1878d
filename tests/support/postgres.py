"""The databases that a registry's tests run on: SQLite, and a real PostgreSQL in a temporary folder.

It listens on a free loopback port; every caller gets a database of its own.
PostgreSQL refuses to run as root, so root starts it as the user `postgres` that the package made.
"""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

import psycopg

from scripts.demo.processes import Process, free_port

DEBIAN = Path("/usr/lib/postgresql")
SETTINGS = """\
listen_addresses = '127.0.0.1'
port = {port}
unix_socket_directories = ''
max_connections = 200
shared_buffers = 64MB
"""


def programs() -> Path | None:
    """The folder with `initdb` and `postgres`; None where PostgreSQL is not installed."""
    found = shutil.which("initdb")
    if found is not None:
        return Path(found).resolve().parent
    versions = sorted(DEBIAN.glob("*/bin/initdb"), key=lambda path: int(path.parts[-3].split(".")[0]))
    return versions[-1].parent if versions else None


class PostgreSql:
    """INVARIANT: the port stays the same across `crash` and `start`."""

    def __init__(self, folder: Path, *, durable: bool = True) -> None:
        """`durable` False: no fsync, for what does not ask whether the disk has it."""
        binaries = programs()
        if binaries is None:
            raise FileNotFoundError("no PostgreSQL here: scripts/ensure-postgresql installs it")
        self.port = free_port()
        self._names = itertools.count(1)
        # A folder of its own, not below pytest's: those are closed to every user but root.
        self._root = Path(tempfile.mkdtemp(prefix="modelfleet-postgresql-"))
        data = self._root / "data"
        data.mkdir()
        as_owner: list[str] = []
        if os.geteuid() == 0:
            as_owner = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
            self._root.chmod(0o711)
            shutil.chown(data, "postgres", "postgres")
        made = subprocess.run(
            [*as_owner, str(binaries / "initdb"), "-D", str(data), "-U", "fleet", "-A", "trust", "-E", "UTF8",
             "--locale=C", "--no-sync"],
            capture_output=True, timeout=60, check=False, cwd="/",
        )  # fmt: skip
        if made.returncode != 0:
            raise RuntimeError(f"initdb: {made.stderr.decode(errors='replace')[-2000:]}")
        with (data / "postgresql.conf").open("a") as config:
            config.write(SETTINGS.format(port=self.port) + ("" if durable else "fsync = off\nfull_page_writes = off\n"))
        self._process = Process("postgres", [*as_owner, str(binaries / "postgres"), "-D", str(data)], folder)

    def start(self) -> PostgreSql:
        """Starts it and waits until it answers."""
        self._process.start(self._answers)
        return self

    def new_database(self) -> str:
        """The URL of an empty database."""
        name = f"registry_{next(self._names)}"
        with psycopg.connect(self._dsn("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return f"postgresql://fleet@127.0.0.1:{self.port}/{name}"

    def crash(self) -> None:
        """SIGQUIT, PostgreSQL's immediate shutdown: nothing is written any more, the next start recovers."""
        os.kill(self._process.pid, signal.SIGQUIT)
        self._process.stop(10)

    def stop(self) -> None:
        """SIGINT, PostgreSQL's fast shutdown, which does not wait for clients. What it kept is gone."""
        if self._process.running:
            os.kill(self._process.pid, signal.SIGINT)
        self._process.stop(10)
        shutil.rmtree(self._root, ignore_errors=True)

    def _dsn(self, database: str) -> str:
        return f"host=127.0.0.1 port={self.port} user=fleet dbname={database} connect_timeout=2"

    def _answers(self) -> bool:
        try:
            psycopg.connect(self._dsn("postgres")).close()
        except psycopg.OperationalError:
            return False
        return True


class Databases:
    """Where the registries of a test keep their rows: `sqlite` or `postgresql`."""

    def __init__(self, server: PostgreSql | None) -> None:
        self._server = server

    @property
    def is_sqlite(self) -> bool:
        """Rows lie in the registry's data folder."""
        return self._server is None

    def url(self, folder: Path) -> str:
        """An empty database's."""
        return self._server.new_database() if self._server is not None else f"sqlite:///{folder / 'registry.db'}"

    def environment(self) -> dict[str, str]:
        """What a new registry process is told."""
        return {} if self._server is None else {"MODELFLEET_REGISTRY_DATABASE_URL": self._server.new_database()}
