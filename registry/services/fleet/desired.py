"""The desired documents of devices: written in one transaction with their deployments, served from memory, published.

INVARIANT: a device's generation only rises, over deletion and registration too.
INVARIANT: a document and the deployments it is made of change in the same transaction.
Every write takes the next revision of the fleet; copies in memory (also in other processes) are at most
STALE_S old, because once in STALE_S they ask for the rows above the last revision they saw.

`set_desired` sets what one device should serve, `set_many` what a thousand should, in a few statements.

A document's row says that the broker still has to get it until the broker acknowledged it, and a deleted device's row
that the broker has to lose its retained messages. A registry killed between a commit and its publication publishes
after the restart.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import delete, func, insert, select, tuple_, update
from sqlalchemy.orm import Session

from registry.contracts.device.deployments import DeploymentPolicy, Job
from registry.contracts.device.messages import MAX_CONTROL_BYTES, Desired, DesiredModel, Profile
from registry.db.engine import Changed, Database, announce
from registry.db.fleet_rows import DeploymentRow, DesiredRow, DeviceRow, RevisionRow, TombstoneRow
from registry.errors import InvalidError, NotFoundError
from registry.services.fleet.device_index import index
from registry.services.fleet.epochs import REVISION, epoch_began, epoch_of, issued, next_revision
from registry.services.queries import UseCases, batches, found
from registry.services.trust.director import Director
from registry.trust.names import DOCUMENT_LIFE

STALE_S = 1.0
MAX_MODELS = 256
"""Of one device; the bound of `Desired.models`."""
MAX_DOCUMENT_BYTES = MAX_CONTROL_BYTES - (32 << 10)
"""Of a document that somebody's change makes longer. The rest stays free for the registry's own changes of the slots,
which are never refused: another variant, `record_results` and `hold` take at most 128 bytes in each of MAX_MODELS."""
MAX_COPIES = 1 << 17
"""Documents held in memory; when there are more, all are dropped and read again as they are asked for."""
MAX_RENEWED = 5000
"""Documents that are published again at a time for their signature alone."""
READ_AHEAD = 500
"""Documents read where one is missing: a fleet asks for all of them, and one by one costs a hundred times as much."""
MAX_MOVED = 2000
"""Documents that changed since the last look and are read again at once; where there are more, all are dropped."""
Part = Literal["models", "jobs"]
"""Of a document: what a device should serve, and its one-time work."""


@dataclass(frozen=True)
class Document:
    """A copy of a device's newest desired document."""

    body: bytes
    digest: str
    """Of `body`; the ETag."""
    generation: int
    sign_at: float = 0.0
    """POSIX time from which it is to be signed, for the first time or again; before that it is sent as it is."""


def find_device(session: Session, name: str) -> DeviceRow:
    """The device's row. Raises NotFoundError."""
    return found(
        session.scalar(select(DeviceRow).where(DeviceRow.name == name)),
        f"There is no device named {name!r}; register it first.",
    )


def first_document(session: Session, device: DeviceRow, generation: int, now: datetime) -> None:
    """A new device's empty document."""
    epoch = epoch_of(session)
    _store(session, device.id, Desired(device=device.name, generation=generation, issued_at=now, epoch=epoch))


def set_desired(
    session: Session,
    device: DeviceRow,
    model: str,
    wanted: DesiredModel | None,
    by: str,
    *,
    now: datetime,
    pinned: bool = False,
    note: str = "",
    adapts: bool = False,
) -> None:
    """Set what one slot of a device should serve, or empty it; the caller's transaction makes it true.

    The same again writes nothing. `adapts`: the registry brings a slot in line, which always has room.

    Raises:
        InvalidError: the device's document has no room for it.
    """
    row = session.get(DeploymentRow, (device.id, model))
    before = as_desired(row) if row is not None else None
    if before == wanted and (row is None or row.pinned == pinned):
        return
    document = _rewrite(session, device, "models", model, wanted, now=now, adapts=adapts)
    if wanted is None:
        session.delete(row)
    else:
        change = SlotChange(device.id, wanted, pinned, note)
        session.merge(DeploymentRow(**_slot(model, change, wanted, generation=document.generation, by=by, now=now)))
    session.flush()
    index(session, [device.id], now)


def set_job(session: Session, device: DeviceRow, job: str, work: Job | None, now: datetime) -> None:
    """Put a job into a device's document, or take it out; the caller's transaction makes it true.

    The same again writes nothing.

    Raises:
        InvalidError: the device's document has no room for it.
    """
    _rewrite(session, device, "jobs", job, work, now=now)


