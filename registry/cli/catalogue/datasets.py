"""`registry dataset`: validation sets, which `registry evaluate` runs versions on."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from registry.cli.catalogue.pictures import picture_set
from registry.cli.output import end_well, meter, short, time_text
from registry.cli.session import Session, command, confirm
from registry.client.errors import UsageFault
from registry.client.transfers import hash_file, upload
from registry.contracts.evaluation.datasets import (
    LABELS,
    MAX_DATASET_BYTES,
    DatasetCreate,
    DatasetView,
    read_dataset,
    require_classes,
)
from registry.contracts.paths import blob_path, dataset_path, datasets_path
from registry.contracts.tensor_file import Tensor, TensorFileError, write_tensors
from registry.contracts.tensors import MAX_TENSORS
from registry.contracts.texts import size_text

app = typer.Typer(
    invoke_without_command=True,
    rich_markup_mode="markdown",
    help="Manage validation sets: inputs with the right answers. Without a command: list them.",
)
SetName = Annotated[str, typer.Argument(metavar="NAME")]


@app.callback()
@command
def datasets(session: Session) -> None:
    """Manage validation sets: inputs with the right answers. Without a command: list them."""
    if session.subcommand is None:
        _list(session)


@app.command("list")
@command
def list_datasets(session: Session) -> None:
    """List the validation sets.

    ```
    registry dataset list --json
    ```
    """
    _list(session)


@app.command("add")
@command
def add(
    session: Session,
    name: SetName,
    source: Annotated[Path, typer.Argument(metavar="FILE|FOLDER", help=".npz, .safetensors, or a folder of pictures.")],
    *,
    like: Annotated[
        str | None,
        typer.Option("--like", metavar="MODEL@VERSION", help="Convert pictures by the [image] table of this version."),
    ] = None,
) -> None:
    """Publish a validation set; it never changes.

    An .npz or .safetensors file has the arrays `in/<input>`, [items, ...], and `labels`, the right class of each item,
    from 0; or `out/<output>`, the expected scores, for the metric `agreement`. A plain name stands for `in/<name>`,
    `y` for `labels`. A folder of pictures has a folder for each class, called by its label or its number.

    ```
    registry dataset add digits-test digits.npz
    registry dataset add signs-test pictures/ --like signs@1.0.0
    ```
    """
    end_well()
    if source.is_dir():
        if like is None:
            raise UsageFault(
                "Pictures need a version that says how to convert them", hint="Name it: --like MODEL@1.0.0"
            )
        tensors = picture_set(session, source, like)
    else:
        tensors = _given(source)
    with TemporaryDirectory(prefix="modelfleet-dataset-") as folder:
        view = _publish(session, name, tensors, Path(folder))
    if session.out.as_json:
        session.out.document(view)
    else:
        session.out.say(f"Published {name}: {view.items} items, {size_text(view.size)} ({view.digest}).")


@app.command("show")
@command
def show(session: Session, name: SetName) -> None:
    """Show what a validation set holds.

    ```
    registry dataset show digits-test
    ```
    """
    view = session.client.get(dataset_path(name), DatasetView)
    if session.out.as_json:
        session.out.document(view)
        return
    session.out.say(f"{view.name}: {view.items} items, {size_text(view.size)}, published {time_text(view.created_at)}")
    session.out.say(f"  digest    {view.digest}\n")
    session.out.table(
        ("TENSOR", "DATATYPE", "SHAPE"), ((s.name, s.datatype, list(s.shape)) for s in view.tensors), empty="Nothing."
    )


@app.command("remove")
@command
def remove(
    session: Session, name: SetName, yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False
) -> None:
    """Remove a validation set. The scores measured on it stay.

    ```
    registry dataset remove digits-test --yes
    ```
    """
    view = session.client.get(dataset_path(name), DatasetView)
    confirm(session, f"Remove the validation set {name} ({size_text(view.size)})? This cannot be undone.", yes=yes)
    session.client.send("DELETE", dataset_path(name))
    if session.out.as_json:
        session.out.document({"removed": name})
    else:
        session.out.say(f"Removed {name}.")


def _list(session: Session) -> None:
    found = session.client.items(datasets_path(), DatasetView)
    if session.out.as_json:
        session.out.document(found)
        return
    session.out.table(
        ("DATASET", ">ITEMS", ">SIZE", "TENSORS", "DIGEST", "PUBLISHED"),
        (
            (
                view.name,
                view.items,
                size_text(view.size),
                ", ".join(spec.name for spec in view.tensors),
                short(view.digest),
                time_text(view.created_at),
            )
            for view in found
        ),
        empty="No validation sets yet. Add one: registry dataset add NAME FILE.npz",
    )


def _given(source: Path) -> dict[str, Tensor]:
    from registry.inspection.arrays import load_tensors  # noqa: PLC0415 - needs NumPy

    tensors = load_tensors(source, MAX_DATASET_BYTES, 2 * MAX_TENSORS + 1)
    full = {_full_name(name): tensor for name, tensor in tensors.items()}
    if len(full) != len(tensors):
        names = ", ".join(sorted(tensors))
        raise UsageFault(
            f"{source.name} holds the same array twice: {names}", hint="`y` is `labels`, and `x` is `in/x`"
        )
    return full


def _full_name(name: str) -> str:
    if name in ("y", LABELS):
        return LABELS
    return name if name.startswith(("in/", "out/")) else f"in/{name}"


def _publish(session: Session, name: str, tensors: dict[str, Tensor], folder: Path) -> DatasetView:
    try:
        content = write_tensors(tensors)
        labels = read_dataset(content, len(content)).labels
        if labels is not None:
            require_classes(labels.datatype, content[labels.begin : labels.end])
    except TensorFileError as error:
        raise UsageFault(f"This is no validation set: {error}", hint="registry dataset add --help") from None
    path = folder / "dataset.safetensors"
    path.write_bytes(content)
    file = hash_file(path)
    if not session.client.exists(blob_path(file.digest)):
        with meter(f"sending {name}", file.size, quiet=session.out.as_json) as at:
            upload(session.client, file, at, session.out.note)
    body = DatasetCreate(digest=file.digest, size=file.size)
    return session.client.change("PUT", dataset_path(name), body, DatasetView, repeatable=True)
