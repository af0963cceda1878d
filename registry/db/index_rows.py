"""The fleet's index: in which state each device is and what it serves, so that pages and counts use an index.

INVARIANT: these rows say what `registry.core.device_states` makes of the other rows of the device, and change in the
transaction in which those do. Only what time alone changes follows later: at `deadline`, by the presence job.
`registry_state.index_rules` says by which revision of the rules they were made.
"""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Index, String, text
from sqlalchemy.orm import Mapped, mapped_column

from registry.db.base import NAME, Base
from registry.db.fleet_rows import OfDevice

BYTEWISE = String(64).with_variant(String(64, collation="C"), "postgresql")
"""A name in the order of its bytes, as SQLite has it, so that names with one beginning are one range of an index."""


class DeviceIndexRow(OfDevice, Base):
    """One device. Whatever its columns are, they follow from other rows."""

    __tablename__ = "device_index"
    __table_args__ = (
        Index("uq_device_index_name", "name", unique=True),
        Index("ix_device_index_connection", "connection", "name"),
        Index("ix_device_index_state", "state", "name"),
        Index(
            "ix_device_index_code", "code", "name",
            sqlite_where=text("code <> ''"), postgresql_where=text("code <> ''"),
        ),
        Index(
            "ix_device_index_failing", "name",
            sqlite_where=text("code <> ''"), postgresql_where=text("code <> ''"),
        ),
        Index("ix_device_index_behind", "name", sqlite_where=text("behind = 1"), postgresql_where=text("behind")),
        Index("ix_device_index_seen_at", "seen_at", "device_id"),
        Index("ix_device_index_changed_at", "changed_at", "device_id"),
        Index(
            "ix_device_index_deadline", "deadline", "device_id",
            sqlite_where=text("deadline IS NOT NULL"), postgresql_where=text("deadline IS NOT NULL"),
        ),
    )  # fmt: skip

    name: Mapped[str] = mapped_column(BYTEWISE)
    connection: Mapped[str] = mapped_column(String(16))
    """A `ConnectionState`."""
    deadline: Mapped[datetime | None]
    """When to look at its connection again; at that time it may turn out that nothing has changed."""
    seen_at: Mapped[datetime]
    """Its last sign of life when its connection was looked at last; 1970: never. Raised when its deadline comes and not
    by every message, which would cost a write of every index for each."""
    state: Mapped[str] = mapped_column(String(16))
    """A `SlotState`: the worst of its slots."""
    code: Mapped[str] = mapped_column(NAME)
    """Why it fails; empty: it does not."""
    behind: Mapped[bool]
    hardware: Mapped[str] = mapped_column(NAME)
    changed_at: Mapped[datetime]
    """When what it serves or should serve, or how far it is with that, changed last."""


class DeviceSlotRow(OfDevice, Base):
    """One model on one device."""

    __tablename__ = "device_slots"
    __table_args__ = (
        Index("ix_device_slots_serves", "model", "version", "name"),
        Index("ix_device_slots_model", "model", "name"),
        Index("ix_device_slots_desired", "model", "desired", "name"),
    )

    model: Mapped[str] = mapped_column(NAME, primary_key=True)
    name: Mapped[str] = mapped_column(BYTEWISE)
    """The device's."""
    version: Mapped[str] = mapped_column(NAME)
    """What serves; empty: nothing."""
    desired: Mapped[str] = mapped_column(NAME)
    """What should serve; empty: nothing."""
    state: Mapped[str] = mapped_column(String(16))
    """A `SlotState`."""
    code: Mapped[str] = mapped_column(NAME)
    behind: Mapped[bool]
    hardware: Mapped[str] = mapped_column(NAME)
    changed_at: Mapped[datetime]