def as_desired(row: DeploymentRow) -> DesiredModel:
    """A deployment as it stands in the document."""
    return DesiredModel(
        version=row.version,
        manifest=row.manifest,
        variant=row.variant,
        rollout=row.rollout,
        profile=Profile(row.profile),
        record_results=row.record_results,
        attempt=row.attempt,
        policy=DeploymentPolicy.model_validate_json(row.policy) if row.policy else DeploymentPolicy(),
    )


def _rewrite(
    session: Session,
    device: DeviceRow,
    part: Part,
    name: str,
    wanted: DesiredModel | Job | None,
    *,
    now: datetime,
    adapts: bool = False,
) -> Desired:
    """The device's newest document, with this slot or job as it is wanted."""
    stored = session.get_one(DesiredRow, device.id).document
    before = Desired.model_validate_json(stored)
    after = _with(before, part, name, wanted, epoch=epoch_of(session), now=now)
    if after is before:
        return after
    if not adapts and (why := _no_room(len(stored), after, len(after.canonical()))):
        raise InvalidError(f"Device {device.name!r} {why}. Nothing was changed: take models or jobs off it first.")
    _store(session, device.id, after)
    return after


def _no_room(length: int, after: Desired, size: int) -> str:
    """Why the next document cannot be taken, in words that follow the device's name; empty: it can. What makes a
    document shorter can always.

    Args:
        length: Of the document that stands, in bytes.
        after: The next one.
        size: Its bytes.
    """
    if size <= length:
        return ""
    if len(after.models) > MAX_MODELS:
        return f"would serve {len(after.models)} models; {MAX_MODELS} are the most"
    if size > MAX_DOCUMENT_BYTES:
        return f"would have a desired state of {size} bytes; {MAX_DOCUMENT_BYTES} are the most"
    return ""


def _with(
    document: Desired, part: Part, name: str, wanted: DesiredModel | Job | None, *, epoch: str, now: datetime
) -> Desired:
    """The next document, with a slot or a job put in or, where None is wanted, taken out; this one if it says so."""
    before: Mapping[str, DesiredModel | Job] = getattr(document, part)
    if before.get(name) == wanted:
        return document
    after = {key: value for key, value in {**before, name: wanted}.items() if value is not None}
    update = {part: after, "generation": document.generation + 1, "issued_at": now, "epoch": epoch}
    return document.model_copy(update=update)


def _store(session: Session, device_id: int, document: Desired) -> None:
    session.merge(DesiredRow(**issued(device_id, document), revision=next_revision(session)))
    session.flush()


@dataclass(frozen=True)
class SlotChange:
    """What one slot of one device should serve now; None: nothing."""

    device_id: int
    wanted: DesiredModel | None
    pinned: bool = False
    note: str = ""


def set_many(
    session: Session, model: str, changes: Sequence[SlotChange], by: str, now: datetime, *, adapts: bool = False
) -> set[int]:
    """Set one model's slot on many devices, each named once; the caller's transaction makes it true.

    What stands already is not written; rows that the session has loaded do not show what was. `adapts`: as of
    `set_desired`.

    Returns:
        The devices whose document has no room for it, or that are gone; theirs is unchanged.
    """
    refused: set[int] = set()
    for batch in batches(changes):
        refused |= _set_batch(session, model, batch, by, now, adapts=adapts)
    return refused


def _set_batch(
    session: Session, model: str, changes: Sequence[SlotChange], by: str, now: datetime, *, adapts: bool
) -> set[int]:
    ids = [change.device_id for change in changes]
    columns = (DesiredRow.device_id, DesiredRow.document)
    found = session.execute(select(*columns).where(DesiredRow.device_id.in_(ids)))
    documents = {row.device_id: row.document for row in found}
    epoch = epoch_of(session)
    refused: set[int] = set()
    written: list[dict[str, Any]] = []
    slots: list[dict[str, Any]] = []
    for change in changes:
        before = documents.get(change.device_id)
        if before is None:
            refused.add(change.device_id)
            continue
        after = _with(Desired.model_validate_json(before), "models", model, change.wanted, epoch=epoch, now=now)
        row = issued(change.device_id, after)
        if not adapts and _no_room(len(before), after, len(row["document"])):
            refused.add(change.device_id)
            continue
        if row["document"] != before:
            written.append(row)
        if change.wanted is not None:
            slots.append(_slot(model, change, change.wanted, generation=after.generation, by=by, now=now))
    if written:
        revision = next_revision(session)
        session.execute(update(DesiredRow), [{**row, "revision": revision} for row in written])
    done = DeploymentRow.device_id.in_([device for device in ids if device not in refused])
    session.execute(delete(DeploymentRow).where(DeploymentRow.model == model, done))
    if slots:
        session.execute(insert(DeploymentRow), slots)
    index(session, documents.keys() - refused, now)
    return refused


