"""How many rows of a table there are of each sort: so that no count reads more for a larger fleet.

INVARIANT: the sum of a key's numbers is how many rows of the source have that key. Triggers of the database keep it, in
the transaction that changes those rows, whatever statement does: migration r0008 makes them, and
`registry.services.tallies.SOURCES` says the same of their keys. A later migration that makes one of these tables again
has to make its triggers again; a test says which are missing.

On PostgreSQL a transaction adds under its own `part`, so that no two transactions wait for one row; a job adds the
parts up. SQLite has one writer, and all stands in part 0. Labels are counted apart, because their values may be as many
as devices, and a list takes only the commonest.
"""

from __future__ import annotations

from sqlalchemy import Index, String, Text, text
from sqlalchemy.orm import Mapped, mapped_column

from registry.db.base import NAME, Base, BigId


class TallyRow(Base):
    """A part of one number. `key`: what is counted, as a JSON array of columns."""

    __tablename__ = "tallies"
    __table_args__ = (
        Index("ix_tallies_part", "part", sqlite_where=text("part <> 0"), postgresql_where=text("part <> 0")),
    )

    kind: Mapped[str] = mapped_column(String(16), primary_key=True)
    """A source."""
    owner: Mapped[int] = mapped_column(BigId, primary_key=True, autoincrement=False)
    """The id of the rollout that it is of; 0: of the fleet."""
    key: Mapped[str] = mapped_column(Text, primary_key=True)
    part: Mapped[int] = mapped_column(BigId, primary_key=True, autoincrement=False)
    """The transaction that added it; 0: added up."""
    number: Mapped[int] = mapped_column(BigId)


class LabelKeyRow(Base):
    """A key of labels."""

    __tablename__ = "label_keys"
    key: Mapped[str] = mapped_column(NAME, primary_key=True)
    devices: Mapped[int] = mapped_column(BigId)
    different: Mapped[int] = mapped_column(BigId)
    """Values that it has."""


class LabelValueRow(Base):
    """A value of a key."""

    __tablename__ = "label_values"
    key: Mapped[str] = mapped_column(NAME, primary_key=True)
    value: Mapped[str] = mapped_column(String(256), primary_key=True)
    devices: Mapped[int] = mapped_column(BigId)


Index("ix_label_keys_devices", LabelKeyRow.devices.desc(), LabelKeyRow.key)
Index("ix_label_values_devices", LabelValueRow.key, LabelValueRow.devices.desc(), LabelValueRow.value)
