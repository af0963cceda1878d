"""A folder of pictures as a validation set: decoded as a version's manifest says, and as its devices do.

One folder for each class, called by its label or its number. The steps are those of `agent.dataplane.images`, which the
registry may not import; a test holds both to the same bytes. JPEG and PNG only.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from registry.cli.failures import CliError, UsageFault
from registry.cli.session import Session, split_reference
from registry.cli.versions import fetch_manifest, find_version
from registry.contracts.datasets import LABELS, MAX_DATASET_BYTES, MAX_ITEMS
from registry.contracts.manifest import ImageInput, Manifest
from registry.contracts.tensor_file import Tensor
from registry.contracts.tensors import ITEM_BYTES, NUMPY_NAME, Datatype
from registry.inspection.facts import InspectionError

MAX_PIXELS = 40_000_000
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
    decode = decoder_for(image, NUMPY_NAME[spec.datatype])
    arrays = [decode(path) for path, _ in files]
    labels = b"".join(label.to_bytes(4, "little") for _, label in files)
    return {
        f"in/{image.input}": Tensor(
            spec.datatype, (len(files), *arrays[0].shape), b"".join(array.tobytes() for array in arrays)
        ),
        LABELS: Tensor(Datatype.INT32, (len(files),), labels),
    }


def _files(folder: Path, manifest: Manifest) -> Iterator[tuple[Path, int]]:
    """Pictures with their classes, in the order of their names."""
    known = manifest.classification.labels if manifest.classification else ()
    folders = sorted(path for path in folder.iterdir() if path.is_dir())
    classes = folder_classes([inner.name for inner in folders], known)
    for inner in folders:
        yield from ((path, classes[inner.name]) for path in sorted(inner.iterdir()) if path.suffix.lower() in ENDINGS)


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


def decoder_for(image: ImageInput, held: str) -> Any:
    """A function from a file to the array of one item, of the NumPy type `held`. Raises CliError without Pillow."""
    try:
        import numpy as np  # noqa: PLC0415 - not a package of every command
        from PIL import Image, ImageOps  # noqa: PLC0415 - as above
    except ImportError as error:
        raise CliError(
            f"Pictures need {error.name}, which is not installed here", hint="pip install pillow numpy"
        ) from None
    channels = 1 if image.channels == "L" else 3
    mean = np.array(image.mean or (0.0,) * channels)
    std = np.array(image.std or (1.0,) * channels)

    def decode(path: Path) -> Any:
        try:
            with Image.open(path, formats=("JPEG", "PNG")) as opened:
                _demand_size(path, opened)
                whole = _eight_bit(ImageOps.exif_transpose(opened), "L" if channels == 1 else "RGB")
                pixels = np.asarray(_fit(whole, image)).reshape(image.height, image.width, channels)
        except InspectionError:
            raise
        except Exception as error:  # noqa: BLE001 - Pillow's decoders raise many kinds over damaged pictures.
            raise InspectionError(f"{path} cannot be decoded: {type(error).__name__}: {str(error)[:200]}") from None
        if image.channels == "BGR":
            pixels = pixels[..., ::-1]
        with np.errstate(over="ignore"):
            values = ((pixels.astype("<f8") * image.scale - mean) / std).astype(held)
        if not np.isfinite(values).all():
            raise InspectionError(f"{path}: scale, mean and std make values that {held[1:]} cannot hold")
        return np.ascontiguousarray(values.transpose(2, 0, 1) if image.layout == "NCHW" else values)

    return decode


def _demand_size(path: Path, opened: Any) -> None:
    if opened.width * opened.height > MAX_PIXELS:
        raise InspectionError(f"{path} has over {MAX_PIXELS} pixels")


def _eight_bit(picture: Any, mode: str) -> Any:
    import numpy as np  # noqa: PLC0415 - see decoder_for
    from PIL import Image  # noqa: PLC0415 - as above

    if picture.mode.startswith("I"):
        picture = Image.fromarray((np.asarray(picture).astype(np.uint32) >> 8).astype(np.uint8))
    if picture.mode == "P" and "transparency" in picture.info:
        picture = picture.convert("RGBA")
    return picture if picture.mode == mode else picture.convert(mode)


def _fit(picture: Any, image: ImageInput) -> Any:
    from PIL import Image  # noqa: PLC0415 - see decoder_for

    size = (image.width, image.height)
    if picture.size == size:
        return picture
    if image.resize == "stretch":
        return picture.resize(size, Image.Resampling.BILINEAR)
    ratio = min(size[0] / picture.width, size[1] / picture.height)
    inner = tuple(min(max(round(side * ratio), 1), limit) for side, limit in zip(picture.size, size, strict=True))
    canvas = Image.new(picture.mode, size, image.pad_value if picture.mode == "L" else (image.pad_value,) * 3)
    canvas.paste(picture.resize(inner, Image.Resampling.BILINEAR), (0, 0))
    return canvas
