"""Counts of rollouts, of the fleet and of labels, which the database keeps by triggers; indexes for what they name."""

# ruff: noqa: S608 - SQL of the constants of this file
from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "r0008"
down_revision = "r0007"
branch_labels = None
depends_on = None
_BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_TROUBLED = "state IN ('failed', 'regressed', 'rejected', 'rollback_failed', 'rolled_back', 'timed_out')"
_SOURCES = (
    # kind, table, owner, columns of the key, which rows
    ("hosts", "devices", "0", ("facts_digest",), ""),
    ("connection", "device_index", "0", ("connection",), ""),
    ("state", "device_index", "0", ("state",), ""),
    ("code", "device_index", "0", ("code",), "code <> ''"),
    ("behind", "device_index", "0", ("behind",), ""),
    ("slots", "device_slots", "0", ("model", "version", "desired", "state", "hardware"), ""),
    (
        "rollout",
        "rollout_actions",
        "rollout_id",
        ("wave", "state", "goes_back", "left_wave", "left_state", "code", "left_code", "spoke"),
        "",
    ),
)
_TABLES = ("devices", "device_index", "device_slots", "rollout_actions")


def upgrade() -> None:
    """Forward."""
    _make_tables()
    _make_indexes()
    postgresql = op.get_bind().dialect.name == "postgresql"
    for kind, table, owner, columns, where in _SOURCES:
        array = f"json_build_array({', '.join(columns)})::text" if postgresql else f"json_array({', '.join(columns)})"
        op.execute(
            f"INSERT INTO tallies (kind, owner, key, part, number) SELECT '{kind}', {owner}, {array}, 0, count(*) "
            f"FROM {table} {f'WHERE {where} ' if where else ''}GROUP BY 2, 3"
        )
    op.execute(
        "INSERT INTO label_keys (key, devices, different) "
        "SELECT key, count(*), count(DISTINCT value) FROM device_labels GROUP BY key"
    )
    op.execute(
        "INSERT INTO label_values (key, value, devices) SELECT key, value, count(*) FROM device_labels GROUP BY 1, 2"
    )
    for table in _TABLES:
        (_postgresql_triggers if postgresql else _sqlite_triggers)(table)
    (_postgresql_labels if postgresql else _sqlite_labels)()


