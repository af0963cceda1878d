"""What must reach the broker and could not yet: events and results, on disk, in order, bounded by rows and bytes.

Events are written before they are sent, results when the connection is away; both are removed at PUBACK.
When the outbox is full the oldest results are dropped, and events only once no result is left: a result can be asked
for again, an event is the history of the device. What is dropped is counted, and the count survives a restart.

SQLite in WAL mode with synchronous=FULL: a committed row survives a power cut. Any thread may call; a lock serialises.
Every row has a checksum: a corrupted one is never sent: it is removed, counted and reported. A file that SQLite refuses
is set aside (`.damaged`), and what is whole in it goes into a new one; messages that had been sent already may then be
sent again. Where the disk takes no writes at the start, what is there is sent from memory, and nothing is taken in."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeVar

from agent.adapters.disk.damage import Damage
from agent.adapters.disk.rows.faults import FAULTS, is_damage, refusal, row_sum
from agent.adapters.disk.rows.messages import (
    EVENT,
    RESULT,
    ROW_BYTES,
    SCHEMA,
    SELECT_AFTER,
    SELECT_ORDER,
    SELECT_SIZE,
    SELECT_TOTAL,
    connect,
    insert,
    is_whole,
    set_dropped,
    whole,
)
from agent.adapters.disk.rows.pages import log_is_broken, log_rows, rows
from agent.adapters.disk.rows.rebuild import make_way, replace_damaged
from agent.errors import TransientError
from registry.contracts.codes import DeploymentCode

__all__ = ["EVENT", "RESULT", "NewMessage", "Outbox", "OutboxLimits", "OutboxMessage"]
REOPEN_S = 5.0
"""Between two tries to open a file that the disk did not let us write."""
T = TypeVar("T")


class OutboxMessage(NamedTuple):
    """A message that waits."""

    id: int
    topic: bytes
    """UTF-8, without a length."""
    properties: bytes
    """Raw MQTT 5 properties."""
    payload: bytes


class NewMessage(NamedTuple):
    """A message to keep."""

    kind: int
    """EVENT or RESULT."""
    topic: bytes
    properties: bytes
    payload: bytes

    @property
    def size(self) -> int:
        """Bytes as the limit counts them."""
        return len(self.topic) + len(self.properties) + len(self.payload) + ROW_BYTES


@dataclass(frozen=True)
class OutboxLimits:
    """How much may wait."""

    rows: int = 100_000
    bytes: int = 256 << 20


class Outbox:
    """The file is made on first use; `close` before another opens it."""

    def __init__(self, path: Path, limits: OutboxLimits | None = None, damage: Damage | None = None) -> None:
        """Raises TransientError when its folder is not there."""
        self._path = path
        self._refusal = f"the outbox {path} cannot be read or written"
        self._limits = limits or OutboxLimits()
        self._damage = damage or Damage()
        self._lock = threading.Lock()
        self._last_id = 0
        self._reopen_at: float | None = None
        """Monotonic; None: the file is open."""
        self._sent_meanwhile: list[int] = []
        self.rows = self.bytes = 0
        self.dropped = 0
        """Messages given up for room, since the file was made."""
        if not path.parent.is_dir():
            raise TransientError(DeploymentCode.DISK_ERROR, f"{self._refusal}: {path.parent} is not there")
        self._db: sqlite3.Connection
        try:
            self._take_up()
        except TransientError as error:
            self._db = self._in_memory()
            self._reopen_at = time.monotonic() + REOPEN_S
            self._damage.note("outbox", f"nothing is kept for later: {error.message}", 0)

    def add(self, messages: Sequence[NewMessage]) -> None:
        """Keeps the messages, all or none, in one transaction; on disk when this returns.

        Raises:
            TransientError: the disk is full, failing or read-only; nothing of it was kept.
        """
        if not messages:
            return
        with self._lock:
            self._need_file()
            self._guarded(lambda: self._add(messages))

    def after(self, id_: int, count: int) -> list[OutboxMessage]:
        """The oldest `count` messages with a greater id, in order; fewer when there are no more.

        Raises:
            TransientError: the disk is failing.
        """
        with self._lock:
            return self._guarded(lambda: self._after(id_, count))

    def remove(self, ids: Sequence[int]) -> None:
        """These have reached the broker. Unknown ids are passed over.

        Raises:
            TransientError: the disk is failing; they will be sent again, which receivers must bear anyway.
        """
        if ids:
            with self._lock:
                if self._reopen_at is not None:
                    self._sent_meanwhile += ids
                self._guarded(lambda: self._remove(ids))

    def close(self) -> None:
        """Everything added is on disk already."""
        with self._lock:
            self._db.close()

    # --- with the lock held -------------------------------------------------------------------------------------------

    def _add(self, messages: Sequence[NewMessage]) -> None:
        with self._transaction():
            new = [(self._last_id + at, m.kind, m.topic, m.properties, m.payload) for at, m in enumerate(messages, 1)]
            insert(self._db, [(*row, row_sum(*row)) for row in new])
            total, size = self.rows + len(messages), self.bytes + sum(message.size for message in messages)
            doomed = self._doomed(total, size)
            for id_, kind, _ in doomed:
                if self._db.execute("DELETE FROM messages WHERE id = ? AND kind = ?", (id_, kind)).rowcount != 1:
                    raise sqlite3.DatabaseError("malformed: the index names a message that is not there")
            if doomed:
                set_dropped(self._db, self.dropped + len(doomed))
        self._last_id += len(messages)
        self.rows, self.bytes = total - len(doomed), size - sum(one for _, _, one in doomed)
        self.dropped += len(doomed)

    def _doomed(self, total: int, size: int) -> list[tuple[int, int, int]]:
        """What is over the limits: results from the oldest on, then events. Id, kind, size."""
        doomed: list[tuple[int, int, int]] = []
        limits = self._limits
        if total > limits.rows or size > limits.bytes:
            for row in self._db.execute(SELECT_ORDER):
                if total <= limits.rows and size <= limits.bytes:
                    break
                doomed.append(row)
                total, size = total - 1, size - row[2]
        return doomed

    def _after(self, id_: int, count: int) -> list[OutboxMessage]:
        while True:
            found = self._db.execute(SELECT_AFTER, (id_, count)).fetchall()
            bad = [row[0] for row in found if not is_whole(row)]
            if bad:
                self._damage.note("outbox", f"{len(bad)} messages were damaged; they are not sent", len(bad))
                with contextlib.suppress(sqlite3.OperationalError):  # else they are found again
                    self._remove(bad)
            good = [OutboxMessage(row[0], *row[2:5]) for row in found if is_whole(row)]
            if good or len(found) < count:
                if not found and id_ == 0 and self.rows:
                    raise sqlite3.DatabaseError(f"malformed: {self.rows} messages are not where they should be")
                return good
            id_ = found[-1][0]

    def _remove(self, ids: Sequence[int]) -> None:
        size = total = 0
        with self._transaction():
            for id_ in ids:
                row = self._db.execute(SELECT_SIZE, (id_,)).fetchone()
                if row is not None:
                    self._db.execute("DELETE FROM messages WHERE id = ?", (id_,))
                    total, size = total + 1, size + int(row[0])
        self.rows, self.bytes = self.rows - total, self.bytes - size

    def _count(self) -> None:
        total, size, last = self._db.execute(SELECT_TOTAL).fetchone()
        self.rows, self.bytes, self._last_id = int(total), int(size), max(self._last_id, int(last))
        row = self._db.execute("SELECT value, sum FROM counters WHERE name = 'dropped'").fetchone()
        if row is not None and row[1] == row_sum("dropped", row[0]):
            self.dropped = max(self.dropped, int(row[0]))

    def _guarded(self, work: Callable[[], T]) -> T:
        """A damaged file is recreated and the work done on that; other errors mean that the disk refuses."""
        try:
            return work()
        except FAULTS as error:
            if not is_damage(error) or self._reopen_at is not None:
                raise refusal(self._refusal, error) from error
            why = str(error)
        try:
            self._recreate(why)
            return work()
        except FAULTS as error:
            raise refusal(self._refusal, error) from error
        except OSError as error:
            raise TransientError(DeploymentCode.DISK_ERROR, f"{self._refusal}: {error}") from error

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        try:
            self._db.execute("BEGIN IMMEDIATE")
            yield
            self._db.execute("COMMIT")
        finally:
            if self._db.in_transaction:
                with contextlib.suppress(sqlite3.Error):
                    self._db.execute("ROLLBACK")

    # --- the file -----------------------------------------------------------------------------------------------------

    def _take_up(self) -> None:
        """Raises TransientError when the disk refuses."""
        try:
            aside = self._path.with_suffix(self._path.suffix + ".damaged")
            if what := make_way(self._path, aside):
                self._damage.note("outbox", f"the outbox: {what}; set aside as {aside.name}")
            late = whole(log_rows(self._path))
            broken = log_is_broken(self._path)
            try:
                self._db = connect(self._path)
            except FAULTS as error:
                if not is_damage(error):
                    raise
                self._recreate(str(error))
            self._count()
            if broken:
                newer = [row for id_, row in late.items() if id_ > self._last_id]
                with self._transaction():
                    insert(self._db, newer)
                text = "its log was damaged, or cut off while it was written: what came last may be missing"
                self._damage.note("outbox", f"{text}; {len(newer)} later messages were whole and kept")
                self._count()
        except FAULTS as error:
            raise refusal(self._refusal, error) from error
        except OSError as error:
            raise TransientError(DeploymentCode.DISK_ERROR, f"{self._refusal}: {error}") from error

    def _recreate(self, why: str) -> None:
        """From every message that is whole anywhere in the damaged file, which is set aside."""
        with contextlib.suppress(AttributeError):  # It never was open.
            self._db.close()
        kept = whole(rows(self._path))
        aside = self._path.with_suffix(self._path.suffix + ".damaged")

        def build(fresh: Path) -> None:
            with contextlib.closing(connect(fresh)) as db:
                insert(db, [kept[id_] for id_ in sorted(kept)])
                set_dropped(db, self.dropped)

        replace_damaged(self._path, aside, build)
        self._db = connect(self._path)
        self._count()
        text = f"the outbox was damaged ({why}): set aside as {aside.name}; {len(kept)} messages were whole and kept"
        self._damage.note("outbox", text)

    def _in_memory(self) -> sqlite3.Connection:
        self._db = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        self._db.executescript(SCHEMA)
        with contextlib.suppress(OSError):
            insert(self._db, whole(rows(self._path)).values())
        self._count()
        return self._db

    def _need_file(self) -> None:
        """Raises TransientError while the disk takes no writes."""
        if self._reopen_at is None:
            return
        if time.monotonic() < self._reopen_at:
            raise TransientError(DeploymentCode.DISK_ERROR, f"{self._refusal}: the disk takes no writes")
        self._reopen_at = time.monotonic() + REOPEN_S
        before = self._db
        try:
            self._take_up()
        except TransientError:
            self._db = before
            raise
        before.close()
        self._reopen_at = None
        sent, self._sent_meanwhile = self._sent_meanwhile, []
        self._remove(sent)
