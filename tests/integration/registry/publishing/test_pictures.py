"""A validation set made of pictures has the bytes that a device makes of the same pictures."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from agent.pictures.process import PictureProcesses
from registry.cli.catalogue.datasets import decoder_for, folder_classes
from registry.client.errors import UsageFault
from registry.contracts.catalogue.manifest import ImageInput
from registry.contracts.tensors import NUMPY_NAME, Datatype
from registry.inspection.facts import InspectionError
from registry.pictures.steps import steps_of
from tests.support.paths import LENET_FOLDER
from tests.support.programs.cli import Cli
from tests.support.programs.registry_process import RegistryProcess


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Grey, colour, alpha, palette, 16 bit, turned by EXIF; PNG and JPEG."""
    folder = tmp_path_factory.mktemp("pictures")
    random = np.random.default_rng(1)
    colour = Image.fromarray(random.integers(0, 256, (11, 17, 3), np.uint8))
    turned = Image.Exif()
    turned[0x0112] = 6
    colour.save(folder / "colour.png")
    colour.convert("L").save(folder / "grey.png")
    colour.convert("RGBA").save(folder / "alpha.png")
    colour.convert("P").save(folder / "palette.png", transparency=0)
    colour.save(folder / "turned.jpg", exif=turned)
    Image.fromarray(random.integers(0, 65536, (9, 9)).astype(np.uint16)).save(folder / "deep.png")
    return sorted(folder.iterdir())


def by_hand(picture: Path, declared: ImageInput) -> np.ndarray[Any, Any]:
    """What the manifest's `image` means, once more with Pillow's own helpers: [height, width, channels], FP64."""
    image = ImageOps.exif_transpose(Image.open(picture))
    if image.mode.startswith("I"):
        image = Image.fromarray((np.asarray(image) // 256).astype(np.uint8))
    image = image.convert("RGBA").convert("L" if declared.channels == "L" else "RGB")
    if declared.resize == "stretch":
        image = image.resize((declared.width, declared.height), Image.Resampling.BILINEAR)
    else:
        scale = min(declared.width / image.width, declared.height / image.height)
        inner = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BILINEAR)
        image = Image.new(image.mode, (declared.width, declared.height), (declared.pad_value,) * len(image.getbands()))
        image.paste(inner, (0, 0))
    pixels = np.asarray(image, np.float64).reshape(declared.height, declared.width, -1)
    pixels = pixels[..., ::-1] if declared.channels == "BGR" else pixels
    return (pixels * declared.scale - np.array(declared.mean)) / np.array(declared.std)


@pytest.fixture(scope="module")
def device() -> Iterator[PictureProcesses]:
    """The processes in which a device decodes."""
    processes = PictureProcesses()
    yield processes
    processes.close()


@pytest.mark.parametrize(
    ("channels", "layout", "resize"), list(itertools.product(("L", "RGB", "BGR"), ("NCHW", "NHWC"), ("stretch", "pad")))
)
def test_publisher_and_device_make_the_bytes_that_the_manifest_means(
    pictures: list[Path], device: PictureProcesses, channels: str, layout: str, resize: str
) -> None:
    count = 1 if channels == "L" else 3
    declared = ImageInput.model_validate(
        {
            "input": "x",
            "height": 8,
            "width": 10,
            "channels": channels,
            "layout": layout,
            "resize": resize,
            "pad_value": 7,
            "mean": [0.485, 0.456, 0.406][:count],
            "std": [0.229, 0.224, 0.225][:count],
        }
    )
    for datatype in (Datatype.FP16, Datatype.FP32, Datatype.FP64):
        here = decoder_for(declared, datatype)
        for file in pictures:
            values = by_hand(file, declared).astype(NUMPY_NAME[datatype])
            expected = (values.transpose(2, 0, 1) if layout == "NCHW" else values).tobytes()
            assert here(file) == expected, file.name
            assert device.decode(steps_of(declared, datatype), file.read_bytes()).data == expected, file.name


def test_what_is_no_picture_is_refused(tmp_path: Path) -> None:
    decode = decoder_for(ImageInput(input="x", height=8, width=8), Datatype.FP32)
    whole = tmp_path / "whole.png"
    Image.new("RGB", (50, 50), (1, 2, 3)).save(whole)
    for name, content in (("a.png", b"no picture"), ("b.png", whole.read_bytes()[:60]), ("c.png", b"")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InspectionError, match=name):
            decode(tmp_path / name)


@pytest.mark.parametrize(
    ("names", "labels", "classes"),
    [
        (("cat", "dog"), ("cat", "dog"), (0, 1)),
        (("0", "2"), ("cat", "dog", "cat"), (0, 2)),
        (("1", "2", "3"), ("1", "2", "3"), (0, 1, 2)),
        (("0", "1"), ("1", "2", "3"), (0, 1)),
        (("1", "cat"), ("cat", "dog"), (1, 0)),
    ],
)
def test_a_folder_is_called_by_its_label_or_its_number(
    names: tuple[str, ...], labels: tuple[str, ...], classes: tuple[int, ...]
) -> None:
    assert folder_classes(names, labels) == dict(zip(names, classes, strict=True))


@pytest.mark.parametrize(
    ("names", "labels", "says"),
    [
        (("crane", "dog"), ("crane", "dog", "crane"), "could be class 0, 2"),
        (("2", "0", "cat"), ("2", "cat", "dog"), "'2' could be class 0, 2"),
        (("bird",), ("cat", "dog"), "neither a label"),
    ],
)
def test_a_folder_that_could_be_two_classes_is_refused(
    names: tuple[str, ...], labels: tuple[str, ...], says: str
) -> None:
    with pytest.raises(UsageFault, match=says):
        folder_classes(names, labels)


def test_a_folder_of_digits_becomes_a_validation_set_that_lenet_reads(server: RegistryProcess, tmp_path: Path) -> None:
    cli = Cli(tmp_path, server.url, server.admin_token)
    cli("publish", LENET_FOLDER / "lenet.toml")
    folder = tmp_path / "digits"
    for file in sorted((LENET_FOLDER / "digits").glob("*.png")):
        inner = folder / file.stem.split("-")[1]
        inner.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, inner)
    cli("dataset", "add", "digits", folder, code=2)
    (folder / "7" / "seven.webp").touch()
    (folder / "7" / ".DS_Store").touch()
    ran = cli("dataset", "add", "digits", folder, "--like", "lenet@1.0.0", "--json")
    added = ran.document
    assert "1 file passed over" in ran.err
    assert "seven.webp" in ran.err
    (folder / "8" / "eight.png").write_bytes(b"no picture")
    assert "eight.png" in cli("dataset", "add", "spoilt", folder, "--like", "lenet@1.0.0", code=1).err
    (folder / "8" / "eight.png").unlink()
    (score,) = cli("evaluate", "lenet@1.0.0", "--dataset", "digits", "--json").document
    assert (score["value"], score["items"]) == (1.0, added["items"])
    (folder / "elephant").mkdir()
    refused = cli("dataset", "add", "others", folder, "--like", "lenet@1.0.0", code=2)
    assert "'elephant' is neither a label" in refused.err
    shutil.rmtree(folder)
    folder.mkdir()
    assert "0 pictures" in cli("dataset", "add", "none", folder, "--like", "lenet@1.0.0", code=2).err
