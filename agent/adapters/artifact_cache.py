"""Artifacts on this device's disk, named by the digest of their variant.

    artifacts/<variant>/variant.json     the variant's canonical bytes: they have the digest in the folder's name
    artifacts/<variant>/files/<path>     plain files of mode 0440, one link each
    artifacts/<variant>/golden/<blob>    the version's golden vectors: they come and go with the variant
    staging/<variant>/...                the same, on its way: some files are there, others not yet
    partial/<blob>.part                  one file on its way
    manifests/<digest>.json              manifests as the registry sent them

Nothing gets a final name before it is whole, hashed and synced, and a file that lies under its final name is
still not trusted: `verify` hashes it before a worker opens it. A kill at any moment leaves only what the next start
uses or sweeps away.
"""

from __future__ import annotations

import os
import re
import shutil
import threading
from collections.abc import Callable, Set
from pathlib import Path

from agent.adapters.checked_files import content_fault, is_hashed, is_plain, layout_fault
from agent.adapters.durable import delete, disk_error, sync_folder, write_atomically
from agent.adapters.part_file import PartFile
from agent.core.retention import CachedArtifact, to_evict
from agent.errors import TransientError
from registry.contracts.codes import DeploymentCode
from registry.contracts.digest import Digest, digest_of, hex_of
from registry.contracts.manifest import MAX_MANIFEST_BYTES, FileRef, Variant

_HEX_NAME = re.compile(r"[0-9a-f]{64}")
DiskFree = Callable[[Path], int]


def disk_free(folder: Path) -> int:
    """Bytes that an unprivileged process may still write there."""
    return shutil.disk_usage(folder).free


