"""What the registry knows of devices: who they are, what they should serve, what they said, and their one-time work.

`devices` is what an operator set, `device_states` the newest of each thing a device said, `jobs` its one-time work, the
rest is history. Documents are kept as the JSON text that crossed the wire. A device's rows go with it
(`ON DELETE CASCADE`); only its tombstone stays, so that its generation never falls and its retained messages get
cleared.

A job that is not over stands in its device's desired document; the row is the truth, the document follows in the
same transaction. A finished job stays for reading until the sweep forgets it.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, ForeignKey, Index, LargeBinary, String, Text, text
from sqlalchemy.orm import Mapped, mapped_column

from registry.db.base import DIGEST, NAME, WHO, Base, BigId, Made, Numbered


class OfDevice:
    """Rows of a device, which go with it; the device is the first part of their key."""

    device_id: Mapped[int] = mapped_column(
        BigId, ForeignKey("devices.id", ondelete="CASCADE"), primary_key=True, sort_order=-1
    )


class SaidByDevice(Numbered):
    """What a device said, one thing a row."""

    device_id: Mapped[int] = mapped_column(BigId, ForeignKey("devices.id", ondelete="CASCADE"))


class DeviceRow(Numbered, Base):
    """A device and its facts."""

    __tablename__ = "devices"
    __table_args__ = (Index("ix_devices_facts_digest", "facts_digest", "name"),)

    name: Mapped[str] = mapped_column(NAME, unique=True)
    created_at: Mapped[datetime]
    facts: Mapped[str | None] = mapped_column(Text)
    facts_digest: Mapped[str | None] = mapped_column(DIGEST)
    facts_at: Mapped[datetime | None]


class DeviceLabelRow(OfDevice, Base):
    """One label of a device; a table of its own, so that a filter uses an index."""

    __tablename__ = "device_labels"
    __table_args__ = (Index("ix_device_labels_key_value", "key", "value", "device_id"),)

    key: Mapped[str] = mapped_column(NAME, primary_key=True)
    value: Mapped[str] = mapped_column(String(256))


class DeviceStateRow(OfDevice, Base):
    """The newest of everything that a device said; made with the device, so that writers only update."""

    __tablename__ = "device_states"
    __table_args__ = (
        Index(
            "ix_device_states_returned_at", "returned_at",
            sqlite_where=text("returned_at IS NOT NULL"), postgresql_where=text("returned_at IS NOT NULL"),
        ),
    )  # fmt: skip

    last_seen: Mapped[datetime | None]
    """Its last sign of life."""
    heard_until: Mapped[datetime | None]
    """The end of its patience, counted from there; with `gone_at` it decides whether the device is online."""
    heard_every_s: Mapped[float | None]
    """How often it says that it speaks."""
    online: Mapped[bool] = mapped_column(default=False)
    """What the broker said last of its session: only to tell news from what is read again."""
    gone_at: Mapped[datetime | None]
    """When its session ended, if no sign of life came since."""
    session_id: Mapped[str | None] = mapped_column(NAME)
    """Of the last birth."""
    sessions: Mapped[list[Any] | None]
    """The sessions that spoke last, the newest at the end."""
    returns: Mapped[int] = mapped_column(default=0, server_default="0")
    """How often an earlier one of them spoke again; see `registry.core.presence.Speakers`."""
    returned_at: Mapped[datetime | None]
    presence: Mapped[str | None] = mapped_column(Text)
    reported: Mapped[str | None] = mapped_column(Text)
    reported_session: Mapped[str | None] = mapped_column(NAME)
    reported_at: Mapped[datetime | None]
    """By the device's clock: an older report of the same session is late and changes nothing."""
    health: Mapped[str | None] = mapped_column(Text)


class DeploymentRow(OfDevice, Base):
    """What one slot of a device should serve, as it was asked for. The desired document is made from these."""

    __tablename__ = "deployments"
    __table_args__ = (Index("ix_deployments_model_version", "model", "version"),)

    model: Mapped[str] = mapped_column(NAME, primary_key=True)
    version: Mapped[str] = mapped_column(NAME)
    manifest: Mapped[str] = mapped_column(DIGEST)
    variant: Mapped[str | None] = mapped_column(NAME)
    pinned: Mapped[bool] = mapped_column(default=False)
    """A person chose the variant: new facts do not change it."""
    profile: Mapped[str] = mapped_column(NAME)
    record_results: Mapped[bool] = mapped_column(default=False)
    """As the desired document says it; where the model's setting is another one, the document is issued again."""
    rollout: Mapped[str | None] = mapped_column(NAME)
    attempt: Mapped[int] = mapped_column(default=0, server_default="0")
    policy: Mapped[str] = mapped_column(Text, default="", server_default="")
    """A `DeploymentPolicy`; empty: all defaults."""
    generation: Mapped[int] = mapped_column(BigId)
    """Of the desired document in which this first stood."""
    set_at: Mapped[datetime]
    set_by: Mapped[str] = mapped_column(WHO, default="")
    note: Mapped[str] = mapped_column(Text, default="")


