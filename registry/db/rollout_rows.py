"""The tables of rollouts, groups, and what the fleet's log tells to those who listen.

Counters of a rollout are those of `tallies`, which triggers keep (`tally_rows.py`).
INVARIANT: `rollout_history`, `rollout_steps` and `fleet_log` are only inserted, and deleted when they are old.
A device that is deleted leaves its actions behind, without its id: SQLite gives the ids of deleted rows out again.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKey, Index, String, Text, text
from sqlalchemy.orm import Mapped, mapped_column

from registry.contracts.rollout.states import ActionState
from registry.core.rollouts.actions import FAILURE
from registry.db.base import DIGEST, NAME, WHO, Base, BigId, Made, Numbered


def _rollout(primary_key: bool = False) -> Mapped[int]:
    return mapped_column(BigId, ForeignKey("rollouts.id", ondelete="CASCADE"), primary_key=primary_key)


class RolloutRow(Numbered, Made, Base):
    """A rollout. Every change of its state raises `revision` by compare-and-set."""

    __tablename__ = "rollouts"
    __table_args__ = (Index("ix_rollouts_state", "state", "model"),)

    public: Mapped[str] = mapped_column(NAME, unique=True)
    """Its id on the wire; never used again."""
    name: Mapped[str | None] = mapped_column(NAME, unique=True)
    model: Mapped[str] = mapped_column(NAME)
    version: Mapped[str] = mapped_column(NAME)
    manifest: Mapped[str] = mapped_column(DIGEST)
    spec: Mapped[str] = mapped_column(Text)
    state: Mapped[str] = mapped_column(String(32))
    revision: Mapped[int] = mapped_column(BigId)
    generation: Mapped[int] = mapped_column(default=1)
    reason: Mapped[str] = mapped_column(NAME)
    reason_text: Mapped[str] = mapped_column(Text, default="")
    since: Mapped[datetime]
    plan_digest: Mapped[str | None] = mapped_column(DIGEST)
    plan: Mapped[str | None] = mapped_column(Text)
    """The frozen `PlanView`."""
    approved_by: Mapped[str] = mapped_column(WHO, default="")
    submitted_by: Mapped[str] = mapped_column(WHO, default="")
    submitted_person: Mapped[str] = mapped_column(NAME, default="", server_default="")
    """The person behind that token. Empty: none is known."""
    started_at: Mapped[datetime | None]
    ended_at: Mapped[datetime | None] = mapped_column(index=True)
    valid_until: Mapped[datetime | None]
    tokens: Mapped[float] = mapped_column(default=0.0)
    """Of the rate's bucket, in devices, when `filled_at`."""
    byte_tokens: Mapped[float] = mapped_column(default=0.0)
    filled_at: Mapped[datetime | None]
    went_back_at: Mapped[datetime | None]
    """When it began to go back. None: it did not, or was begun again since."""
    went_back_by: Mapped[str] = mapped_column(WHO, default="", server_default="")
    """Who asked for it; empty: its gate did."""
    went_back_code: Mapped[str] = mapped_column(NAME, default="", server_default="")
    """The reason that stood before, a `ReasonCode`."""
    went_back_text: Mapped[str] = mapped_column(Text, default="", server_default="")


