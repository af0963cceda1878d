"""A folder of pictures as a validation set: decoded as a version's manifest says, and as its devices do.

One folder for each class, called by its label or its number. The steps are those of `registry.pictures`. JPEG and PNG
only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from registry.cli.output import CliError
from registry.cli.session import Session
from registry.client.errors import UsageFault
from registry.client.versions import fetch_manifest, find_version, split_reference
from registry.contracts.catalogue.manifest import ImageInput, Manifest
from registry.contracts.evaluation.datasets import LABELS, MAX_DATASET_BYTES, MAX_ITEMS
from registry.contracts.tensor_file import Tensor
from registry.contracts.tensors import ITEM_BYTES, Datatype
from registry.contracts.texts import how_many
from registry.core.picture_faults import picture_shape
from registry.inspection.facts import InspectionError
from registry.pictures.bare import PictureError

ENDINGS = (".jpg", ".jpeg", ".png")
FLOATS = (Datatype.FP16, Datatype.FP32, Datatype.FP64)


def picture_set(session: Session, folder: Path, like: str) -> dict[str, Tensor]:
    """The tensors of a validation set from `folder/<class>/<picture>`, for models like that version.

    Raises:
        CliError: Pillow is missing, or the folder has no pictures, too many, or folders that are no classes.
        InspectionError: a file is no picture.
    """
    model, version = split_reference(like)
    manifest = fetch_manifest(session.client, find_version(session.client, model, version))
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
        f"in/{image.input}": Tensor(spec.datatype, (len(files), *picture_shape(image)[1:]), items),
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
            f"Pictures need {error.name}, which is not installed here", hint="pip install pillow numpy"
        ) from None
    steps = steps_of(image, str(datatype))
    try:
        value_tables(steps)
    except ValueError as error:
        raise UsageFault(f"The image table of the version: {error}") from None

    def one(path: Path) -> bytes:
        try:
            return decode(steps, path.read_bytes())
        except (PictureError, OSError) as error:
            raise InspectionError(f"{path}: {error}") from None

    return one
