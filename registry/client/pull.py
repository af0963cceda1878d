"""Brings the files of a version into a directory, each visible only when it is whole and has its digest.

`DIR/<variant>/<path>` for every file, the model card beside the variants, and `DIR/manifest.json` written last:
where it lies, everything is there. Unfinished bytes wait in `DIR/.partial/`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from registry.client.api import ApiClient
from registry.client.errors import ClientError
from registry.client.transfers import download, hash_file, ignore
from registry.contracts.catalogue.manifest import FileRef, Manifest, Target, Variant
from registry.contracts.texts import size_text
from registry.contracts.wire import hex_of

Progress = Callable[[str, int, int], AbstractContextManager[Callable[[int], None]]]
"""Entered while a file is read or fetched, with what is done (`pulling lenet.onnx`), its bytes and how many were there
before. It gives what is told the position in the file."""


def _silent(_what: str, _total: int, _start: int) -> AbstractContextManager[Callable[[int], None]]:
    return nullcontext(ignore)


def choose_variants(manifest: Manifest, name: str | None = None, target: Target | None = None) -> tuple[Variant, ...]:
    """The variants of a version with this name and for this target; None: any.

    Raises:
        ClientError: there is none (`not_found`).
    """
    chosen = tuple(v for v in manifest.variants if name in (None, v.name) and (target is None or v.target is target))
    if not chosen:
        have = ", ".join(f"{v.name} for {v.target}" for v in manifest.variants)
        raise ClientError(f"{manifest.model}@{manifest.version} has no such variant; it has: {have}", code="not_found")
    return chosen


def pull(
    client: ApiClient,
    manifest: Manifest,
    variants: Sequence[Variant],
    directory: Path,
    *,
    progress: Progress = _silent,
    note: Callable[[str], None] = ignore,
) -> int:
    """Bring the files of some variants of a version. What is in the directory already and is right is not fetched.

    Args:
        client: The registry.
        manifest: The version's.
        variants: Which of its variants.
        directory: Made where it is not there.
        progress: Shows how far it is.
        note: Told of every cut, in a sentence.

    Returns:
        The bytes that came over the network.

    Raises:
        ClientError: a file is there with other content (`conflict`), there is no room (`insufficient_disk`), the
            directory cannot be written (`disk_error`), or as `download`. What was fetched stays; the same call goes on.
    """
    places = [(directory / variant.name / file.path, file) for variant in variants for file in variant.files]
    if manifest.card is not None:
        places.append((directory / manifest.card.path, manifest.card))
    try:
        came = sum(_bring(client, directory, place, file, progress=progress, note=note) for place, file in places)
        _write_manifest(directory, manifest)
    except OSError as error:
        raise ClientError(
            f"{error.filename or directory} cannot be written: {error.strerror}",
            code="disk_error",
            hint="What was pulled stays; repeat the command to go on.",
        ) from error
    return came


def _bring(
    client: ApiClient, directory: Path, place: Path, file: FileRef, *, progress: Progress, note: Callable[[str], None]
) -> int:
    """One file to its place; the bytes that came over the network."""
    if place.exists() or place.is_symlink():
        if place.is_file() and place.stat().st_size == file.size:
            with progress(f"checking {place.name}", file.size, 0) as at:
                if hash_file(place, at).digest == file.digest:
                    return 0
        raise ClientError(
            f"{place} is there with other content and is not overwritten",
            code="conflict",
            hint="Choose another directory, or remove that file.",
        )
    partial = directory / ".partial" / hex_of(file.digest)
    partial.parent.mkdir(parents=True, exist_ok=True)
    place.parent.mkdir(parents=True, exist_ok=True)
    start = partial.stat().st_size if partial.exists() else 0
    _require_room(directory, file, file.size - start)
    with progress(f"pulling {place.name}", file.size, min(start, file.size)) as at:
        came = download(client, file, partial, at, note)
    partial.replace(place)
    _sync_directory(place.parent)
    return came


def _require_room(directory: Path, file: FileRef, missing: int) -> None:
    status = os.statvfs(directory)
    free = status.f_bavail * status.f_frsize
    if missing > free:
        raise ClientError(
            f"{file.path} needs {size_text(missing)} more, {directory} has {size_text(free)} free",
            code="insufficient_disk",
            hint="Free space, or choose another directory.",
        )


def _write_manifest(directory: Path, manifest: Manifest) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    unfinished = directory / ".manifest.json"
    with unfinished.open("wb") as out:
        out.write(manifest.canonical())
        out.flush()
        os.fsync(out.fileno())
    unfinished.replace(directory / "manifest.json")
    partial = directory / ".partial"
    if partial.is_dir() and not any(partial.iterdir()):
        partial.rmdir()
    _sync_directory(directory)


def _sync_directory(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
