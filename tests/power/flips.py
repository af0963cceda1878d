"""One flipped bit at a time in everything that lies on a disk or comes over a wire, and what became of it.

harmless: everything reads as it was. healed: it was noticed, counted, and everything reads as it was. detected: it was
noticed, counted or refused, and only what the bit was in is missing. wrong: other bytes were given out as good. lost:
something that the bit was not in is missing, or something is missing in silence.
"""

from __future__ import annotations

import random
import shutil
import sqlite3
import threading
from abc import ABC, abstractmethod
from collections import Counter
from datetime import datetime, timedelta, timezone
from pathlib import Path

from agent.adapters.disk.artifact_cache import ArtifactCache
from agent.adapters.disk.damage import Damage
from agent.adapters.disk.journal import SqliteJournal
from agent.adapters.disk.outbox import RESULT, NewMessage, Outbox
from agent.core.slots import SlotRecord
from agent.errors import AgentError
from agent.reconciler.desired import DesiredState
from registry.blobs.filesystem import FilesystemBlobs
from registry.contracts.api.uploads import UploadRequest
from registry.contracts.catalogue.manifest import FileRef
from registry.contracts.wire import digest_of
from registry.db.engine import open_database
from registry.errors import StartError
from registry.services.catalogue.blob_upkeep import BlobChecks
from registry.services.catalogue.uploads import UploadLimits, Uploads
from registry.services.catalogue.versions import Versions
from tests.fakes.control import MemoryJournal
from tests.fakes.host import DEVICE, desired
from tests.fakes.registry_simulator import one_file_manifest
from tests.power.agent_side import content, install, variant_of

NEVER = threading.Event()
NOW = datetime(2026, 1, 1, tzinfo=timezone.utc)
LATER = NOW + timedelta(days=2)
HARMLESS, HEALED, DETECTED, WRONG, LOST, SILENT = "harmless", "healed", "detected", "wrong", "lost", "silent"


