"""The shape that a picture has as an input tensor, by what the manifest and the model say. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

from registry.contracts.catalogue.manifest import ImageInput


def item_shape(image: ImageInput) -> tuple[int, ...]:
    """Of one picture, without a batch dimension."""
    planes, size = (1 if image.channels == "L" else 3), (image.height, image.width)
    return (planes, *size) if image.layout == "NCHW" else (*size, planes)


def request_shape(item: Sequence[int], declared: Sequence[int]) -> tuple[int, ...] | None:
    """The shape of one picture for an input that is declared so; None: it does not fit.

    A model may have no batch dimension, or have it anywhere: dimensions of 1 or of any size may stand between those of
    the picture. Where more than one reading is possible, the picture's dimensions are the last ones.
    """
    for places in reversed(list(combinations(range(len(declared)), len(item)))):
        shape = [1] * len(declared)
        for place, dim in zip(places, item, strict=True):
            shape[place] = dim
        if all(want in (-1, got) for want, got in zip(declared, shape, strict=True)):
            return tuple(shape)
    return None
