"""A registry that cannot start says why, with a code of its own and an exit code; never that nobody foresaw it."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from registry.db.engine import Database
from registry.db.migrations.upgrade import upgrade
from registry.installation import install_command
from tests.support.host.postgres import PostgreSql, migrated_file
from tests.support.programs.registry_process import PROGRAM, Ended, failed_start

DATABASE = "MODELFLEET_REGISTRY_DATABASE_URL"
TOKEN_FILE = "MODELFLEET_REGISTRY_ADMIN_TOKEN_FILE"
CONFIG, FAILED = 2, 1


def start(folder: Path, **environment: str) -> Ended:
    """In this process, with no settings but those."""
    return failed_start(folder, **{DATABASE: None, TOKEN_FILE: None, **environment})


def start_program(folder: Path, *arguments: str, **environment: str) -> Ended:
    """As a user does."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith("MODELFLEET_")}
    done = subprocess.run(
        [str(PROGRAM), *arguments, "serve", "--port", "0", "--data-dir", str(folder)],
        env=clean | environment, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    return Ended(done.returncode, done.stderr)


def says(done: Ended, code: str, exit_code: int) -> str:
    assert (done.returncode, "Traceback" in done.stderr) == (exit_code, False), done.stderr
    assert "This is a bug" not in done.stderr
    assert done.stderr.rstrip().endswith(f"[{code}]"), done.stderr
    return done.stderr


@pytest.mark.parametrize(
    ("url", "code", "exit_code"),
    [
        ("rubbish", "database_url", CONFIG),
        ("postgresql://u:secret@h:port/x", "database_url", CONFIG),
        ("mysql://u:secret@h/x", "database_url", CONFIG),
        ("postgresql+asyncpg://u:secret@h/x", "database_url", CONFIG),
        ("sqlite://", "database_url", CONFIG),
        ("sqlite:////no-such-folder/registry.db", "database_unusable", CONFIG),
        ("postgresql://u:secret@127.0.0.1:1/x", "database_unreachable", FAILED),
        ("postgresql://u:secret@no-such-host.invalid/x", "database_unreachable", FAILED),
    ],
)
def test_a_database_that_cannot_be_opened(tmp_path: Path, url: str, code: str, exit_code: int) -> None:
    assert "secret" not in says(start(tmp_path, **{DATABASE: url}), code, exit_code)


def newer(folder: Path) -> None:
    migrated_file(folder)
    with sqlite3.connect(folder / "registry.db") as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()


def prerelease(folder: Path) -> None:
    """The oldest of those names is the likeliest to be taken for a migration of today."""
    migrated_file(folder)
    with sqlite3.connect(folder / "registry.db") as connection:
        connection.execute("UPDATE alembic_version SET version_num = '0001'")
    connection.close()


def garbage(folder: Path) -> None:
    (folder / "registry.db").write_bytes(b"this is no database, whatever it was" * 100)


def lock_is_a_folder(folder: Path) -> None:
    (folder / "lock").mkdir()


def blobs_is_a_file(folder: Path) -> None:
    (folder / "blobs").write_text("")


def token_is_a_folder(folder: Path) -> None:
    (folder / "admin.token").mkdir()


def token_is_no_text(folder: Path) -> None:
    (folder / "admin.token").write_bytes(bytes(range(128, 192)))


def token_is_short(folder: Path) -> None:
    (folder / "admin.token").write_text("secret")


@pytest.mark.parametrize(
    ("make", "code", "exit_code"),
    [
        (newer, "database_newer", CONFIG),
        (prerelease, "database_prerelease", CONFIG),
        (garbage, "database_unusable", CONFIG),
        (lock_is_a_folder, "data_folder", CONFIG),
        (blobs_is_a_file, "storage_failed", FAILED),
        (token_is_a_folder, "token_file", CONFIG),
        (token_is_no_text, "token_file", CONFIG),
        (token_is_short, "invalid", CONFIG),
    ],
)
def test_a_data_folder_in_which_something_is_not_right(
    tmp_path: Path, make: Callable[[Path], None], code: str, exit_code: int
) -> None:
    make(tmp_path)
    assert "secret" not in says(start(tmp_path), code, exit_code)


def test_a_newer_database_is_left_as_it_is(tmp_path: Path) -> None:
    newer(tmp_path)
    before = (tmp_path / "registry.db").read_bytes()
    assert "9999" in says(start_program(tmp_path), "database_newer", CONFIG)
    assert (tmp_path / "registry.db").read_bytes() == before


@pytest.mark.parametrize(
    "content", [None, b"", b"secret", bytes(range(128, 192)), "schlüssel-aus-vielen-zeichen-€".encode()]
)
def test_a_token_file_of_the_settings_without_a_token(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "token"
    if content is not None:
        file.write_bytes(content)
    done = start(tmp_path / "data", **{TOKEN_FILE: str(file)})
    assert "secret" not in says(done, "token_file" if content is None or len(content) in (0, 64) else "invalid", CONFIG)


def test_a_data_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("")
    says(start(tmp_path / "data"), "data_folder", CONFIG)


def test_an_address_that_is_not_this_hosts(tmp_path: Path) -> None:
    token = {"MODELFLEET_REGISTRY_ADMIN_TOKEN": "t" * 40}
    for host in ("203.0.113.7", "no-such-host.invalid"):
        says(start(tmp_path, MODELFLEET_REGISTRY_HOST=host, **token), "address", CONFIG)


def test_the_brokers_certificates_are_named(tmp_path: Path) -> None:
    mqtt = {"HOST": "localhost", "TLS": "true", "CA_FILE": str(tmp_path / "no-such-ca.pem")}
    done = start(tmp_path, **{f"MODELFLEET_REGISTRY_MQTT__{key}": value for key, value in mqtt.items()})
    assert "no-such-ca.pem" in says(done, "mqtt_tls", CONFIG)


def test_a_missing_driver_is_said_with_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "psycopg.py").write_text("raise ImportError('no libpq here')")
    done = start_program(tmp_path / "data", **{DATABASE: "postgresql://u@127.0.0.1/x", "PYTHONPATH": str(tmp_path)})
    assert install_command("postgresql") in says(done, "driver_missing", CONFIG)


def test_a_program_gets_the_code_in_json(tmp_path: Path) -> None:
    done = start_program(tmp_path, "--json", **{DATABASE: "rubbish"})
    told = json.loads(done.stderr)["error"]
    assert (told["code"], told["exit_code"], done.returncode) == ("database_url", CONFIG, CONFIG)


def test_a_user_who_may_not_make_tables_is_told_so(tmp_path: Path, postgresql: PostgreSql) -> None:
    name = postgresql.new_database().rpartition("/")[2]
    postgresql.execute("DO $$ BEGIN CREATE ROLE guest LOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$")
    postgresql.execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC", name)
    url = f"postgresql://guest@127.0.0.1:{postgresql.port}/{name}"
    says(start(tmp_path, **{DATABASE: url}), "database_unusable", CONFIG)
    says(start(tmp_path, **{DATABASE: url.replace(name, "nowhere")}), "database_unreachable", FAILED)


def test_a_database_with_the_newest_schema_is_opened_without_a_write(tmp_path: Path) -> None:
    database = Database(migrated_file(tmp_path))
    database.close()
    before = (tmp_path / "registry.db").read_bytes()
    upgrade(database.engine)
    database.close()
    assert (tmp_path / "registry.db").read_bytes() == before