class DesiredRow(OfDevice, Base):
    """The newest desired document of a device: canonical bytes, their digest, and whether the broker has them."""

    __tablename__ = "desired"
    __table_args__ = (Index("ix_desired_published", "published", "revision", "device_id"),)

    generation: Mapped[int] = mapped_column(BigId)
    document: Mapped[bytes] = mapped_column(LargeBinary)
    digest: Mapped[str] = mapped_column(DIGEST)
    revision: Mapped[int] = mapped_column(BigId, index=True)
    """The fleet's revision that wrote it: whoever keeps copies asks for the rows above the last he saw."""
    published: Mapped[bool] = mapped_column(default=False)
    """The broker acknowledged this generation."""
    published_until: Mapped[datetime | None]
    """When the signature ends that it was published with. None: it was published without one."""


class TombstoneRow(Base):
    """A deleted device: its last generation, and whether its retained messages are gone from the broker."""

    __tablename__ = "device_tombstones"

    name: Mapped[str] = mapped_column(NAME, primary_key=True)
    generation: Mapped[int] = mapped_column(BigId)
    revision: Mapped[int] = mapped_column(BigId, index=True)
    cleared: Mapped[bool] = mapped_column(default=False, index=True)
    deleted_at: Mapped[datetime]


class RevisionRow(Numbered, Base):
    """Three counters. Every change of a desired document or a credential raises the first (id 1) in its transaction,
    which orders them: a reader that has seen revision n misses nothing at or below n. The second (id 2) counts the
    fleet's log in the same way, the third (id 3) changes of signed metadata."""

    __tablename__ = "fleet_revision"

    value: Mapped[int] = mapped_column(BigId)


class RegistryStateRow(Numbered, Base):
    """One row, id 1: what the registry knows of its own life."""

    __tablename__ = "registry_state"

    epoch: Mapped[str] = mapped_column(NAME)
    """Random; another one after the database was put back from a backup."""
    epoch_since: Mapped[datetime]
    epoch_reason: Mapped[str] = mapped_column(Text, default="", server_default="")
    epoch_told: Mapped[datetime | None]
    """The latest beginning of an epoch that a device told, a day from now at most: the next epoch begins after it."""
    listened_at: Mapped[datetime | None]
    """When it last noted that it listens to devices."""
    index_rules: Mapped[int] = mapped_column(default=0, server_default="0")
    """The revision of the rules by which the fleet's index was made (`registry.core.device_states.RULES`); 0: it is to
    be made."""


class SessionRow(OfDevice, Base):
    """One run of an agent: the totals at its last health report."""

    __tablename__ = "device_sessions"

    session_id: Mapped[str] = mapped_column(NAME, primary_key=True)
    seq: Mapped[int] = mapped_column(BigId)
    totals: Mapped[dict[str, Any]]
    seen_at: Mapped[datetime] = mapped_column(index=True)


class CountRow(OfDevice, Base):
    """Requests of one version on one device, over all sessions."""

    __tablename__ = "counts"

    model: Mapped[str] = mapped_column(NAME, primary_key=True)
    version: Mapped[str] = mapped_column(NAME, primary_key=True)
    requests: Mapped[int] = mapped_column(BigId)
    errors: Mapped[dict[str, Any]]
    first_at: Mapped[datetime]
    last_at: Mapped[datetime]


class HealthRow(SaidByDevice, Base):
    """One health report. Kept for hours, then folded into its hour."""

    __tablename__ = "health"
    __table_args__ = (Index("ix_health_device_id", "device_id", "id"),)

    at: Mapped[datetime] = mapped_column(index=True)
    """When the registry took it: a device's clock may be wrong."""
    document: Mapped[str] = mapped_column(Text)
    increases: Mapped[list[Any]]
    """What it added to the counts: [model, version, requests, errors, not finite]."""


class HealthHourRow(OfDevice, Base):
    """What stays of a device's hour."""

    __tablename__ = "health_hours"

    hour: Mapped[datetime] = mapped_column(primary_key=True, index=True)
    summary: Mapped[dict[str, Any]]