def _slot(
    model: str, change: SlotChange, wanted: DesiredModel, *, generation: int, by: str, now: datetime
) -> dict[str, Any]:
    """The deployment's row."""
    return {
        "device_id": change.device_id,
        "model": model,
        "version": wanted.version,
        "manifest": wanted.manifest,
        "variant": wanted.variant,
        "pinned": change.pinned,
        "profile": wanted.profile.value,
        "record_results": wanted.record_results,
        "rollout": wanted.rollout,
        "attempt": wanted.attempt,
        "policy": "" if wanted.policy == DeploymentPolicy() else wanted.policy.canonical().decode(),
        "generation": generation,
        "set_at": now,
        "set_by": by,
        "note": change.note,
    }


class DesiredDocuments:
    """Copies of the newest documents in memory, for the polls of a whole fleet; signed when they are asked for.
    Thread-safe."""

    def __init__(self, database: Database, director: Director | None = None) -> None:
        """`director` None: nothing is signed."""
        self._database = database
        self._director = director
        self._lock = threading.Lock()
        self._copies: dict[str, Document] = {}
        self._seen = 0
        self._freshness = threading.Lock()
        self._changes = 0
        self._fresh_until = 0.0
        database.listeners.add(Changed.DOCUMENTS, self._outdate)

    def _outdate(self, _name: str) -> None:
        """Copies are checked before the next answer."""
        with self._freshness:
            self._changes += 1
            self._fresh_until = 0.0

    def remembered(self, device: str) -> Document | None:
        """The copy, when it is known to be fresh; never blocks. None means: `load` it."""
        found = self._copies.get(device) if time.monotonic() < self._fresh_until else None
        if found is None or self._director is None or not self._director.is_due(found.sign_at):
            return found
        return None

    def load(self, device: str) -> Document:
        """The document, from the database where the copy is not fresh.

        Raises:
            NotFoundError: there is no such device.
        """
        with self._lock, self._database.read() as session:  # one at a time: an old copy must not replace a new one
            if time.monotonic() >= self._fresh_until:
                self._refresh(session)
            if device not in self._copies:
                self._read(session, device)
            found = self._copies[device]
            if self._director is not None and self._director.is_due(found.sign_at):
                look_where_needed(session, self._director)
                signed = self._director.sign(device, found.body)
                found = Document(signed.body, signed.digest, found.generation, signed.sign_at)
                self._copies[device] = found
            return found

    def _refresh(self, session: Session) -> None:
        asked, changes = time.monotonic(), self._changes
        newest = session.scalar(select(RevisionRow.value).where(RevisionRow.id == REVISION)) or 0
        if newest != self._seen:
            if self._director is not None:
                self._director.look(session, epoch_began(session))
            query = _DOCUMENTS.where(DesiredRow.revision > self._seen).limit(MAX_MOVED + 1)
            moved = session.execute(query).all() if self._copies else []
            if len(moved) > MAX_MOVED:
                self._copies = {}
            for name, document, digest, generation in moved[:MAX_MOVED]:
                if name in self._copies:
                    self._copies[name] = Document(document, digest, generation)
            for name in session.scalars(select(TombstoneRow.name).where(TombstoneRow.revision > self._seen)):
                self._copies.pop(name, None)
            self._seen = newest
        with self._freshness:
            if changes == self._changes:
                self._fresh_until = asked + STALE_S

    def _read(self, session: Session, device: str) -> None:
        """Copies of this one and of those that follow it by name."""
        query = _DOCUMENTS.where(DeviceRow.name >= device).order_by(DeviceRow.name).limit(READ_AHEAD)
        found = {
            name: Document(document, digest, generation)
            for name, document, digest, generation in session.execute(query)
        }
        if device not in found:
            raise NotFoundError(f"There is no device named {device!r}; register it first.")
        if len(self._copies) + len(found) > MAX_COPIES:
            self._copies = {}
        self._copies.update(found)


def look_where_needed(session: Session, director: Director) -> None:
    """Have a director that cannot sign look again for its keys."""
    if not director.is_ready:
        director.look(session, epoch_began(session))


