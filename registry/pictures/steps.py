"""From a decoded picture to values: what a manifest's `image` says, as plain numbers. Needs NumPy."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from registry.contracts.catalogue.manifest import ImageInput

_HELD = {"FP16": "<f2", "FP32": "<f4", "FP64": "<f8", "BF16": "<f4"}
_INTEGERS = {"INT8": "|i1", "INT16": "<i2", "INT32": "<i4", "INT64": "<i8"}
_INTEGERS |= {"UINT8": "|u1", "UINT16": "<u2", "UINT32": "<u4", "UINT64": "<u8"}


class PictureSteps(NamedTuple):
    """The fields of a manifest's ImageInput, and the datatype of the tensor: what JSON carries to another process."""

    height: int
    width: int
    channels: Literal["L", "RGB", "BGR"]
    layout: Literal["NCHW", "NHWC"]
    resize: Literal["stretch", "pad", "letterbox", "crop"]
    pad_value: int
    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    datatype: str
    shorter_edge: int = 0
    """Of `crop` only."""
    filter: Literal["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"] = "bilinear"
    max_pixels: int = 40_000_000
    reduced: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one picture's tensor, without a batch dimension."""
        planes, size = (1 if self.channels == "L" else 3), (self.height, self.width)
        return (planes, *size) if self.layout == "NCHW" else (*size, planes)


class DecodedPicture(NamedTuple):
    """A picture as a model takes it."""

    data: bytes
    """Of the input tensor: `PictureSteps.shape`, `PictureSteps.datatype`."""
    size: tuple[int, int]
    """Width and height of the upright picture, before anything was scaled."""


def steps_of(image: ImageInput, datatype: str) -> PictureSteps:
    """What a manifest's `image` says, for an input of that datatype."""
    return PictureSteps(
        image.height,
        image.width,
        image.channels,
        image.layout,
        image.resize,
        image.pad_value,
        image.scale,
        tuple(image.mean),
        tuple(image.std),
        datatype,
        image.shorter_edge or max(image.height, image.width),
        image.filter,
        image.max_megapixels * 1_000_000,
        image.reduced,
    )


@lru_cache(maxsize=64)
def value_tables(steps: PictureSteps) -> NDArray[Any]:
    """[channels, 256]: the tensor's value for each pixel value. Raises ValueError: the datatype cannot hold them."""
    planes = 1 if steps.channels == "L" else 3
    mean = np.array(steps.mean or (0.0,) * planes)[:, None]
    std = np.array(steps.std or (1.0,) * planes)[:, None]
    with np.errstate(all="ignore"):
        values: NDArray[np.float64] = (np.arange(256.0)[None, :] * steps.scale - mean) / std
    if steps.datatype in _HELD:
        with np.errstate(all="ignore"):
            narrow: NDArray[Any] = values.astype(_HELD[steps.datatype])
        if not np.isfinite(narrow).all():
            raise ValueError(f"scale, mean and std make values that {steps.datatype} cannot hold")
        return _to_bf16(narrow) if steps.datatype == "BF16" else narrow
    if steps.datatype not in _INTEGERS:
        raise ValueError(f"a picture cannot become {steps.datatype}")
    if not np.isfinite(values).all():
        raise ValueError(f"scale, mean and std make values that {steps.datatype} cannot hold")
    held = np.dtype(_INTEGERS[steps.datatype])
    limits = np.iinfo(held)
    rounded = [[min(max(round(value), limits.min), limits.max) for value in row] for row in values.tolist()]
    return np.array(rounded, dtype=held)


def _to_bf16(array: NDArray[Any]) -> NDArray[Any]:
    """Finite FP32 to the upper 16 bits, rounded to nearest, ties to even."""
    bits = array.view("<u4").astype(np.uint64)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")
