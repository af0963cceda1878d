"""`registry pull`: the files of a version."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from registry.cli.output import meter
from registry.cli.session import Session, command
from registry.cli.withdrawn import warn_withdrawn
from registry.client.errors import ClientError
from registry.client.transfers import choose_variants, download
from registry.client.transfers import pull as pull_files
from registry.client.versions import fetch_manifest, find_usable, split_reference
from registry.contracts.catalogue.manifest import FileRef, Target
from registry.contracts.texts import size_text

_HINTS = {
    "conflict": "Choose another directory with -o, or remove that file.",
    "insufficient_disk": "Free space, or choose another directory with -o.",
}


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
    yanked: Annotated[bool, typer.Option("--yanked", help="Also a version that was yanked.")] = False,
) -> None:
    """Download a version's files. Files that are there already and intact are not downloaded again.

    The newest version is the newest that was neither yanked nor taken back by a rollout.

    ```
    registry pull lenet
    registry pull lenet@stable --target cpu -o models/lenet
    ```
    """
    view = find_usable(session.client, *split_reference(reference), allow_yanked=yanked, how="--yanked")
    warn_withdrawn(session.out, view)
    manifest = fetch_manifest(session.client, view)
    chosen = choose_variants(manifest, variant, target)
    directory = directory if directory is not None else Path(f"{view.model}-{view.version}")
    try:
        pulled = pull_files(
            session.client,
            manifest,
            chosen,
            directory,
            progress=lambda what, total, start: meter(what, total, quiet=session.out.as_json, start=start),
            note=session.out.note,
        )
    except ClientError as error:
        error.hint = _HINTS.get(error.code, error.hint)
        raise
    names = [variant.name for variant in chosen]
    told = {
        "model": view.model,
        "version": view.version,
        "digest": view.manifest,
        "directory": str(directory),
        "variants": names,
        "pulled_bytes": pulled,
    }
    name = f"{view.model}@{view.version} ({', '.join(names)})"
    session.out.answer(told, f"{name} is in {directory}: {size_text(pulled)} pulled, all verified.")


def bring(session: Session, file: FileRef, folder: Path) -> Path:
    """A blob of the registry at its path below `folder`, checked."""
    target = folder / file.path
    target.parent.mkdir(parents=True, exist_ok=True)
    with meter(f"pulling {file.path}", file.size, quiet=session.out.as_json) as at:
        download(session.client, file, target, at, session.out.note)
    return target
