"""`registry dataset`: validation sets, which `registry evaluate` runs versions on.

A folder of pictures becomes one as well: a folder for each class, called by its label or its number; JPEG and PNG only,
decoded as a version's manifest says, and as its devices do (`registry.pictures`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from registry.cli.list_group import list_group
from registry.cli.listing import LimitOption, Listing, show_list, sort_option
from registry.cli.output import CliError, end_well, meter, short, time_text
from registry.cli.session import Session, command, confirm
from registry.client.errors import UsageFault
from registry.client.transfers import hash_file, upload
from registry.client.versions import fetch_manifest, find_version, split_reference
from registry.contracts.catalogue.manifest import ImageInput, Manifest
from registry.contracts.catalogue.picture_inputs import item_shape
from registry.contracts.evaluation import (
    LABELS,
    MAX_DATASET_BYTES,
    MAX_ITEMS,
    DatasetCreate,
    DatasetView,
    read_dataset,
    require_classes,
)
from registry.contracts.paths import blob_path, dataset_path, datasets_path
from registry.contracts.tensor_file import Tensor, TensorFileError, write_tensors
from registry.contracts.tensors import ITEM_BYTES, MAX_TENSORS, Datatype
from registry.contracts.texts import how_many, size_text
from registry.inspection.facts import InspectionError
from registry.installation import install_command
from registry.pictures.bare import PictureError

ENDINGS = (".jpg", ".jpeg", ".png")
FLOATS = (Datatype.FP16, Datatype.FP32, Datatype.FP64)


app = list_group("Manage validation sets: inputs with the right answers.")
SetName = Annotated[str, typer.Argument(metavar="NAME")]


def _row(view: DatasetView) -> tuple[object, ...]:
    tensors = ", ".join(spec.name for spec in view.tensors)
    return view.name, view.items, size_text(view.size), short(view.digest), time_text(view.created_at), tensors


_DATASETS = Listing(
    of=DatasetView,
    noun="validation set",
    columns=("DATASET", ">ITEMS", ">SIZE", "DIGEST", "PUBLISHED", "TENSORS"),
    row=_row,
    empty="No validation sets yet. Add one: registry dataset add NAME FILE.npz",
    optional=("DIGEST", "TENSORS"),
    orders={
        "name": lambda view: view.name,
        "items": lambda view: view.items,
        "size": lambda view: view.size,
        "published": lambda view: view.created_at,
    },
)


def picture_set(session: Session, folder: Path, like: str) -> dict[str, Tensor]:
    """The tensors of a validation set from `folder/<class>/<picture>`, for models like that version.

    Raises:
        CliError: Pillow is missing, or the folder has no pictures, too many, or folders that are no classes.
        InspectionError: a file is no picture.
    """
    manifest = fetch_manifest(session.client, find_version(session.client, *split_reference(like)))
    image = manifest.image
    if image is None:
        raise UsageFault(f"{like} does not say how pictures become its input", hint="Publish it with an [image] table")
    spec = next((spec for spec in manifest.variants[0].inputs if spec.name == image.input), None)
    if spec is None or spec.datatype not in FLOATS:
        raise UsageFault(f"The input {image.input!r} of {like} takes no floats; make an .npz instead")
    files = list(_files(folder, manifest))
    size = image.height * image.width * (1 if image.channels == "L" else 3) * ITEM_BYTES[spec.datatype]
    if not files or len(files) > MAX_ITEMS or size * len(files) > MAX_DATASET_BYTES:
        raise UsageFault(
            f"{folder} has {len(files)} pictures of {size} bytes each; 1 to {MAX_DATASET_BYTES} bytes are taken"
        )
    passed_over = _passed_over(folder)
    if passed_over:
        session.out.warn(
            f"{how_many(len(passed_over), 'file')} passed over, whose names do not end in {', '.join(ENDINGS)}: "
            f"{passed_over[0]}"
        )
    decode = decoder_for(image, spec.datatype)
    items = b"".join(decode(path) for path, _ in files)
    labels = b"".join(label.to_bytes(4, "little") for _, label in files)
    return {
        f"in/{image.input}": Tensor(spec.datatype, (len(files), *item_shape(image)), items),
        LABELS: Tensor(Datatype.INT32, (len(files),), labels),
    }


def _files(folder: Path, manifest: Manifest) -> Iterator[tuple[Path, int]]:
    """Pictures with their classes, in the order of their names."""
    known = manifest.classification.labels if manifest.classification else ()
    folders = sorted(path for path in folder.iterdir() if path.is_dir())
    classes = folder_classes([inner.name for inner in folders], known)
    for inner in folders:
        yield from ((path, classes[inner.name]) for path in sorted(inner.iterdir()) if path.suffix.lower() in ENDINGS)


def _passed_over(folder: Path) -> list[Path]:
    """What lies where pictures do and is not taken for one, less the hidden files of file managers."""
    inside = (path for inner in folder.iterdir() if inner.is_dir() for path in inner.iterdir())
    return sorted(path for path in inside if path.suffix.lower() not in ENDINGS and not path.name.startswith("."))


def folder_classes(names: Sequence[str], known: Sequence[str]) -> dict[str, int]:
    """Folder to class. Where every name is a label they are labels, where every name is a number they are numbers.

    Raises UsageFault for a name that is neither, or that could be two classes.
    """
    numbers = {name: int(name) for name in names if name.isascii() and name.isdecimal() and len(name) < 7}
    labelled = all(name in known for name in names)
    found: dict[str, int] = {}
    for name in names:
        could = {number for number, label in enumerate(known) if label == name}
        if name in numbers and not labelled:
            could = {numbers[name]} if len(numbers) == len(names) else could | {numbers[name]}
        if not could:
            raise UsageFault(f"The folder {name!r} is neither a label of the model nor the number of a class")
        if len(could) > 1:
            which = ", ".join(map(str, sorted(could)))
            raise UsageFault(f"The folder {name!r} could be class {which}", hint="Call all folders by their numbers")
        found[name] = could.pop()
    return found


def decoder_for(image: ImageInput, datatype: Datatype) -> Callable[[Path], bytes]:
    """A function from a file to the bytes of one item. It raises InspectionError. Raises CliError without Pillow."""
    try:
        from registry.pictures.decode import decode  # noqa: PLC0415 - Pillow is not a package of every command
        from registry.pictures.steps import steps_of, value_tables  # noqa: PLC0415 - nor is NumPy
    except ImportError as error:
        raise CliError(
            f"Pictures need {error.name}, which is not installed here", hint=install_command("publish")
        ) from None
    steps = steps_of(image, str(datatype))
    try:
        value_tables(steps)
    except ValueError as error:
        raise UsageFault(f"The image table of the version: {error}") from None

    def one(path: Path) -> bytes:
        try:
            return decode(steps, path.read_bytes()).data
        except (PictureError, OSError) as error:
            raise InspectionError(f"{path}: {error}") from None

    return one


@app.command("list")
@command
def list_datasets(
    session: Session,
    *,
    limit: LimitOption = None,
    sort: Annotated[str | None, sort_option(_DATASETS.orders, "name")] = None,
) -> None:
    """List the validation sets.

    ```
    registry dataset list --sort size
    registry dataset list --json
    ```
    """
    show_list(session, _DATASETS, datasets_path(), limit=limit, sort=sort)


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
    session.out.answer(view, f"Published {name}: {view.items} items, {size_text(view.size)} ({view.digest}).")


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
    session.out.answer({"removed": name}, f"Removed {name}.")


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
