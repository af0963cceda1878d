"""Asks the registry which version is meant, and brings a variant's files into a cache on this machine.

URL and token are found as for the `registry` command: MODELFLEET_REGISTRY and MODELFLEET_TOKEN, else this host's
registry. What fails is a `HubError`.

The cache's files are named by digest, checked by digest whenever they are used, and bounded. It lies below
`$XDG_CACHE_HOME/modelfleet/hub` (default `~/.cache`): `artifacts/<variant's digest>/` holds a variant's files,
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
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO

from pydantic import ValidationError

from registry.client.address import find_address
from registry.client.api import ApiClient
from registry.client.errors import ClientError, ProblemError, UsageFault, action_of
from registry.client.transfers import download, hash_file
from registry.client.versions import fetch_manifest, find_usable
from registry.contracts.api.versions import ModelView, VersionView
from registry.contracts.catalogue.manifest import FileRef, Manifest, Variant
from registry.contracts.codes import ProblemCode
from registry.contracts.paths import models_path, versions_path
from registry.contracts.wire import canonical_json, hex_of
from registry.errors import RegistryError

BOUND_VARIABLE = "MODELFLEET_HUB_CACHE_BYTES"
DEFAULT_BOUND = 20 << 30
POLL_S = 0.1
OLD_PART_S = 7 * 24 * 3600
MAX_ANSWERS = 1000
MAX_ANSWER_BYTES = 4 << 20

Fetch = Callable[[FileRef, Path], object]
"""Fills a file, which may hold a beginning, until it has the digest; durable then. Raises what the client raises."""


DATASET_LABEL = "dataset"
"""The label of a version, or an alias of the model, that says what it was trained on."""
MAX_SEARCHED = 100
"""Newest versions in which a dataset is looked for."""


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


class HubError(Exception):
    """What could not be done, and why.

    Args:
        code: Stable, for programs: `not_found`, `unreachable`, `digest_mismatch`, `checkpoint_mismatch`, ...
        message: One sentence or a few.
        hint: What to do about it. Empty: what the table of the code says.
    """

    def __init__(self, code: str, message: str, hint: str = "") -> None:
        super().__init__(f"{message}. {hint}" if hint else message)
        self.code = code
        self.message = message
        self.hint = hint or action_of(code)


@contextmanager
def as_hub_errors() -> Iterator[None]:
    """What the registry's client raises becomes a HubError with the same code."""
    try:
        yield
    except ClientError as error:
        raise HubError(error.code, "; ".join((error.what, *error.errors)), error.hint) from error
    except RegistryError as error:
        raise HubError(error.code, "; ".join((error.message, *error.errors))) from error
    except OSError as error:
        hint = "Free space, or set XDG_CACHE_HOME or MODELFLEET_HUB_CACHE_BYTES"
        raise HubError("disk_error", f"{error.filename or 'the cache'}: {error.strerror}", hint) from error


@dataclass(frozen=True)
class Listed:
    """One published model."""

    name: str
    version: str
    """The newest; empty when it has none."""
    variants: tuple[str, ...]
    aliases: dict[str, str]
    """Alias to version."""


def list_models() -> list[Listed]:
    """The published models, by name. Raises HubError."""
    with opened() as source:
        return [_listed(model) for model in source.client.items(models_path(), ModelView)]


def require_text(**named: object) -> None:
    """Raises HubError for an argument that is no text; which texts are names, the client and the registry say."""
    for argument, value in named.items():
        if not isinstance(value, str):
            raise HubError("invalid", f"{argument} is text, not {value!r}")


@contextmanager
def opened() -> Iterator[Source]:
    """A source for one call; whatever the registry or the disk refuses is a HubError."""
    with as_hub_errors():
        address = find_address()
        try:
            with ApiClient(address) as client:
                yield Source(client, Cache(default_folder(), default_bound()))
        except ProblemError as error:
            if error.code == ProblemCode.UNAUTHORIZED:
                error.hint = address.hint or error.hint
            raise


class Source:
    """One registry and one cache."""

    def __init__(self, client: ApiClient, cache: Cache) -> None:
        self.client, self._cache = client, cache

    def manifest(
        self, model: str, reference: str | None, dataset: str | None, *, ask: bool = True, allow_yanked: bool = False
    ) -> Manifest:
        """The version that is meant: `reference` (a version or an alias), else the newest of that dataset.

        `ask` False: what an earlier call with the same question got, where there was one, without the registry.
        """
        require_text(model=model)
        if reference is not None:
            require_text(version=reference)
        asked = [self.client.address.url, model, reference, dataset, *(["yanked"] if allow_yanked else [])]
        question = canonical_json(asked).decode()
        kept = None if ask else self._cache.answer(question)
        if kept is not None:
            try:
                return Manifest.model_validate_json(kept)
            except ValidationError:
                pass  # spoilt, as a file in the cache may be: asked again
        found = self._named(model, reference, dataset, allow_yanked=allow_yanked)
        self._cache.keep_answer(question, found.canonical())
        return found

    def files(self, variant: Variant) -> Path:
        """The folder with the variant's verified files."""
        return self._cache.artifact(variant, partial(download, self.client))

    def _named(self, model: str, reference: str | None, dataset: str | None, *, allow_yanked: bool) -> Manifest:
        if reference is None and dataset is not None:
            return self._of_dataset(model, dataset)
        view = find_usable(self.client, model, reference, allow_yanked=allow_yanked, how="allow_yanked=True")
        manifest = fetch_manifest(self.client, view)
        if dataset is not None and not _is_of(manifest, view, dataset):
            said = manifest.labels.get(DATASET_LABEL, "no dataset")
            message = f"{model}@{view.version} says {said!r} of what it was trained on, not {dataset!r}"
            raise HubError(
                "dataset_mismatch", message, "Leave `version` or `dataset` out, or publish it with the label"
            )
        return manifest

    def _of_dataset(self, model: str, dataset: str) -> Manifest:
        views = self.client.items(versions_path(model), VersionView, limit=MAX_SEARCHED)
        views = [view for view in views if view.yanked is None and view.taken_back is None]
        for view in sorted(views, key=lambda view: view.created_at, reverse=True):
            manifest = fetch_manifest(self.client, view)
            if _is_of(manifest, view, dataset):
                return manifest
        hint = f"Publish it with --label {DATASET_LABEL}={dataset}, or point the alias {dataset} at a version"
        raise HubError("not_found", f"No version of {model} was trained on {dataset!r}", hint)


def _is_of(manifest: Manifest, view: VersionView, dataset: str) -> bool:
    return manifest.labels.get(DATASET_LABEL) == dataset or dataset in view.aliases


def _listed(model: ModelView) -> Listed:
    newest = model.latest
    variants = tuple(variant.name for variant in newest.variants) if newest else ()
    return Listed(model.name, newest.version if newest else "", variants, dict(model.aliases))