def _make_tables() -> None:
    op.create_table(
        "tallies",
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("owner", _BIG, autoincrement=False, nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("part", _BIG, autoincrement=False, nullable=False),
        sa.Column("number", _BIG, nullable=False),
        sa.PrimaryKeyConstraint("kind", "owner", "key", "part", name=op.f("pk_tallies")),
    )
    op.create_index(
        "ix_tallies_part", "tallies", ["part"], sqlite_where=sa.text("part <> 0"), postgresql_where=sa.text("part <> 0")
    )
    op.create_table(
        "label_keys",
        sa.Column("key", sa.String(length=64), nullable=False),
        sa.Column("devices", _BIG, nullable=False),
        sa.Column("different", _BIG, nullable=False),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_label_keys")),
    )
    op.create_index("ix_label_keys_devices", "label_keys", [sa.text("devices DESC"), "key"])
    op.create_table(
        "label_values",
        sa.Column("key", sa.String(length=64), nullable=False),
        sa.Column("value", sa.String(length=256), nullable=False),
        sa.Column("devices", _BIG, nullable=False),
        sa.PrimaryKeyConstraint("key", "value", name=op.f("pk_label_values")),
    )
    op.create_index("ix_label_values_devices", "label_values", ["key", sa.text("devices DESC"), "value"])


def _make_indexes() -> None:
    returned = sa.text("returned_at IS NOT NULL")
    op.create_index(
        "ix_device_states_returned_at", "device_states", ["returned_at"],
        sqlite_where=returned, postgresql_where=returned,
    )  # fmt: skip
    op.create_index("ix_devices_facts_digest", "devices", ["facts_digest", "name"])
    op.drop_index("ix_device_slots_counts", "device_slots")
    op.create_index("ix_device_slots_desired", "device_slots", ["model", "desired", "name"])
    op.create_index(
        "ix_rollout_actions_trouble", "rollout_actions", ["rollout_id", "state", "code", "device"],
        sqlite_where=sa.text(_TROUBLED), postgresql_where=sa.text(_TROUBLED),
    )  # fmt: skip
    left = sa.text("left_state IS NOT NULL")
    op.create_index(
        "ix_rollout_actions_left", "rollout_actions", ["rollout_id", "left_state", "left_code", "device"],
        sqlite_where=left, postgresql_where=left,
    )  # fmt: skip


def _of(table: str) -> list[tuple[str, str, str, tuple[str, ...], str]]:
    return [each for each in _SOURCES if each[1] == table]


def _sqlite_triggers(table: str) -> None:
    """A row at a time, into part 0."""

    def add(row: str, number: str) -> list[str]:
        found = []
        for kind, _, owner, columns, where in _of(table):
            whose = owner if owner == "0" else f"{row}.{owner}"
            key = f"json_array({', '.join(f'{row}.{name}' for name in columns)})"
            wanted = f"{row}.{where}" if where else "true"
            found.append(
                f"INSERT INTO tallies (kind, owner, key, part, number) SELECT '{kind}', {whose}, {key}, 0, {number} "
                f"WHERE {wanted} ON CONFLICT (kind, owner, key, part) DO UPDATE SET number = number + {number};"
            )
            if row == "OLD":
                found.append(
                    f"DELETE FROM tallies WHERE kind = '{kind}' AND owner = {whose} AND key = {key} AND part = 0 "
                    "AND number = 0;"
                )
        return found

    names = sorted({name for each in _of(table) for name in (*each[3], *([each[2]] if each[2] != "0" else []))})
    differs = " OR ".join(f"OLD.{name} IS NOT NEW.{name}" for name in names)
    for event, when, work in (
        ("INSERT", "", add("NEW", "1")),
        ("DELETE", "", add("OLD", "-1")),
        (f"UPDATE OF {', '.join(names)}", f"WHEN {differs} ", [*add("NEW", "1"), *add("OLD", "-1")]),
    ):
        name = f"tally_{table}_{event.split()[0].lower()}"
        op.execute(f"CREATE TRIGGER {name} AFTER {event} ON {table} {when}BEGIN {' '.join(work)} END")


def _postgresql_triggers(table: str) -> None:
    """All rows of a statement together, into the part of the transaction."""

    def rows(of: str, number: str) -> str:
        found = []
        for kind, _, owner, columns, where in _of(table):
            key = f"json_build_array({', '.join(columns)})::text"
            found.append(
                f"SELECT '{kind}'::varchar AS kind, ({owner})::bigint AS owner, {key} AS key, {number} AS number "
                f"FROM {of} {f'WHERE {where}' if where else ''}"
            )
        return " UNION ALL ".join(found)

    def add(what: str) -> str:
        return (
            "INSERT INTO tallies AS t (kind, owner, key, part, number) "
            f"SELECT kind, owner, key, txid_current(), sum(number) FROM ({what}) AS changes "
            "GROUP BY kind, owner, key HAVING sum(number) <> 0 "
            "ON CONFLICT (kind, owner, key, part) DO UPDATE SET number = t.number + excluded.number;"
        )

    put, gone = rows("new_rows", "1"), rows("old_rows", "-1")
    op.execute(
        f"CREATE FUNCTION tally_{table}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        f"IF TG_OP = 'INSERT' THEN {add(put)} ELSIF TG_OP = 'DELETE' THEN {add(gone)} "
        f"ELSE {add(f'{put} UNION ALL {gone}')} END IF; RETURN NULL; END $$"
    )
    _postgresql_on(table, f"tally_{table}")


def _postgresql_on(table: str, function: str) -> None:
    for event, seen in (
        ("INSERT", "NEW TABLE AS new_rows"),
        ("DELETE", "OLD TABLE AS old_rows"),
        ("UPDATE", "OLD TABLE AS old_rows NEW TABLE AS new_rows"),
    ):
        op.execute(
            f"CREATE TRIGGER tally_{table}_{event.lower()} AFTER {event} ON {table} REFERENCING {seen} "
            f"FOR EACH STATEMENT EXECUTE FUNCTION {function}()"
        )


def _sqlite_labels() -> None:
    put = (
        "INSERT INTO label_keys (key, devices, different) VALUES (NEW.key, 1, 0) "
        "ON CONFLICT (key) DO UPDATE SET devices = devices + 1; "
        "UPDATE label_keys SET different = different + 1 WHERE key = NEW.key AND NOT EXISTS "
        "(SELECT 1 FROM label_values WHERE key = NEW.key AND value = NEW.value); "
        "INSERT INTO label_values (key, value, devices) VALUES (NEW.key, NEW.value, 1) "
        "ON CONFLICT (key, value) DO UPDATE SET devices = devices + 1;"
    )
    gone = (
        "UPDATE label_values SET devices = devices - 1 WHERE key = OLD.key AND value = OLD.value; "
        "UPDATE label_keys SET devices = devices - 1, different = different - (SELECT count(*) FROM label_values "
        "WHERE key = OLD.key AND value = OLD.value AND devices <= 0) WHERE key = OLD.key; "
        "DELETE FROM label_values WHERE key = OLD.key AND value = OLD.value AND devices <= 0; "
        "DELETE FROM label_keys WHERE key = OLD.key AND devices <= 0;"
    )
    for event, work in (("INSERT", put), ("DELETE", gone), ("UPDATE", f"{put} {gone}")):
        op.execute(
            f"CREATE TRIGGER tally_device_labels_{event.lower()} AFTER {event} ON device_labels BEGIN {work} END"
        )


def _postgresql_labels() -> None:
    """Keys and values in the order of their names, so that two transactions that meet wait and do not stop each
    other."""
    put = (
        "INSERT INTO label_keys AS k (key, devices, different) "
        "SELECT key, count(*), count(DISTINCT value) FILTER (WHERE NOT EXISTS "
        "(SELECT FROM label_values AS v WHERE v.key = r.key AND v.value = r.value)) "
        "FROM new_rows AS r GROUP BY key ORDER BY key "
        "ON CONFLICT (key) DO UPDATE SET devices = k.devices + excluded.devices, "
        "different = k.different + excluded.different; "
        "INSERT INTO label_values AS v (key, value, devices) "
        "SELECT key, value, count(*) FROM new_rows GROUP BY key, value ORDER BY key, value "
        "ON CONFLICT (key, value) DO UPDATE SET devices = v.devices + excluded.devices;"
    )
    gone = (
        "UPDATE label_values AS v SET devices = v.devices - o.number FROM "
        "(SELECT key, value, count(*) AS number FROM old_rows GROUP BY key, value) AS o "
        "WHERE v.key = o.key AND v.value = o.value; "
        "UPDATE label_keys AS k SET devices = k.devices - o.number, different = k.different - o.less FROM "
        "(SELECT r.key, count(*) AS number, count(DISTINCT v.value) AS less FROM old_rows AS r "
        "LEFT JOIN label_values AS v ON v.key = r.key AND v.value = r.value AND v.devices <= 0 GROUP BY r.key) AS o "
        "WHERE k.key = o.key; "
        "DELETE FROM label_values AS v USING old_rows AS o "
        "WHERE v.key = o.key AND v.value = o.value AND v.devices <= 0; "
        "DELETE FROM label_keys AS k USING old_rows AS o WHERE k.key = o.key AND k.devices <= 0;"
    )
    op.execute(
        "CREATE FUNCTION tally_device_labels() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        f"IF TG_OP = 'INSERT' THEN {put} ELSIF TG_OP = 'DELETE' THEN {gone} ELSE {put} {gone} END IF; "
        "RETURN NULL; END $$"
    )
    _postgresql_on("device_labels", "tally_device_labels")