class ActivityRow(Numbered, Base):
    """What a person did, where no other row keeps it. Outlives what it is about."""

    __tablename__ = "activities"
    __table_args__ = (
        Index("ix_activities_by", "by", "id"),
        Index("ix_activities_device", "device", "id"),
    )

    at: Mapped[datetime]
    by: Mapped[str] = mapped_column(WHO)
    kind: Mapped[str] = mapped_column(String(32))
    severity: Mapped[int]
    device: Mapped[str | None] = mapped_column(NAME)
    model: Mapped[str | None] = mapped_column(NAME)
    version: Mapped[str | None] = mapped_column(NAME)
    message: Mapped[str] = mapped_column(Text, default="")
    before: Mapped[str] = mapped_column(Text, default="")


class EventRow(SaidByDevice, Base):
    """One event, once."""

    __tablename__ = "events"
    __table_args__ = (
        Index("uq_events_device_id_event_id", "device_id", "event_id", unique=True),
        Index("ix_events_device_id", "device_id", "id"),
        Index("ix_events_code", "code", "id", sqlite_where=text("code <> ''"), postgresql_where=text("code <> ''")),
        Index("ix_events_failed", "id", sqlite_where=text("code <> ''"), postgresql_where=text("code <> ''")),
        Index("ix_events_warnings", "id", sqlite_where=text("severity >= 1"), postgresql_where=text("severity >= 1")),
        Index("ix_events_errors", "id", sqlite_where=text("severity >= 2"), postgresql_where=text("severity >= 2")),
    )

    event_id: Mapped[str] = mapped_column(NAME)
    code: Mapped[str] = mapped_column(NAME, default="", server_default="")
    """Of the document, for an index."""
    severity: Mapped[int] = mapped_column(default=0, server_default="0")
    """A place in `Severity`, by `registry.core.severities` when it was taken."""
    at: Mapped[datetime] = mapped_column(index=True)
    """When the registry took it."""
    document: Mapped[str] = mapped_column(Text)


class ResultRow(SaidByDevice, Base):
    """One recorded result."""

    __tablename__ = "results"
    __table_args__ = (Index("ix_results_model", "model", "at"), Index("ix_results_device_id", "device_id", "id"))

    model: Mapped[str] = mapped_column(NAME)
    version: Mapped[str | None] = mapped_column(NAME)
    at: Mapped[datetime]
    request_id: Mapped[str] = mapped_column(NAME, default="")
    code: Mapped[str] = mapped_column(NAME, default="")
    content_type: Mapped[str] = mapped_column(String(128))
    body: Mapped[bytes | None] = mapped_column(LargeBinary)
    size: Mapped[int] = mapped_column(BigId)
    header_length: Mapped[int | None]
    note: Mapped[str] = mapped_column(Text, default="")
    rollout: Mapped[str | None] = mapped_column(NAME)
    """That put the version there, also after it ended."""


class JobRow(Made, Base):
    """One job of one device."""

    __tablename__ = "jobs"
    __table_args__ = (Index("ix_jobs_device_id", "device_id", "over"), Index("ix_jobs_over", "over", "expires_at"))

    number: Mapped[int] = mapped_column(BigId, primary_key=True)
    """Rises: the order of lists."""
    id: Mapped[str] = mapped_column(NAME, unique=True)
    device_id: Mapped[int] = mapped_column(BigId, ForeignKey("devices.id", ondelete="CASCADE"))
    model: Mapped[str] = mapped_column(NAME)
    document: Mapped[str] = mapped_column(Text)
    """The `Job`, canonical JSON."""
    status: Mapped[str] = mapped_column(Text)
    """The `JobStatus`, canonical JSON: the newest that the device said, or how the registry ended it."""
    over: Mapped[bool] = mapped_column(default=False)
    """Succeeded, failed or cancelled: never changed again."""
    updated_at: Mapped[datetime]
    expires_at: Mapped[datetime]
    """A job that is not over by then has failed."""


class OfferedBlobRow(Base):
    """A blob that a job's device may upload: it stands in the variant that the device offered."""

    __tablename__ = "offered_blobs"

    job: Mapped[int] = mapped_column(BigId, ForeignKey("jobs.number", ondelete="CASCADE"), primary_key=True)
    digest: Mapped[str] = mapped_column(DIGEST, primary_key=True, index=True)
    size: Mapped[int] = mapped_column(BigInteger)
