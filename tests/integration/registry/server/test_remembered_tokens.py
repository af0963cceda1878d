"""Tokens in memory: read all at once for a fleet that polls, and gone at once when they are revoked."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path

import pytest
from sqlalchemy import delete

from registry.contracts.api.answers import Scope
from registry.db.catalog_rows import TokenRow
from registry.db.engine import Changed, Database, announce
from registry.services.tokens import MANY, Access, hash_token
from tests.support.host.postgres import migrated_file

NOW = datetime(2026, 1, 1, tzinfo=timezone.utc)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database(migrated_file(tmp_path))
    with database.write() as session:
        session.add_all(
            TokenRow(
                name=f"device/d{n}", scope="device", device=f"d{n}", secret_hash=hash_token(f"t{n}"), created_at=NOW
            )
            for n in range(2 * MANY)
        )
    yield database
    database.close()


def known(access: Access) -> int:
    return sum(access.remembered(f"t{n}", NOW) is not None for n in range(2 * MANY))


def revoke(database: Database, name: str) -> None:
    with database.write() as session:
        session.execute(delete(TokenRow).where(TokenRow.name == name))
        announce(session, Changed.TOKEN, name)


def test_a_fleet_that_is_back_is_read_at_once(database: Database) -> None:
    access = Access(database)
    assert access.remembered("t0", NOW) is None
    for n in range(MANY - 1):
        access.authenticate(f"t{n}", NOW)
    assert known(access) == MANY - 1
    access.authenticate(f"t{MANY}", NOW)
    assert known(access) == 2 * MANY
    found = access.remembered("t7", NOW)
    assert found is not None
    assert (found.name, found.scope, found.device) == ("device/d7", Scope.DEVICE, "d7")


def test_a_revoked_token_is_forgotten_and_not_read_again(database: Database) -> None:
    access = Access(database)
    access.remembered("t0", NOW)
    access.refresh()
    assert known(access) == 2 * MANY
    revoke(database, "device/d7")
    assert access.remembered("t7", NOW) is None
    access.refresh()
    assert access.remembered("t7", NOW) is None
    assert known(access) == 2 * MANY - 1


def test_nothing_is_read_while_nobody_asks(database: Database) -> None:
    access = Access(database)
    access.refresh()
    assert known(access) == 0