class Kind(ABC):
    """Something with bytes in use."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self.build()
        self.whole = {file: file.read_bytes() for file in sorted(self.files())}

    @abstractmethod
    def build(self) -> None:
        """Makes it, whole."""

    @abstractmethod
    def files(self) -> list[Path]:
        """Whose bits are flipped."""

    @abstractmethod
    def outcome(self, file: Path) -> str:
        """What reading it gives after a flip in `file`."""

    def restore(self) -> None:
        """As it was built."""
        for file, data in self.whole.items():
            file.parent.mkdir(parents=True, exist_ok=True)
            file.unlink(missing_ok=True)
            file.write_bytes(data)

    def flip(self, chance: random.Random) -> str:
        """One bit, drawn from all of them."""
        sizes = [len(data) for data in self.whole.values()]
        file = chance.choices(list(self.whole), sizes)[0]
        bit = chance.randrange(len(self.whole[file]) * 8)
        data = bytearray(self.whole[file])
        data[bit // 8] ^= 1 << bit % 8
        file.write_bytes(data)
        try:
            return self.outcome(file)
        finally:
            self.restore()


class Cache(Kind):
    """Model files, golden vectors and manifests of an agent."""

    def build(self) -> None:
        self.damage = Damage()
        self.cache = ArtifactCache(self.folder, limit=1 << 40, reserve=0, damage=self.damage)
        self.cache.open()
        self.variant, self.digest = variant_of(3), variant_of(3).canonical_digest()
        self.golden = FileRef(path="golden", digest=digest_of(content(5)), size=len(content(5)))
        self.bring()

    def bring(self) -> None:
        """As the agent does after it has found damage."""
        install(self.cache, 3)
        with self.cache.part(self.golden) as part:
            rest = [content(5)]
            part.resume(NEVER)
            part.receive(lambda room: _fill(room, rest), NEVER)
            part.check()
            self.cache.admit_golden(part, self.digest)

    def files(self) -> list[Path]:
        names = ("variant.json", "engines.json")
        return [path for path in self.folder.rglob("*") if path.is_file() and path.name not in names]

    def outcome(self, file: Path) -> str:
        noticed = False
        for look in (self._verify, self._golden, self._manifest):
            noticed |= not look()
        if not noticed:
            good = file.read_bytes() == self.whole[file]
            return HARMLESS if good else WRONG
        self.bring()
        return HEALED if self._verify() and self._golden() and self._manifest() else LOST

    def _verify(self) -> bool:
        try:
            self.cache.verify(self.variant, self.digest, NEVER)
        except AgentError:
            return False
        return True

    def _golden(self) -> bool:
        try:
            self.cache.checked_golden(self.digest, self.golden, NEVER)
        except AgentError:
            return False
        return True

    def _manifest(self) -> bool:
        return self.cache.manifest(digest_of(content(3))) is not None

    def restore(self) -> None:
        shutil.rmtree(self.folder / "damaged", ignore_errors=True)
        shutil.rmtree(self.folder / "staging", ignore_errors=True)
        super().restore()
        self.cache.open()


def _fill(room: memoryview, rest: list[bytes]) -> int:
    part = rest.pop() if rest else b""
    room[: len(part)] = part
    return len(part)


class JournalFile(Kind):
    """What the agent knows across a power cut; with a log, as a kill leaves it."""

    def build(self) -> None:
        (self.folder / "made").mkdir()
        journal = SqliteJournal(self.folder / "made")
        journal.open()
        for number in range(30):
            journal.save(SlotRecord(model=f"m{number}", generation=number))
            journal.put(f"fact {number}", content(number)[:2000])
        journal.close()
        journal.open()
        journal.put("desired", b"d" * 5000)
        self.known = _of_journal(journal)
        for file in (self.folder / "made").glob("journal.db*"):
            if not file.name.endswith("-shm"):
                shutil.copy(file, self.folder)
        journal.close()
        shutil.rmtree(self.folder / "made")

    def files(self) -> list[Path]:
        return list(self.folder.glob("journal.db*"))

    def outcome(self, file: Path) -> str:
        damage = Damage()
        journal = SqliteJournal(self.folder, damage)
        journal.open()
        found = _of_journal(journal)
        journal.close()
        if found == self.known:
            return HEALED if damage.counts() else HARMLESS
        values = [*found[1], *found[0].values()]
        good = {*self.known[1], *self.known[0].values(), None}
        return LOST if all(value in good for value in values) else WRONG

    def restore(self) -> None:
        for file in self.folder.iterdir():
            file.unlink()
        super().restore()


def _of_journal(journal: SqliteJournal) -> tuple[dict[str, bytes], list[bytes | None]]:
    slots = {model: record.canonical() for model, record in journal.slots().items()}
    return slots, [journal.get(f"fact {number}") for number in range(30)] + [journal.get("desired")]


class OutboxFile(Kind):
    """Results that wait; with a log, as a kill leaves it."""

    def build(self) -> None:
        made = self.folder / "made"
        made.mkdir()
        self.payloads = {b"%d:" % number + content(number)[:4000] for number in range(60)}
        outbox = Outbox(made / "outbox.db")
        ordered = sorted(self.payloads)
        outbox.add([NewMessage(RESULT, b"topic", b"", payload) for payload in ordered[:40]])
        outbox.close()
        outbox = Outbox(made / "outbox.db")
        for payload in ordered[40:]:
            outbox.add([NewMessage(RESULT, b"topic", b"", payload)])
        for file in made.glob("outbox.db*"):
            if not file.name.endswith("-shm"):
                shutil.copy(file, self.folder)
        outbox.close()
        shutil.rmtree(made)

    def files(self) -> list[Path]:
        return list(self.folder.glob("outbox.db*"))

    def outcome(self, file: Path) -> str:
        damage = Damage()
        outbox = Outbox(self.folder / "outbox.db", damage=damage)
        found = {(message.topic, message.payload) for message in outbox.after(0, 1000)}
        outbox.close()
        wanted = {(b"topic", payload) for payload in self.payloads}
        if found - wanted:
            return WRONG
        missing = len(wanted - found)
        if not missing:
            return HEALED if damage.counts() else HARMLESS
        return DETECTED if missing == 1 and damage.counts() else LOST

    def restore(self) -> None:
        for file in self.folder.iterdir():
            file.unlink()
        super().restore()


class Registry(Kind):
    """Base: a registry with ten versions."""

    def build(self) -> None:
        self.data = {content(number)[:8000] for number in range(1, 11)}
        self.open()
        for number, data in enumerate(sorted(self.data)):
            self.upload(data)
            self.versions.publish(one_file_manifest(data, version=f"{number}.0.0"), "me", NOW)
        self.manifests = {
            number: one_file_manifest(data, version=f"{number}.0.0") for number, data in enumerate(sorted(self.data))
        }
        self.close()

    def open(self) -> None:
        self.database = open_database(f"sqlite:///{self.folder / 'registry.db'}")
        self.blobs = FilesystemBlobs(self.folder / "blobs")
        self.checks = BlobChecks(self.database, self.blobs, every=timedelta(days=1), rate=1e12)
        limits = UploadLimits(1 << 30, 99, 9, timedelta(days=1), 0)
        self.uploads = Uploads(self.database, self.blobs, limits, self.checks)
        self.versions = Versions(self.database, self.blobs)

    def close(self) -> None:
        self.database.close()

    def upload(self, data: bytes) -> None:
        view = self.uploads.begin(UploadRequest(digest=digest_of(data), size=len(data)), "me", LATER)
        if not view.complete:
            with self.uploads.receive(view.id, "me", view.offset) as receiver:
                receiver.take(data[view.offset :])
                self.uploads.finish(receiver, LATER)


class Blobs(Registry):
    """The registry's blobs."""

    def files(self) -> list[Path]:
        return [path for path in (self.folder / "blobs").rglob("*") if path.is_file()]

    def outcome(self, file: Path) -> str:
        self.open()
        try:
            damaged = [data for data in self.data if not self.checks.is_whole(digest_of(data), LATER)]
            if not damaged:
                return WRONG if file.read_bytes() != self.whole[file] else HARMLESS
            for data in damaged:
                self.upload(data)
            healed = all(self.checks.is_whole(digest_of(data), LATER) for data in self.data)
            return HEALED if healed and len(damaged) == 1 else LOST
        finally:
            self.close()


