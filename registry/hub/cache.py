"""The files of variants on this machine: named by digest, checked by digest whenever they are used, bounded.

Below `$XDG_CACHE_HOME/modelfleet/hub` (default `~/.cache`): `artifacts/<variant's digest>/` holds a variant's files,
`partial/<blob's digest>` what is on its way, `answers/<question's digest>.json` which version a question named. A
folder under `artifacts` is made by one rename when it is whole, so processes may share the cache; one that is killed
leaves partial files, with which the next goes on. What was used longest ago goes first when the bound is passed.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from registry.client.errors import ClientError, UsageFault
from registry.client.transfers import hash_file
from registry.contracts.catalogue.manifest import FileRef, Variant
from registry.contracts.wire import hex_of

BOUND_VARIABLE = "MODELFLEET_HUB_CACHE_BYTES"
DEFAULT_BOUND = 20 << 30
POLL_S = 0.1
OLD_PART_S = 7 * 24 * 3600
MAX_ANSWERS = 1000
MAX_ANSWER_BYTES = 4 << 20

Fetch = Callable[[FileRef, Path], object]
"""Fills a file, which may hold a beginning, until it has the digest; durable then. Raises what the client raises."""


def default_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """Where the cache lies."""
    home = environment.get("XDG_CACHE_HOME") or Path(environment.get("HOME") or Path.home(), ".cache")
    return Path(home) / "modelfleet" / "hub"


def default_bound(environment: Mapping[str, str] = os.environ) -> int:
    """Bytes that the cache may hold. Raises UsageFault for what is no number."""
    said = environment.get(BOUND_VARIABLE) or str(DEFAULT_BOUND)
    if not said.isascii() or not said.isdigit():
        raise UsageFault(f"{BOUND_VARIABLE} is a number of bytes, not {said!r}")
    return int(said)


class Cache:
    """One folder.

    Args:
        folder: Made where it is not there.
        bound: Bytes of artifacts; the one that is wanted stays although it alone is larger.
        patience_s: How long another process may keep the cache to itself.
    """

    def __init__(self, folder: Path, bound: int, patience_s: float = 1800.0) -> None:
        self._folder, self._bound, self._patience_s = folder, bound, patience_s

    def artifact(self, variant: Variant, fetch: Fetch) -> Path:
        """The folder with the variant's files, every one with its digest; what lacks or is spoilt is fetched."""
        place = self._folder / "artifacts" / hex_of(variant.canonical_digest())
        with self._lock():
            if place.is_symlink() or not _is_whole(place, variant):
                self._bring(variant, place, fetch)
            os.utime(place)
            self._sweep(place)
        return place

    def answer(self, question: str) -> bytes | None:
        """What was kept for that question."""
        file = self._answer_file(question)
        try:
            if file.stat().st_size > MAX_ANSWER_BYTES:
                return None
            return file.read_bytes()
        except FileNotFoundError:
            return None

    def keep_answer(self, question: str, content: bytes) -> None:
        """For a later `answer` to the same question; the oldest goes when there are too many."""
        file = self._answer_file(question)
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=file.parent, delete=False) as out:
            out.write(content)
            out.flush()
            os.fsync(out.fileno())
        Path(out.name).replace(file)
        for old in sorted(file.parent.iterdir(), key=lambda path: -_used(path))[MAX_ANSWERS:]:
            old.unlink(missing_ok=True)

    def _answer_file(self, question: str) -> Path:
        return self._folder / "answers" / f"{hashlib.sha256(question.encode()).hexdigest()}.json"

    def _bring(self, variant: Variant, place: Path, fetch: Fetch) -> None:
        partial = self._folder / "partial"
        partial.mkdir(parents=True, exist_ok=True)
        place.parent.mkdir(parents=True, exist_ok=True)
        if place.is_symlink() or place.is_file():  # nothing of ours: a link is not followed
            place.unlink()
        shutil.rmtree(place, ignore_errors=True)
        with tempfile.TemporaryDirectory(dir=partial, prefix="whole-") as fresh:
            for file in variant.files:
                part = partial / hex_of(file.digest)
                fetch(file, part)
                target = Path(fresh) / file.path
                target.parent.mkdir(parents=True, exist_ok=True)
                part.replace(target)
            Path(fresh).rename(place)
            Path(fresh).mkdir()  # for TemporaryDirectory to remove

    def _sweep(self, keep: Path) -> None:
        """Down to the bound, the longest unused first; and parts that nobody went on with."""
        oldest_part = time.time() - OLD_PART_S
        for part in (self._folder / "partial").glob("*"):
            if _used(part) < oldest_part:
                shutil.rmtree(part) if part.is_dir() else part.unlink(missing_ok=True)
        artifacts = sorted((self._folder / "artifacts").iterdir(), key=_used)
        total = sum(_size(artifact) for artifact in artifacts)
        for artifact in artifacts:
            if total <= self._bound:
                return
            if artifact != keep:
                total -= _size(artifact)
                shutil.rmtree(artifact, ignore_errors=True)

    @contextmanager
    def _lock(self) -> Iterator[None]:
        """One process at a time brings or removes artifacts; another waits, as long as a download may take."""
        self._folder.mkdir(parents=True, exist_ok=True)
        deadline = time.monotonic() + self._patience_s
        with (self._folder / "lock").open("ab") as file:
            while not _locked(file):
                if time.monotonic() > deadline:
                    text = f"Another process has been using {self._folder} for {self._patience_s:.0f} s"
                    raise ClientError(text, code="busy", hint="Wait for its download, or set XDG_CACHE_HOME")
                time.sleep(POLL_S)
            yield


def _locked(file: IO[bytes]) -> bool:
    """Takes the lock; it goes when the file is closed, also by a crash."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_whole(place: Path, variant: Variant) -> bool:
    """Every file is there with its digest: it may have been changed since."""
    try:
        return all(hash_file(place / file.path).digest == file.digest for file in variant.files)
    except ClientError:  # it is not there, or cannot be read
        return False


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _used(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0