class WaveRow(Base):
    """One wave of a rollout; the tail and a rollback are waves too."""

    __tablename__ = "rollout_waves"

    rollout_id: Mapped[int] = _rollout(primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(String(16))
    label: Mapped[str] = mapped_column(String(256), default="")
    state: Mapped[str] = mapped_column(String(16))
    soak_s: Mapped[float] = mapped_column(default=0.0)
    min_committed: Mapped[int] = mapped_column(BigId, default=0)
    started_at: Mapped[datetime | None]
    soak_since: Mapped[datetime | None]
    passed_at: Mapped[datetime | None]
    accepted: Mapped[dict[str, Any]] = mapped_column(default=dict)
    """What a person accepted by `resume`: counts that the gate starts from."""
    accepted_by: Mapped[str] = mapped_column(WHO, default="")
    verdict: Mapped[str | None] = mapped_column(Text)
    """The gate's last."""


TROUBLE = FAILURE | {ActionState.TIMED_OUT}
TROUBLED = f"state IN ({', '.join(repr(state.value) for state in sorted(TROUBLE))})"
"""Of an action: it failed or fell silent. Written so in a query, it lets SQLite use the index."""


class ActionRow(Numbered, Base):
    """One device in a rollout."""

    __tablename__ = "rollout_actions"
    __table_args__ = (
        Index("uq_rollout_actions_rollout_id_device", "rollout_id", "device", unique=True),
        Index("ix_rollout_actions_rollout_id", "rollout_id", "wave", "state", "rank"),
        Index("ix_rollout_actions_due", "rollout_id", "due"),
        Index("ix_rollout_actions_device_id", "device_id", "rollout_id"),
        Index("ix_rollout_actions_held", "rollout_id", sqlite_where=text("held = 1"), postgresql_where=text("held")),
        Index(
            "ix_rollout_actions_trouble", "rollout_id", "state", "code", "device",
            sqlite_where=text(TROUBLED), postgresql_where=text(TROUBLED),
        ),
        Index(
            "ix_rollout_actions_left", "rollout_id", "left_state", "left_code", "device",
            sqlite_where=text("left_state IS NOT NULL"), postgresql_where=text("left_state IS NOT NULL"),
        ),
    )  # fmt: skip

    rollout_id: Mapped[int] = _rollout()
    device_id: Mapped[int | None] = mapped_column(BigId, ForeignKey("devices.id", ondelete="SET NULL"))
    """None: the device was deleted."""
    device: Mapped[str] = mapped_column(NAME)
    wave: Mapped[int | None]
    """None: it gets nothing."""
    rank: Mapped[int] = mapped_column(BigId, default=0)
    """Its turn inside the wave."""
    generation: Mapped[int] = mapped_column(default=1)
    attempt: Mapped[int] = mapped_column(default=0)
    state: Mapped[str] = mapped_column(String(32))
    phase: Mapped[str | None] = mapped_column(String(32))
    failed_in: Mapped[str | None] = mapped_column(String(32))
    code: Mapped[str] = mapped_column(NAME, default="")
    message: Mapped[str] = mapped_column(Text, default="")
    since: Mapped[datetime]
    due: Mapped[datetime | None]
    """When its silence counts as unknown."""
    target: Mapped[str | None] = mapped_column(DIGEST)
    """The manifest that is to serve; None: nothing is, after the way back."""
    variant: Mapped[str | None] = mapped_column(NAME)
    size: Mapped[int] = mapped_column(BigId, default=0)
    """Bytes of the variant."""
    facts: Mapped[str | None] = mapped_column(DIGEST)
    """Digest of the facts that the variant was chosen for."""
    previous: Mapped[str | None] = mapped_column(Text)
    """The device's own last good `DesiredModel`; None: it served nothing, and returns to that."""
    previous_version: Mapped[str | None] = mapped_column(NAME)
    previous_manifest: Mapped[str | None] = mapped_column(DIGEST)
    previous_pinned: Mapped[bool] = mapped_column(default=False)
    offered_at: Mapped[datetime | None]
    tries: Mapped[int] = mapped_column(default=0, server_default="0")
    """Attempts in this generation that the spec's retries have asked for."""
    retry_at: Mapped[datetime | None]
    """Planned for another attempt, not before this."""
    held: Mapped[bool] = mapped_column(default=False)
    """Its desired state says `hold`."""
    spoke: Mapped[bool] = mapped_column(default=False)
    """It reported anything of this attempt."""
    goes_back: Mapped[bool] = mapped_column(default=False)
    """It was told to go back: its state speaks of the way back, `left_...` of what it was when it was told."""
    left_wave: Mapped[int | None]
    left_state: Mapped[str | None] = mapped_column(String(32))
    left_code: Mapped[str] = mapped_column(NAME, default="", server_default="")
    left_message: Mapped[str] = mapped_column(Text, default="", server_default="")
    committed_at: Mapped[datetime | None]
    told_at: Mapped[datetime | None]
    """When the phase began, by the device's clock."""
    until: Mapped[datetime | None]
    """When the device said that its waiting ends by itself."""
    late: Mapped[bool] = mapped_column(default=False)
    """It came to its end after it had been timed out."""
    steps: Mapped[int] = mapped_column(BigId, default=0, server_default="0")
    """Ever taken; the newest are kept."""
    shadow_compared: Mapped[int] = mapped_column(BigId, default=0)
    shadow_agreed: Mapped[float] = mapped_column(default=0.0)


class StepRow(Numbered, Base):
    """One step of one device: the time line that `why` shows."""

    __tablename__ = "rollout_steps"
    __table_args__ = (Index("ix_rollout_steps_action_id", "action_id", "id"),)

    action_id: Mapped[int] = mapped_column(BigId, ForeignKey("rollout_actions.id", ondelete="CASCADE"))
    at: Mapped[datetime]
    generation: Mapped[int]
    attempt: Mapped[int]
    state: Mapped[str] = mapped_column(String(32))
    code: Mapped[str] = mapped_column(NAME, default="")
    message: Mapped[str] = mapped_column(Text, default="")


class RolloutHistoryRow(Numbered, Base):
    """One transition of a rollout: who, what, when, why."""

    __tablename__ = "rollout_history"
    __table_args__ = (
        Index("ix_rollout_history_rollout_id", "rollout_id", "id"),
        Index("ix_rollout_history_by", "by", "id"),
    )

    rollout_id: Mapped[int] = _rollout()
    at: Mapped[datetime]
    revision: Mapped[int] = mapped_column(BigId)
    generation: Mapped[int]
    before: Mapped[str | None] = mapped_column(String(32))
    after: Mapped[str] = mapped_column(String(32))
    cause: Mapped[str] = mapped_column(NAME)
    by: Mapped[str] = mapped_column(WHO, default="")
    reason: Mapped[str] = mapped_column(NAME)
    reason_text: Mapped[str] = mapped_column(Text, default="")
    note: Mapped[str] = mapped_column(Text, default="")


class GroupRow(Base):
    """A named set of devices."""

    __tablename__ = "groups"

    name: Mapped[str] = mapped_column(NAME, primary_key=True)
    selector: Mapped[str] = mapped_column(Text, default="")
    note: Mapped[str] = mapped_column(Text, default="")
    changed_at: Mapped[datetime]


class GroupDeviceRow(Base):
    """A device that a group names; it may be registered later."""

    __tablename__ = "group_devices"

    group: Mapped[str] = mapped_column(NAME, ForeignKey("groups.name", ondelete="CASCADE"), primary_key=True)
    device: Mapped[str] = mapped_column(NAME, primary_key=True, index=True)


class CommandRow(Base):
    """The first answer to a command with an idempotency key. Kept for a day."""

    __tablename__ = "commands"

    caller: Mapped[str] = mapped_column(WHO, primary_key=True)
    key: Mapped[str] = mapped_column(String(128), primary_key=True)
    request: Mapped[str] = mapped_column(DIGEST)
    """Digest of path and body: the same key for something else is refused."""
    answer: Mapped[str] = mapped_column(Text)
    at: Mapped[datetime] = mapped_column(index=True)


class LeaseRow(Base):
    """Who leads: `holder` until `until`, then whoever takes it first."""

    __tablename__ = "leases"

    name: Mapped[str] = mapped_column(NAME, primary_key=True)
    holder: Mapped[str] = mapped_column(NAME)
    until: Mapped[datetime]


class FleetLogRow(Base):
    """One event for those who listen. Ids rise in the order of commits, without a way to see 8 before 7."""

    __tablename__ = "fleet_log"

    id: Mapped[int] = mapped_column(BigId, primary_key=True, autoincrement=False)
    at: Mapped[datetime] = mapped_column(index=True)
    kind: Mapped[str] = mapped_column(String(16))
    rollout: Mapped[str] = mapped_column(NAME)
    document: Mapped[str] = mapped_column(Text)
    """A `RolloutEvent`."""


class WebhookRow(Base):
    """Where events are POSTed, and how far it has got."""

    __tablename__ = "webhooks"

    name: Mapped[str] = mapped_column(NAME, primary_key=True)
    url: Mapped[str] = mapped_column(Text)
    kinds: Mapped[list[Any]]
    secret: Mapped[str] = mapped_column(String(128))
    """Needed in clear to sign."""
    cursor: Mapped[int] = mapped_column(BigId)
    """The last event that was taken, or passed over."""
    lost: Mapped[int] = mapped_column(BigId, default=0)
    """Events that were forgotten before they could be delivered."""
    failures: Mapped[int] = mapped_column(default=0)
    """In a row."""
    last_error: Mapped[str] = mapped_column(Text, default="")
    next_try: Mapped[datetime | None]
    disabled_at: Mapped[datetime | None]
    """After too many failures; a PUT switches it on again."""
    created_at: Mapped[datetime]