class ArtifactCache:
    """INVARIANT: `receive` and `admit` of one variant run in one thread at a time; the rest may run beside them."""

    def __init__(self, folder: Path, *, limit: int, reserve: int, free: DiskFree = disk_free) -> None:
        self._folder = folder
        self._limit = limit
        self._reserve = reserve
        self._free = free
        self._known: set[Digest] = set()
        """Variants whose every byte this process has hashed since it started."""

    def open(self) -> None:
        """Makes the folders.

        Raises:
            TransientError: the disk refuses.
        """
        try:
            for name in ("artifacts", "staging", "partial", "manifests"):
                (self._folder / name).mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise disk_error(error, self._folder) from error

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
        """Keeps the bytes of a manifest under their digest."""
        write_atomically(self._manifest_file(digest_of(data)), data, mode=0o440)

    def outstanding(self, variant: Variant, digest: Digest) -> int:
        """Bytes of the artifact that have still to come."""
        return sum(ref.size - self._part_size(ref) for ref in self.missing(variant, digest))

    def make_room(self, variant: Variant, digest: Digest, keep: Set[Digest], extra: int = 0) -> None:
        """Evicts what may go until the artifact, and `extra` bytes beside it, fit into limit and disk.

        Raises:
            TransientError: insufficient_disk, with what is needed and what there is.
        """
        need = self.outstanding(variant, digest) + extra
        for old in to_evict(self._cached(), keep | {digest}, self._limit, need):
            self._remove(old)
        while (have := self._free(self._folder) - self._reserve) < need:
            removable = to_evict(self._cached(), keep | {digest}, 0)
            if not removable:
                raise TransientError(
                    DeploymentCode.INSUFFICIENT_DISK,
                    f"{variant.name} needs {need} more bytes below {self._folder}, and {max(have, 0)} are free beyond "
                    f"the reserve of {self._reserve}: free some, or lower limits.disk_reserve",
                )
            self._remove(removable[0])

    def missing(self, variant: Variant, digest: Digest) -> list[FileRef]:
        """The files that have still to come."""
        if self.has(digest):
            return []
        staged = self._staging(digest) / "files"
        return [ref for ref in variant.files if not is_plain(staged / ref.path, ref.size)]

    def part(self, ref: FileRef) -> PartFile:
        """The file to receive a blob into; `admit` it when it is checked."""
        return PartFile(self._folder / "partial", ref)

    def admit(self, part: PartFile, digest: Digest) -> None:
        """Moves a checked file into its artifact's staging folder."""
        target = self._staging(digest) / "files" / part.ref.path
        try:
            target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            part.path.replace(target)
            sync_folder(target.parent)
        except OSError as error:
            raise disk_error(error, target) from error

    def complete(self, variant: Variant, digest: Digest) -> None:
        """All files are admitted: the artifact gets its name."""
        staging, final = self._staging(digest), self.files(digest).parent
        if self.has(digest):
            return
        try:
            write_atomically(staging / "variant.json", variant.canonical(), mode=0o440)
            for folder in (*(path for path in staging.rglob("*") if path.is_dir()), staging):
                sync_folder(folder)
            staging.replace(final)
            sync_folder(final.parent)
        except OSError as error:
            raise disk_error(error, final) from error

    def has_golden(self, digest: Digest, ref: FileRef) -> bool:
        """Are the golden vectors there? `checked_golden` says whether they are right."""
        return is_plain(self._golden(digest, ref), ref.size)

    def admit_golden(self, part: PartFile, digest: Digest) -> None:
        """Moves checked golden vectors beside their artifact, which must be complete."""
        target = self._golden(digest, part.ref)
        try:
            target.parent.mkdir(mode=0o700, exist_ok=True)
            part.path.replace(target)
            sync_folder(target.parent)
        except OSError as error:
            raise disk_error(error, target) from error

    def checked_golden(self, digest: Digest, ref: FileRef, cancel: threading.Event) -> Path:
        """Where the golden vectors are, every byte hashed.

        Raises:
            TransientError: digest_mismatch; they are thrown away, so that they are pulled again.
            StepCancelledError: `cancel` was set.
        """
        path = self._golden(digest, ref)
        try:
            whole = is_plain(path, ref.size) and is_hashed(path, ref, cancel)
        except OSError as error:
            raise disk_error(error, path) from error
        if not whole:
            delete(path)
            raise TransientError(
                DeploymentCode.DIGEST_MISMATCH, f"{path}: not the golden vectors that were published; thrown away"
            )
        return path

    def trust(self, digest: Digest) -> None:
        """Every byte was hashed on its way in: `verify` need not read the files again."""
        self._known.add(digest)

    def verify(self, variant: Variant, digest: Digest, cancel: threading.Event) -> None:
        """Exactly the manifest's files, plain, with one link, and every byte as its digest says.

        Raises:
            TransientError: digest_mismatch; the artifact is thrown away, so that it is pulled again.
            StepCancelledError: `cancel` was set.
        """
        folder = self.files(digest)
        try:
            wrong = layout_fault(folder, variant)
            if not wrong and digest not in self._known:
                wrong = content_fault(folder, variant, cancel)
        except OSError as error:
            raise disk_error(error, folder) from error
        if wrong:
            self._remove(digest)
            raise TransientError(DeploymentCode.DIGEST_MISMATCH, f"{folder}: {wrong}; thrown away, to be pulled again")
        self._known.add(digest)
        os.utime(folder.parent)

    def sweep(self, keep: Set[Digest], manifests: Set[Digest], parts: Set[Digest]) -> int:
        """Removes what nobody needs: over the limit, or left behind by a kill. Says how many things it removed."""
        removed = 0
        for old in to_evict(self._cached(), keep, self._limit):
            self._remove(old)
            removed += 1
        for folder, wanted in (("staging", keep), ("partial", parts), ("manifests", manifests)):
            names = {hex_of(digest) for digest in wanted}
            for path in (self._folder / folder).iterdir():
                if path.name.split(".")[0] not in names or path.name.endswith(".new"):
                    delete(path)
                    removed += 1
        return removed

    def _cached(self) -> list[CachedArtifact]:
        artifacts: list[CachedArtifact] = []
        for folder in (self._folder / "artifacts").iterdir():
            if not _HEX_NAME.fullmatch(folder.name):
                delete(folder)
                continue
            size = sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_dir())
            digest = "sha256:" + folder.name
            artifacts.append(CachedArtifact(digest=digest, size=size, used_at=folder.stat().st_mtime))
        return artifacts

    def _remove(self, digest: Digest) -> None:
        self._known.discard(digest)
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
