"""The databases that a registry's tests run on: SQLite, and a real PostgreSQL in a temporary folder.

It listens on a free loopback port; every caller gets a database of its own. The folder of one whose owner was killed is
removed at the next start, and that PostgreSQL ends within a minute: it looks for its folder so often.
PostgreSQL refuses to run as root, so root starts it as the user `postgres` that the package made.
"""

from __future__ import annotations

import functools
import itertools
import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

import psycopg

from registry.db.engine import Database
from registry.db.migrations.upgrade import upgrade
from scripts.demo.processes import Process, free_port
from tests.support.host.owned_folders import OwnedFolder

DEBIAN = Path("/usr/lib/postgresql")
SETTINGS = """\
listen_addresses = '127.0.0.1'
port = {port}
unix_socket_directories = ''
max_connections = 200
shared_buffers = 64MB
dynamic_shared_memory_type = mmap
"""
"""Shared memory in files of the folder: what lies in /dev/shm outlives a server that is killed."""
PREFIX = "modelfleet-postgresql-"


def programs() -> Path | None:
    """The folder with `initdb` and `postgres`; None where PostgreSQL is not installed."""
    found = shutil.which("initdb")
    if found is not None:
        return Path(found).resolve().parent
    versions = sorted(DEBIAN.glob("*/bin/initdb"), key=lambda path: int(path.parts[-3].split(".")[0]))
    return versions[-1].parent if versions else None


MEMORY = Path("/dev/shm")
ROOM_BYTES = 8 << 30
"""Some hundred databases of 13 MB, twice: each copy takes a third of the time that it takes on a disk."""


def _in_memory() -> Path | None:
    """Where files lie in memory, if there is room; None: where temporary files lie."""
    return MEMORY if MEMORY.is_dir() and shutil.disk_usage(MEMORY).free >= ROOM_BYTES else None


class PostgreSql:
    """INVARIANT: the port stays the same across `crash` and `start`."""

    def __init__(self, folder: Path, *, durable: bool = True) -> None:
        """`durable` False: no fsync, for what does not ask whether the disk has it."""
        binaries = programs()
        if binaries is None:
            raise FileNotFoundError("no PostgreSQL here: scripts/ensure-packages postgresql installs it")
        self.port = free_port()
        self._names = itertools.count(1)
        self._migrated: str | None = None
        # A folder of its own, not below pytest's: those are closed to every user but root.
        parent = None if durable else _in_memory()
        self._folder = OwnedFolder(PREFIX, parent or Path(tempfile.gettempdir()))
        self._root = self._folder.path
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

    def new_database(self, like: str = "template1") -> str:
        """The URL of a database like that one, which is empty unless it is named."""
        name = f"registry_{next(self._names)}"
        with psycopg.connect(self._dsn("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name} TEMPLATE {like}")
        return f"postgresql://fleet@127.0.0.1:{self.port}/{name}"

    def migrated_database(self) -> str:
        """The URL of a database with the newest schema."""
        if self._migrated is None:
            url = self.new_database()
            _migrate(url)
            self._migrated = url.rpartition("/")[2]
        return self.new_database(self._migrated)

    def execute(self, statement: str, database: str = "postgres") -> list[tuple[object, ...]]:
        """Runs one statement as the superuser: the rows that it brings. It writes in spite of `refuse_writes`."""
        options = "-c default_transaction_read_only=off"
        with psycopg.connect(self._dsn(database), autocommit=True, options=options) as connection:
            cursor = connection.execute(statement)  # type: ignore[call-overload]
            return list(cursor.fetchall()) if cursor.description else []

    def refuse_writes(self, refuse: bool) -> None:
        """As a standby does, from now on and in the sessions that are open: SQLSTATE 25006."""
        self.execute(f"ALTER SYSTEM SET default_transaction_read_only = {'on' if refuse else 'off'}")
        self.execute("SELECT pg_reload_conf()")

    def cut_sessions(self) -> None:
        """End every session but this one: SQLSTATE 57P01."""
        self.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()")

    def restart(self) -> None:
        """A fast shutdown, as `pg_ctl restart` does, and a start."""
        os.kill(self._process.pid, signal.SIGINT)
        self._process.stop(10)
        self.start()

    def become_standby(self) -> None:
        """Started again as a server that only follows another one, and answers reads."""
        (self._root / "data" / "standby.signal").touch()
        self.restart()

    def promote(self) -> None:
        """A standby becomes the primary."""
        self.execute("SELECT pg_promote()")

    def crash(self) -> None:
        """SIGQUIT, PostgreSQL's immediate shutdown: nothing is written any more, the next start recovers."""
        os.kill(self._process.pid, signal.SIGQUIT)
        self._process.stop(10)

    def stop(self) -> None:
        """SIGINT, PostgreSQL's fast shutdown, which does not wait for clients. What it kept is gone."""
        if self._process.running:
            os.kill(self._process.pid, signal.SIGINT)
        self._process.stop(10)
        self._folder.remove()

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
        return self._server.new_database() if self._server is not None else _file(folder)

    def migrated(self, folder: Path) -> str:
        """The URL of a database with the newest schema; the migrations are run once, then copied."""
        return self._server.migrated_database() if self._server is not None else migrated_file(folder)

    def environment(self) -> dict[str, str]:
        """What a new registry process is told."""
        return {} if self._server is None else {"MODELFLEET_REGISTRY_DATABASE_URL": self._server.migrated_database()}


def migrated_file(folder: Path) -> str:
    """The URL of a new SQLite database with the newest schema."""
    (folder / "registry.db").write_bytes(_empty_schema())
    return _file(folder)


@functools.cache
def _empty_schema() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        _migrate(_file(Path(folder)))
        return (Path(folder) / "registry.db").read_bytes()


def _file(folder: Path) -> str:
    return f"sqlite:///{folder / 'registry.db'}"


def _migrate(url: str) -> None:
    database = Database(url)
    upgrade(database.engine)
    database.close()
