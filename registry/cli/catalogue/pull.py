"""`registry pull`: a version's files, verified by digest, resumed after a cut, each visible only when it is whole.

`DIR/<variant>/<path>` for every file, the model card beside the variants, and `DIR/manifest.json` written last:
where it lies, everything is there. Unfinished bytes wait in `DIR/.partial/`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from registry.cli.failures import CliError
from registry.cli.output import size_text
from registry.cli.progress import meter
from registry.cli.session import Session, command
from registry.client.download import download
from registry.client.local_files import hash_file
from registry.client.references import split_reference
from registry.client.versions import fetch_manifest, find_version
from registry.contracts.catalogue.manifest import FileRef, Manifest, Target, Variant
from registry.contracts.digest import hex_of


@command
def pull(
    session: Session,
    reference: Annotated[str, typer.Argument(metavar="MODEL[@REF]", help="Without REF: the newest version.")],
    *,
    variant: Annotated[str | None, typer.Option("--variant", help="Only this variant.")] = None,
    target: Annotated[Target | None, typer.Option("--target", help="Only variants for this kind of platform.")] = None,
    directory: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="DIR", help="Default: ./MODEL-VERSION")
    ] = None,
) -> None:
    """Download a version's files. Files that are there already and intact are not downloaded again.

    ```
    registry pull lenet
    registry pull lenet@stable --target cpu -o models/lenet
    ```
    """
    model, wanted = split_reference(reference)
    view = find_version(session.client, model, wanted)
    manifest = fetch_manifest(session.client, view)
    chosen = _choose(manifest, variant, target)
    directory = directory if directory is not None else Path(f"{model}-{view.version}")
    pulled = 0
    try:
        for place, reference_ in _places(directory, manifest, chosen):
            pulled += _pull_file(session, directory, place, reference_)
        _write_manifest(directory, manifest)
    except OSError as error:
        raise CliError(
            f"{error.filename or directory} cannot be written: {error.strerror}",
            code="disk_error",
            hint="What was pulled stays; repeat the command to go on.",
        ) from error
    if session.out.as_json:
        told: dict[str, Any] = {"model": model, "version": view.version, "digest": view.manifest}
        told |= {"directory": str(directory), "variants": [v.name for v in chosen], "pulled_bytes": pulled}
        session.out.document(told)
    else:
        names = ", ".join(v.name for v in chosen)
        session.out.say(
            f"{model}@{view.version} ({names}) is in {directory}: {size_text(pulled)} pulled, all verified."
        )


def _choose(manifest: Manifest, name: str | None, target: Target | None) -> tuple[Variant, ...]:
    chosen = tuple(v for v in manifest.variants if name in (None, v.name) and (target is None or v.target is target))
    if not chosen:
        have = ", ".join(f"{v.name} for {v.target}" for v in manifest.variants)
        raise CliError(f"{manifest.model}@{manifest.version} has no such variant; it has: {have}", code="not_found")
    return chosen


def _places(directory: Path, manifest: Manifest, chosen: tuple[Variant, ...]) -> list[tuple[Path, FileRef]]:
    places = [(directory / variant.name / file.path, file) for variant in chosen for file in variant.files]
    if manifest.card is not None:
        places.append((directory / manifest.card.path, manifest.card))
    return places


def _pull_file(session: Session, directory: Path, place: Path, file: FileRef) -> int:
    """Bring one file to its place; returns the bytes that came over the wire."""
    if place.exists() or place.is_symlink():
        if place.is_file() and place.stat().st_size == file.size:
            with meter(f"checking {place.name}", file.size, quiet=session.out.as_json) as at:
                if hash_file(place, at).digest == file.digest:
                    return 0
        raise CliError(
            f"{place} is there with other content and is not overwritten",
            code="conflict",
            hint="Choose another directory with -o, or remove that file.",
        )
    partial = directory / ".partial" / hex_of(file.digest)
    partial.parent.mkdir(parents=True, exist_ok=True)
    place.parent.mkdir(parents=True, exist_ok=True)
    _require_room(directory, file, partial)
    start = min(partial.stat().st_size, file.size) if partial.exists() else 0
    with meter(f"pulling {place.name}", file.size, quiet=session.out.as_json, start=start) as at:
        came = download(session.client, file, partial, at, session.out.note)
    partial.replace(place)
    _sync_directory(place.parent)
    return came


def bring(session: Session, file: FileRef, folder: Path) -> Path:
    """A blob of the registry at its path below `folder`, checked."""
    target = folder / file.path
    target.parent.mkdir(parents=True, exist_ok=True)
    with meter(f"pulling {file.path}", file.size, quiet=session.out.as_json) as at:
        download(session.client, file, target, at, session.out.note)
    return target


def _require_room(directory: Path, file: FileRef, partial: Path) -> None:
    status = os.statvfs(directory)
    missing = file.size - (partial.stat().st_size if partial.exists() else 0)
    free = status.f_bavail * status.f_frsize
    if missing > free:
        raise CliError(
            f"{file.path} needs {size_text(missing)} more, {directory} has {size_text(free)} free",
            code="insufficient_disk",
            hint="Free space, or choose another directory with -o.",
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
