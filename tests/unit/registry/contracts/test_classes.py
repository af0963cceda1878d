"""Which outputs hold scores of classes, and what a manifest may not say of them."""

from __future__ import annotations

import pytest

from registry.contracts.catalogue.classes import scores_fault, scores_of
from registry.contracts.catalogue.manifest import Classification, ImageInput, Manifest, TensorSpec
from registry.contracts.tensors import Datatype
from registry.core.publish_checks import picture_warnings, publish_faults
from tests.unit.registry.contracts.test_resolution import manifest, variant

Shape = tuple[int, ...]
PICTURES = TensorSpec(name="x", datatype=Datatype.FP32, shape=(-1, 3, 8, 8))
ONE_PICTURE = TensorSpec(name="x", datatype=Datatype.FP32, shape=(3, 8, 8))


def declared(labels: int) -> Classification:
    return Classification(output="y", labels=tuple(map(str, range(labels))))


@pytest.mark.parametrize(
    ("shape", "labels", "scores"),
    [
        ((4, 3), 3, (4, 3)), ((4, 3, 1, 1), 3, (4, 3)), ((4, 1, 3), 3, (4, 3)), ((4, 1, 1, 3), 3, (4, 3)),
        ((1, 3, 1), 3, (1, 3)), ((4, 1), 2, (4, 1)), ((4, 1, 1, 1), 2, (4, 1)), ((4,), 2, (4, 1)), ((4,), 1, (4, 1)),
        ((1,), 2, (1, 1)), ((3,), 3, (1, 3)), ((2,), 2, (1, 2)), ((), 2, None), ((4, 3, 2), 3, None),
        ((4, 3, 8, 8), 3, None),
    ],
)  # fmt: skip
def test_dimensions_of_one_beside_items_and_classes_do_not_matter(shape: Shape, labels: int, scores: Shape) -> None:
    assert scores_of(shape, labels) == scores


@pytest.mark.parametrize(
    ("shape", "labels"),
    [
        ((-1, 3), 3), ((-1, 3, 1, 1), 3), ((-1, -1), 3), ((-1, 3, -1, -1), 3), ((-1, -1, 1, 1), 3), ((1, 3), 3),
        ((3,), 3), ((-1, 1), 2), ((-1, 1), 1), ((-1, 1, 1, 1), 2), ((-1,), 2), ((-1,), 1), ((1,), 2), ((4, 2), 2),
    ],
)  # fmt: skip
def test_an_output_that_a_device_can_classify_has_no_fault(shape: Shape, labels: int) -> None:
    assert scores_fault(declared(labels), Datatype.FP32, shape, (PICTURES,)) == ""


@pytest.mark.parametrize(
    ("datatype", "shape", "labels", "says"),
    [
        ("FP32", (-1, 3), 2, "3 classes, and there are 2 labels"),
        ("FP32", (-1, 3), 4, "3 classes, and there are 4 labels"),
        ("FP32", (-1, 1001, 1, 1), 1000, "1001 classes, and there are 1000 labels"),
        ("FP32", (10,), 9, "10 classes, and there are 9 labels"),
        ("FP32", (-1, 3, 8, 8), 3, "scores are [N, classes]"),
        ("FP32", (), 2, "scores are [N, classes]"),
        ("FP32", (-1, 1), 3, "one number for each item"),
        ("FP32", (-1,), 10, "one number for each item"),
        ("FP32", (-1, 2), 1, "2 classes, and there are 1 labels"),
        ("INT64", (-1,), 2, "a class's number is no score"),
        ("INT64", (-1, 1), 2, "a class's number is no score"),
        ("BYTES", (-1, 3), 3, "scores are numbers"),
        ("BOOL", (-1, 3), 3, "scores are numbers"),
    ],
)
def test_an_output_that_a_device_cannot_classify_is_refused(
    datatype: str, shape: Shape, labels: int, says: str
) -> None:
    assert says in scores_fault(declared(labels), Datatype(datatype), shape, (PICTURES,))


def test_one_dimension_without_a_batch_is_not_guessed() -> None:
    assert "is that one item" in scores_fault(declared(2), Datatype.FP32, (-1,), (ONE_PICTURE,))


def with_forms(output: Shape, **said: object) -> Manifest:
    specs = {"inputs": (PICTURES,), "outputs": (TensorSpec(name="y", datatype=Datatype.FP32, shape=output),)}
    return manifest(variant("a").model_copy(update=specs)).model_copy(update=said)


def test_publishing_refuses_labels_that_are_not_the_models() -> None:
    assert publish_faults(with_forms((-1, 3, 1, 1), classification=declared(3))) == ()
    (fault,) = publish_faults(with_forms((-1, 3, 1, 1), classification=declared(4)))
    assert "output 'y' has 3 classes, and there are 4 labels" in fault
    (fault,) = publish_faults(with_forms((-1, 3), classification=declared(3).model_copy(update={"output": "scores"})))
    assert "no output 'scores'" in fault


@pytest.mark.parametrize(
    ("image", "says"),
    [
        ({"height": 8, "width": 8}, ""),
        (
            {"height": 9, "width": 8},
            "makes [3, 9, 8], with any dimensions of 1, and input 'x' is [-1, 3, 8, 8]",
        ),
        ({"height": 8, "width": 8, "channels": "L"}, "a picture makes [1, 8, 8]"),
        ({"height": 8, "width": 8, "layout": "NHWC"}, "a picture makes [8, 8, 3]"),
        ({"height": 8, "width": 8, "input": "z"}, "there is no input 'z'"),
        ({"height": 8, "width": 8, "std": (1e-39, 1, 1)}, "that FP32 cannot hold"),
    ],
)
def test_publishing_refuses_pictures_that_a_device_would_refuse(image: dict[str, object], says: str) -> None:
    said = ImageInput.model_validate({"input": "x", **image})
    faults = publish_faults(with_forms((-1, 3), image=said))
    assert len(faults) == bool(says)
    assert says in "".join(faults)


def test_pixels_that_are_rounded_away_are_warned_of() -> None:
    bytes_in = TensorSpec(name="x", datatype=Datatype.UINT8, shape=(-1, 3, 8, 8))
    one = variant("a").model_copy(update={"inputs": (bytes_in,)})
    image = ImageInput(input="x", height=8, width=8)
    (warning,) = picture_warnings(manifest(one).model_copy(update={"image": image}))
    assert "scale = 1" in warning
    assert picture_warnings(manifest(one).model_copy(update={"image": image.model_copy(update={"scale": 1.0})})) == ()
