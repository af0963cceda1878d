"""What many devices should serve, set at once: the same rules as `set_desired`, a few statements for a thousand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import delete, insert, select, update
from sqlalchemy.orm import Session

from registry.contracts.device.messages import MAX_CONTROL_BYTES, Desired, DesiredModel
from registry.contracts.wire import digest_of
from registry.db.fleet_rows import DeploymentRow, DesiredRow
from registry.services.fleet.counters import next_revision
from registry.services.fleet.desired import MAX_MODELS, policy_text
from registry.services.fleet.epochs import epoch_of
from registry.services.queries import batches


@dataclass(frozen=True)
class Change:
    """What one slot of one device should serve now; None: nothing."""

    device_id: int
    wanted: DesiredModel | None
    pinned: bool = False
    note: str = ""


def set_many(session: Session, model: str, changes: Sequence[Change], by: str, now: datetime) -> set[int]:
    """Set one model's slot on many devices, each named once; the caller's transaction makes it true.

    What stands already is not written; rows that the session has loaded do not show what was.

    Returns:
        The devices whose document has no room for it, or that are gone; theirs is unchanged.
    """
    refused: set[int] = set()
    for batch in batches(changes):
        refused |= _set_batch(session, model, batch, by, now)
    return refused


def _set_batch(session: Session, model: str, changes: Sequence[Change], by: str, now: datetime) -> set[int]:
    ids = [change.device_id for change in changes]
    columns = (DesiredRow.device_id, DesiredRow.document)
    found = session.execute(select(*columns).where(DesiredRow.device_id.in_(ids)))
    documents = {row.device_id: row.document for row in found}
    slots = select(DeploymentRow.device_id).where(DeploymentRow.device_id.in_(ids), DeploymentRow.model == model)
    there = set(session.scalars(slots))
    epoch = epoch_of(session)
    refused: set[int] = set()
    desired: list[dict[str, Any]] = []
    kept: list[dict[str, Any]] = []
    gone: list[int] = []
    for change in changes:
        before = documents.get(change.device_id)
        after = _changed(Desired.model_validate_json(before), model, change.wanted, now, epoch) if before else None
        if after is None:
            refused.add(change.device_id)
            continue
        body = after.canonical()
        if len(body) > MAX_CONTROL_BYTES:
            refused.add(change.device_id)
            continue
        if body != before:
            desired.append({"device_id": change.device_id, "document": body, "digest": digest_of(body),
                            "generation": after.generation, "published": False})  # fmt: skip
        if change.wanted is None:
            gone.append(change.device_id)
        else:
            who = {"model": model, "generation": after.generation, "set_at": now, "set_by": by}
            kept.append({"device_id": change.device_id, **who, **_slot(change, change.wanted)})
    _write_documents(session, desired)
    changed = [row for row in kept if row["device_id"] in there]
    if changed:
        session.execute(update(DeploymentRow), changed)
    new = [row for row in kept if row["device_id"] not in there]
    if new:
        session.execute(insert(DeploymentRow), new)
    if gone:
        session.execute(delete(DeploymentRow).where(DeploymentRow.model == model, DeploymentRow.device_id.in_(gone)))
    return refused


def _changed(document: Desired, model: str, wanted: DesiredModel | None, now: datetime, epoch: str) -> Desired | None:
    """The document with the slot changed; None: it has no room for another model."""
    if document.models.get(model) == wanted:
        return document
    models = {name: slot for name, slot in {**document.models, model: wanted}.items() if slot is not None}
    if len(models) > MAX_MODELS:
        return None
    update = {"models": models, "generation": document.generation + 1, "issued_at": now, "epoch": epoch}
    return document.model_copy(update=update)


def _slot(change: Change, wanted: DesiredModel) -> dict[str, Any]:
    return {
        "version": wanted.version,
        "manifest": wanted.manifest,
        "variant": wanted.variant,
        "pinned": change.pinned,
        "profile": wanted.profile.value,
        "record_results": wanted.record_results,
        "rollout": wanted.rollout,
        "attempt": wanted.attempt,
        "policy": policy_text(wanted.policy),
        "note": change.note,
    }


def _write_documents(session: Session, rows: list[dict[str, Any]]) -> None:
    if rows:
        revision = next_revision(session)
        session.execute(update(DesiredRow), [{**row, "revision": revision} for row in rows])
