"""Which desired documents the broker still has to get, and which retained messages it has to lose.

Level-triggered: a row says so until the broker acknowledged it, so a registry killed between a commit and its
publication does it after the restart.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sqlalchemy import func, select, tuple_, update

from registry.db.engine import Changed
from registry.db.fleet_rows import DesiredRow, DeviceRow, TombstoneRow
from registry.services.queries import UseCases

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

    @property
    def place(self) -> Place:
        """Where it stands among all that wait."""
        return self.revision, self.device_id


class Publication(UseCases):
    """What is to be published, for the one thread that publishes."""

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
        return [Unpublished(row.device_id, name, row.generation, row.revision, row.document) for row, name in rows]

    def acknowledged(self, documents: Sequence[Unpublished]) -> None:
        """The broker has these. A document that was replaced meanwhile stays to be published."""
        generations: dict[int, list[int]] = {}
        for document in documents:
            generations.setdefault(document.generation, []).append(document.device_id)
        with self._database.write() as session:
            for generation, devices in generations.items():
                these = (DesiredRow.device_id.in_(devices), DesiredRow.generation == generation)
                session.execute(update(DesiredRow).where(*these).values(published=True))

    def deleted(self, limit: int) -> list[str]:
        """Up to `limit` deleted devices whose retained messages are still there."""
        query = select(TombstoneRow.name).where(TombstoneRow.cleared.is_(False)).limit(limit)
        with self._database.read() as session:
            return list(session.scalars(query))

    def cleared(self, devices: Sequence[str]) -> None:
        """The broker has nothing of these any more."""
        with self._database.write() as session:
            session.execute(update(TombstoneRow).where(TombstoneRow.name.in_(devices)).values(cleared=True))

    def forget(self) -> None:
        """Nobody knows what the broker has: every document is to be published."""
        with self._database.write() as session:
            session.execute(update(DesiredRow).where(DesiredRow.published.is_(True)).values(published=False))

    def count(self) -> int:
        """How many documents wait."""
        with self._database.read() as session:
            query = select(func.count()).select_from(DesiredRow).where(DesiredRow.published.is_(False))
            return session.scalar(query) or 0