class DatabaseFile(Registry):
    """The registry's SQLite file. Its pages have no checksums: what SQLite does not notice is `silent`, unless it is a
    manifest, which whoever fetches it checks by its digest."""

    def files(self) -> list[Path]:
        return [self.folder / "registry.db"]

    def outcome(self, file: Path) -> str:
        try:
            self.open()
        except (StartError, sqlite3.Error):
            return DETECTED
        try:
            found = {view.version: view for _, view in self.versions.page("lenet", 1 << 62, 100)}
            bodies = {n: self.versions.manifest_bytes(m.canonical_digest()) for n, m in self.manifests.items()}
            good = all(digest_of(body) == self.manifests[n].canonical_digest() for n, body in bodies.items())
            checked = sqlite3.connect(file).execute("PRAGMA integrity_check(1)").fetchone()[0]
        except Exception:  # noqa: BLE001 - refused, in whatever words
            return DETECTED
        finally:
            self.close()
        if checked != "ok" or not good:
            return DETECTED
        return HARMLESS if set(found) == {m.version for m in self.manifests.values()} else SILENT

    def restore(self) -> None:
        for path in self.folder.glob("registry.db*"):
            path.unlink()
        super().restore()


class Messages(Kind):
    """Desired documents on their way. They have no checksum of their own, TCP and TLS have: what is still a document is
    `silent` unless it names a manifest that there is not, which nobody can fetch."""

    def build(self) -> None:
        (self.folder / "desired").write_bytes(desired(7, lenet="1.0.0", other="2.0.0"))

    def files(self) -> list[Path]:
        return [self.folder / "desired"]

    def outcome(self, file: Path) -> str:
        state = DesiredState(DEVICE, MemoryJournal())
        try:
            state.offer(file.read_bytes())
        except AgentError:
            return DETECTED
        before = DesiredState(DEVICE, MemoryJournal())
        before.offer(self.whole[file])
        assert state.current is not None
        assert before.current is not None
        if state.current.canonical() == before.current.canonical():
            return HARMLESS
        manifests = {wish.manifest for wish in before.current.models.values()}
        named = {wish.manifest for wish in state.current.models.values()}
        return DETECTED if named - manifests else SILENT


KINDS: dict[str, type[Kind]] = {
    "cache": Cache,
    "journal": JournalFile,
    "outbox": OutboxFile,
    "blobs": Blobs,
    "database": DatabaseFile,
    "messages": Messages,
}


def flip_all(kind: type[Kind], folder: Path, count: int, seed: int) -> Counter[str]:
    """So many flips, one at a time."""
    thing, chance = kind(folder), random.Random(seed)
    return Counter(thing.flip(chance) for _ in range(count))
