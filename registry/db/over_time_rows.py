"""The fleet over time: what devices answered, and how many were there, in sums of a minute, five minutes or an hour.

Times are Unix times, so that the database itself can group them by any step. The rows know nothing of devices: their
number grows with models and versions, not with the fleet.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Integer, String, Table
from sqlalchemy.orm import Mapped, mapped_column

from registry.contracts.counters import DURATION_BOUNDS_S
from registry.db.base import NAME, Base

BUCKETS = tuple(f"bucket_{number}" for number in range(len(DURATION_BOUNDS_S) + 1))
"""Columns of the histogram of latencies."""


class AnswerSumRow(Base):
    """Requests that the fleet answered. `start` and `step` say when, in seconds. With an empty `code` they are all
    requests of a version, with their latencies by bucket; with a code, those that ended with this error. `part` is a
    random name of the writer's row: a row that is written again replaces itself and is never counted twice."""

    __table__ = Table(
        "answer_sums",
        Base.metadata,
        Column("step", Integer, primary_key=True),
        Column("start", BigInteger, primary_key=True),
        Column("model", NAME, primary_key=True),
        Column("version", NAME, primary_key=True),
        Column("code", NAME, primary_key=True),
        Column("part", String(16), primary_key=True),
        Column("requests", BigInteger, nullable=False),
        *(Column(name, BigInteger, nullable=False) for name in BUCKETS),
    )


class ConnectionSampleRow(Base):
    """How many devices were in which connection state, looked at last within five minutes."""

    __tablename__ = "connection_samples"

    start: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    online: Mapped[int]
    late: Mapped[int]
    http_only: Mapped[int]
    silent: Mapped[int]
    offline: Mapped[int]
    never_seen: Mapped[int]


class VersionSampleRow(Base):
    """How many devices a version served on, looked at last within the hour. The row without a model and a version says
    that somebody looked."""

    __tablename__ = "version_samples"

    model: Mapped[str] = mapped_column(NAME, primary_key=True)
    start: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    version: Mapped[str] = mapped_column(NAME, primary_key=True)
    devices: Mapped[int]
