"""Artifacts on this device's disk, named by the digest of their variant.

    artifacts/<variant>/variant.json     the variant's canonical bytes: they have the digest in the folder's name
    artifacts/<variant>/files/<path>     plain files of mode 0440, one link each
    artifacts/<variant>/golden/<blob>    the version's golden vectors: they come and go with the variant
    staging/<variant>/...                the same, on its way: some files are there, others not yet
    partial/<blob>.part                  one file on its way
    manifests/<digest>.json              manifests as the registry sent them
    damaged/<blob>                       files that were found to be other bytes than they were; small ones, a few

Nothing gets a final name before it is whole, hashed and synced, and a file that lies under its final name is
still not trusted: `verify` hashes it each time before a worker opens it, and once more when the worker has read it.
What is found damaged is set aside and its artifact goes back to staging, so that only that file has to come again. A
kill at any moment leaves only what the next start uses or sweeps away.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence, Set
from pathlib import Path

from agent.adapters.disk.checked_files import Pace, PartFile, faulty, is_plain, is_right, unexpected_files
from agent.adapters.disk.damage import Damage
from agent.adapters.disk.durable import delete, disk_errors, sync_folder, write_atomically
from agent.core.fitness import CachedArtifact, to_evict
from agent.errors import StepCancelledError, TransientError
from registry.contracts.catalogue.manifest import MAX_MANIFEST_BYTES, FileRef, Variant
from registry.contracts.codes import DeploymentCode
from registry.contracts.wire import Digest, digest_of, hex_of

_FOLDERS = ("artifacts", "staging", "partial", "manifests", "damaged")
_HEX_NAME = re.compile(r"[0-9a-f]{64}")
MAX_DAMAGED_FILES, MAX_DAMAGED_BYTES = 8, 64 << 20
"""Of what is set aside to be looked at; the oldest goes first, and a larger file is not kept."""
DiskFree = Callable[[Path], int]


def disk_free(folder: Path) -> int:
    """Bytes that an unprivileged process may still write there."""
    return shutil.disk_usage(folder).free


def reserve_of(folder: Path, wanted: int) -> int:
    """Bytes to leave free: as configured, but at most a quarter of a small disk."""
    try:
        return min(wanted, shutil.disk_usage(folder).total // 4)
    except OSError:
        return wanted


_CANCEL_CHECK_S = 0.2
"""Between two looks at `cancel` while another thread receives the same bytes."""


class ArtifactCache:
    """Thread-safe, as long as whoever receives a file holds it: `receiving`.

    INVARIANT: one thread at a time receives and admits a blob. Two models, and two versions of one, may have files of
    the same bytes, and even be the same variant: they share the file on its way, and the staging folder.
    """

    def __init__(
        self, folder: Path, *, limit: int, reserve: int, free: DiskFree = disk_free, damage: Damage | None = None
    ) -> None:
        self._folder = folder
        self._limit = limit
        self._reserve = reserve
        self._free = free
        self._damage = damage or Damage()
        self._moving = threading.Lock()
        """Held while an artifact goes from staging to its name or back."""
        self._received: set[Digest] = set()
        """Blobs that a thread receives now."""
        self._released = threading.Condition()

    def open(self) -> None:
        """Makes the folders, also where something else has their names. Where the disk refuses, what is there can still
        be loaded.

        Raises:
            TransientError: the disk refuses.
        """
        for folder in (self._folder, *(self._folder / name for name in _FOLDERS)):
            if not folder.is_dir() and folder.exists():
                self._damage.note("cache", f"{folder}: no folder; it is recreated")
                delete(folder)
            with disk_errors(folder):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def files(self, variant: Digest) -> Path:
        """Where a worker finds the artifact's files."""
        return self._folder / "artifacts" / hex_of(variant) / "files"

    def has(self, variant: Digest) -> bool:
        """Is the artifact there under its name? `verify` says whether it is right."""
        return self.files(variant).is_dir()

    def manifest(self, digest: Digest) -> bytes | None:
        """The manifest's bytes when they are here and have that digest."""
        try:
            with self._manifest_file(digest).open("rb") as stream:
                data = stream.read(MAX_MANIFEST_BYTES + 1)
        except OSError:
            return None
        return data if digest_of(data) == digest else None

    def keep_manifest(self, data: bytes) -> None:
        """Keeps the bytes of a manifest under their digest. Raises TransientError: the disk refuses."""
        self.open()  # somebody may have emptied the disk meanwhile
        path = self._manifest_file(digest_of(data))
        if path.is_dir():
            delete(path)
        write_atomically(path, data, mode=0o440)

    def outstanding(self, variant: Variant, digest: Digest) -> int:
        """Bytes of the artifact that have still to come."""
        return sum(ref.size - self._part_size(ref) for ref in self.missing(variant, digest))

    def make_room(self, variant: Variant, digest: Digest, keep: Set[Digest], extra: int = 0) -> None:
        """Evicts what may go until the artifact, and `extra` bytes beside it, fit into limit and disk.

        Raises:
            TransientError: insufficient_disk, with what is needed and what there is.
        """
        self.open()  # a disk that refused before may take it now
        need = self.outstanding(variant, digest) + extra
        for old in to_evict(self._cached(), keep | {digest}, self._limit, need):
            self._remove(old)
        reserve = reserve_of(self._folder, self._reserve)
        while (have := self._free(self._folder) - reserve) < need:
            removable = to_evict(self._cached(), keep | {digest}, 0)
            if not removable and self._bound_damaged(0, 0):
                continue
            if not removable:
                raise TransientError(
                    DeploymentCode.INSUFFICIENT_DISK,
                    f"{variant.name} needs {need} more bytes below {self._folder}, and {max(have, 0)} are free beyond "
                    f"the reserve of {reserve}: free some, or lower limits.disk_reserve",
                )
            self._remove(removable[0])

    def missing(self, variant: Variant, digest: Digest) -> list[FileRef]:
        """The files that have still to come."""
        return [ref for ref in variant.files if self.lacks(digest, ref)]

    def lacks(self, digest: Digest, ref: FileRef) -> bool:
        """Has this file of the artifact still to come?"""
        return not self.has(digest) and not is_plain(self._staging(digest) / "files" / ref.path, ref.size)

    @contextlib.contextmanager
    def receiving(self, ref: FileRef, cancel: threading.Event) -> Iterator[None]:
        """Waits until no other thread receives the same bytes, and keeps others waiting until the end. What was missing
        before may be there then. Whoever is waited for has the deadline of a download.

        Raises:
            StepCancelledError: `cancel` was set.
        """
        with self._released:
            while ref.digest in self._received:
                if cancel.is_set():
                    raise StepCancelledError
                self._released.wait(_CANCEL_CHECK_S)
            self._received.add(ref.digest)
        try:
            yield
        finally:
            with self._released:
                self._received.discard(ref.digest)
                self._released.notify_all()

    def part(self, ref: FileRef) -> PartFile:
        """The file to receive a blob into, while it is held by `receiving`; `admit` it when it is checked."""
        part = PartFile(self._folder / "partial", ref)
        if os.path.lexists(part.path) and (part.path.is_symlink() or not part.path.is_file()):
            delete(part.path)
        return part

    def admit(self, part: PartFile, digest: Digest) -> None:
        """Moves a checked file into its artifact's staging folder."""
        _place(part, self._staging(digest) / "files" / part.ref.path, parents=True)

    def complete(self, variant: Variant, digest: Digest) -> None:
        """All files are admitted: the artifact gets its name."""
        staging, final = self._staging(digest), self.files(digest).parent
        with self._moving, disk_errors(final):
            if self.has(digest):
                return
            delete(final)  # what is left of it: its files are not there
            write_atomically(staging / "variant.json", variant.canonical(), mode=0o440)
            for folder in (*(path for path in staging.rglob("*") if path.is_dir()), staging):
                sync_folder(folder)
            staging.replace(final)
            sync_folder(final.parent)

    def has_golden(self, digest: Digest, ref: FileRef) -> bool:
        """Are the golden vectors there? `checked_golden` says whether they are right."""
        return is_plain(self._golden(digest, ref), ref.size)

    def admit_golden(self, part: PartFile, digest: Digest) -> None:
        """Moves checked golden vectors beside their artifact, which must be complete."""
        _place(part, self._golden(digest, part.ref), parents=False)

    def checked_golden(self, digest: Digest, ref: FileRef, cancel: threading.Event) -> Path:
        """Where the golden vectors are, every byte hashed.

        Raises:
            TransientError: digest_mismatch; they are set aside, so that they are pulled again.
            StepCancelledError: `cancel` was set.
        """
        path = self._golden(digest, ref)
        with disk_errors(path):
            right = is_right(path, ref, cancel)
        if not right:
            self._set_aside(path, ref)
            raise TransientError(
                DeploymentCode.DIGEST_MISMATCH, f"{path}: not the golden vectors that were published; set aside"
            )
        return path

    def verify(self, variant: Variant, digest: Digest, cancel: threading.Event, pace: Pace = lambda _: None) -> None:
        """Exactly the manifest's files, plain, with one link, and every byte as its digest says: all are read.

        Args:
            variant: Whose files they are.
            digest: Its digest.
            cancel: Ends it early.
            pace: Told how many bytes were read; may wait.

        Raises:
            TransientError: digest_mismatch; what is damaged is set aside, and the artifact is incomplete from then
                on, so that `missing` names what has to be pulled again.
            StepCancelledError: `cancel` was set.
        """
        folder = self.files(digest)
        with disk_errors(folder):
            odd, bad = unexpected_files(folder, variant), faulty(folder, variant, cancel, pace)
        if odd or bad:
            names = [*odd, *(ref.path for ref in bad)]
            self._unname(digest, odd, bad)
            raise TransientError(
                DeploymentCode.DIGEST_MISMATCH,
                f"{folder}: {', '.join(names[:4])} {'is' if len(names) == 1 else 'are'} not what was published; set "
                "aside, to be pulled again",
            )

    def used(self, digest: Digest) -> None:
        """It is the last to be evicted from now on. A disk that refuses this only changes that order."""
        with contextlib.suppress(OSError):
            os.utime(self.files(digest).parent)

    def _unname(self, digest: Digest, odd: Sequence[str], bad: Sequence[FileRef]) -> None:
        """The artifact is on its way again, without what is damaged."""
        staging, folder = self._staging(digest), self.files(digest)
        self.open()
        with self._moving:
            if not self.has(digest):
                return  # another thread found it damaged, too
            for path in odd:
                delete(folder / path)
            for ref in bad:
                self._set_aside(folder / ref.path, ref)
            with disk_errors(folder):
                delete(staging)
                folder.parent.replace(staging)
                sync_folder(staging.parent)
                sync_folder(folder.parents[1])

    def _set_aside(self, path: Path, ref: FileRef) -> None:
        """Out of the artifact; kept for somebody who wants to know what happened, when it is small."""
        self._damage.note("cache", f"{path}: not the bytes that were published (or not there); it is pulled again")
        if not is_plain(path, ref.size) or ref.size > MAX_DAMAGED_BYTES:
            delete(path)
            return
        with disk_errors(path):
            path.replace(self._folder / "damaged" / hex_of(ref.digest))
        self._bound_damaged(MAX_DAMAGED_FILES, MAX_DAMAGED_BYTES)

    def _bound_damaged(self, files: int, size: int) -> bool:
        """Drops the oldest of what is set aside until so much is left. Was there anything to drop?"""
        kept = [(path.lstat(), path) for path in (self._folder / "damaged").iterdir()]
        dropped = False
        for status, path in sorted(kept, key=lambda each: each[0].st_mtime, reverse=True):
            files, size = files - 1, size - status.st_size
            if files < 0 or size < 0:
                delete(path)
                dropped = True
        return dropped

    def sweep(self, keep: Set[Digest], manifests: Set[Digest], parts: Set[Digest]) -> None:
        """Removes what nobody needs: over the limit, or left behind by a kill."""
        self.open()
        for old in to_evict(self._cached(), keep, self._limit):
            self._remove(old)
        for folder, wanted in (("staging", keep), ("partial", parts), ("manifests", manifests)):
            names = {hex_of(digest) for digest in wanted}
            for path in (self._folder / folder).iterdir():
                if path.name.split(".")[0] not in names or path.name.endswith(".new"):
                    delete(path)

    def _cached(self) -> list[CachedArtifact]:
        artifacts: list[CachedArtifact] = []
        for folder in (self._folder / "artifacts").iterdir():
            if not _HEX_NAME.fullmatch(folder.name):
                delete(folder)
                continue
            size = sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_dir())
            artifacts.append(CachedArtifact("sha256:" + folder.name, size, folder.stat().st_mtime))
        return artifacts

    def _remove(self, digest: Digest) -> None:
        with self._moving:
            delete(self.files(digest).parent)

    def _staging(self, digest: Digest) -> Path:
        return self._folder / "staging" / hex_of(digest)

    def _golden(self, digest: Digest, ref: FileRef) -> Path:
        return self.files(digest).parent / "golden" / hex_of(ref.digest)

    def _manifest_file(self, digest: Digest) -> Path:
        return self._folder / "manifests" / f"{hex_of(digest)}.json"

    def _part_size(self, ref: FileRef) -> int:
        try:
            return min((self._folder / "partial" / f"{hex_of(ref.digest)}.part").stat().st_size, ref.size)
        except OSError:
            return 0


def _place(part: PartFile, target: Path, *, parents: bool) -> None:
    """A checked file gets its name."""
    with disk_errors(target):
        target.parent.mkdir(mode=0o700, parents=parents, exist_ok=True)
        part.path.replace(target)
        sync_folder(target.parent)