_DOCUMENTS = select(DeviceRow.name, DesiredRow.document, DesiredRow.digest, DesiredRow.generation).join(
    DesiredRow, DesiredRow.device_id == DeviceRow.id
)


Place = tuple[int, int]
"""Revision and device."""


NEWEST: Place = (1 << 62, 0)
"""Before everything that waits."""


@dataclass(frozen=True)
class Unpublished:
    """A document that the broker has not acknowledged."""

    device_id: int
    device: str
    generation: int
    revision: int
    """Of the fleet: the higher, the newer."""
    document: bytes
    """As it is sent."""
    until: datetime | None = None
    """When its signature expires. None: it has none."""

    @property
    def place(self) -> Place:
        """Where it stands among all that wait."""
        return self.revision, self.device_id


class Publication(UseCases):
    """What is to be published, for the one thread that publishes."""

    def __init__(self, database: Database, director: Director | None = None) -> None:
        """`director` None: nothing is signed."""
        super().__init__(database)
        self._director = director

    def listen(self, listener: Callable[[], None]) -> None:
        """`listener` is called, in any thread, after this process changed documents; it must not block."""
        self._database.listeners.add(Changed.DOCUMENTS, lambda _: listener())

    def pending(self, after: Place, limit: int) -> list[Unpublished]:
        """Up to `limit` documents that come after `after`, the newest first: what one device waits for is not behind
        a change of the whole fleet."""
        order = (DesiredRow.revision, DesiredRow.device_id)
        query = select(DesiredRow, DeviceRow.name).join(DeviceRow, DeviceRow.id == DesiredRow.device_id)
        query = query.where(DesiredRow.published.is_(False), tuple_(*order) < after)
        with self._database.read() as session:
            rows = session.execute(query.order_by(*(column.desc() for column in order)).limit(limit)).all()
            if rows and self._director is not None:
                self._director.look(session, epoch_began(session))
        return [self._unpublished(row, name) for row, name in rows]

    def _unpublished(self, row: DesiredRow, name: str) -> Unpublished:
        body, until = row.document, None
        if self._director is not None:
            signed = self._director.sign(name, row.document)
            body, until = signed.body, signed.until
        return Unpublished(row.device_id, name, row.generation, row.revision, body, until)

    def acknowledged(self, documents: Sequence[Unpublished]) -> None:
        """The broker has these. A document that was replaced meanwhile stays to be published."""
        revisions: dict[tuple[int, datetime | None], list[int]] = {}
        for document in documents:
            revisions.setdefault((document.revision, document.until), []).append(document.device_id)
        with self._database.write() as session:
            for (revision, until), devices in revisions.items():
                these = (DesiredRow.device_id.in_(devices), DesiredRow.revision == revision)
                session.execute(update(DesiredRow).where(*these).values(published=True, published_until=until))

    def deleted(self, limit: int) -> list[str]:
        """Up to `limit` deleted devices whose retained messages are still there."""
        query = select(TombstoneRow.name).where(TombstoneRow.cleared.is_(False)).limit(limit)
        with self._database.read() as session:
            return list(session.scalars(query))

    def cleared(self, devices: Sequence[str]) -> None:
        """The broker has nothing of these any more."""
        with self._database.write() as session:
            session.execute(update(TombstoneRow).where(TombstoneRow.name.in_(devices)).values(cleared=True))

    def renew(self, now: datetime) -> int:
        """Have those published again that were without a signature, or with one in the second half of its life. How
        many."""
        if self._director is None or not self._director.is_ready:
            return 0
        due = (DesiredRow.published_until.is_(None)) | (DesiredRow.published_until < now + DOCUMENT_LIFE / 2)
        query = select(DesiredRow.device_id).where(DesiredRow.published.is_(True), due).limit(MAX_RENEWED)
        with self._database.write() as session:
            devices = session.scalars(query).all()
            for some in batches(devices):
                session.execute(update(DesiredRow).where(DesiredRow.device_id.in_(some)).values(published=False))
            if devices:
                announce(session, Changed.DOCUMENTS)
        return len(devices)

    def forget(self) -> None:
        """Nobody knows what the broker has: every document is to be published."""
        with self._database.write() as session:
            session.execute(update(DesiredRow).where(DesiredRow.published.is_(True)).values(published=False))

    def count(self) -> int:
        """How many documents wait."""
        with self._database.read() as session:
            query = select(func.count()).select_from(DesiredRow).where(DesiredRow.published.is_(False))
            return session.scalar(query) or 0
