"""Pictures to input tensors, as a manifest's `image` says. Needs NumPy and Pillow.

- JPEG and PNG only, known by their content; at most `max_pixels`; truncated or damaged ones are refused, never
  half decoded.
- EXIF orientation is applied: the model sees what a person sees. Alpha is dropped; 16-bit grey keeps its upper 8 bits.
- Resize is Pillow's filter of that name (with anti-aliasing when it shrinks), on 8-bit channels.
- value = (pixel * scale - mean) / std, in double precision, then rounded to the input's datatype; integer datatypes
  round to nearest and saturate.
"""

from __future__ import annotations

import io
from math import ceil

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from registry.pictures.bare import MAX_PIXELS, PictureError, bare, check_cost, check_whole_png
from registry.pictures.placement import placed
from registry.pictures.steps import DecodedPicture, PictureSteps, value_tables

_FORMATS = ("JPEG", "PNG")
_FILTERS = {kind.name.lower(): kind for kind in Image.Resampling}
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What turns a picture of that EXIF orientation upright."""


def decode(steps: PictureSteps, data: bytes) -> DecodedPicture:
    """The input tensor. Raises PictureError, MemoryError."""
    tables = value_tables(steps)
    pixels, size = _pixels(steps, data)
    if steps.channels == "L":
        return DecodedPicture(np.take(tables[0], pixels).tobytes(), size)
    if steps.channels == "BGR":
        pixels = pixels[..., ::-1]
    planes = [np.take(tables[channel], pixels[..., channel]) for channel in range(3)]
    return DecodedPicture(np.stack(planes, axis=0 if steps.layout == "NCHW" else 2).tobytes(), size)


def _pixels(steps: PictureSteps, data: bytes) -> tuple[NDArray[np.uint8], tuple[int, int]]:
    """[height, width] or [height, width, 3], resized; and the picture's own width and height."""
    found = bare(data)
    try:
        with Image.open(io.BytesIO(found.data), formats=_FORMATS) as image:
            check_cost(image.width, image.height, found.data, steps.max_pixels)
            size = image.size
            if steps.reduced and image.format == "JPEG":
                image.draft(image.mode, _needed(steps, image.size, turned=found.orientation >= 5))
            if image.format == "PNG" and (image.info.get("interlace") or not _last_row(image)):
                check_whole_png(found.data)
            turn = _TURNS.get(found.orientation)
            upright = image if turn is None else image.transpose(turn)
            whole = size[::-1] if found.orientation >= 5 else size
            fitted = _fit(steps, _eight_bit(upright, "L" if steps.channels == "L" else "RGB"), whole)
            return np.asarray(fitted), whole
    except (PictureError, MemoryError):
        raise
    except UnidentifiedImageError:
        raise PictureError(
            "the picture's header is damaged, or of a kind that is not decoded (no size, 12 bits)"
        ) from None
    except Exception as error:  # Pillow's decoders raise many kinds over damaged pictures.
        raise PictureError(f"the picture cannot be decoded: {type(error).__name__}: {str(error)[:200]}") from error


def _needed(steps: PictureSteps, size: tuple[int, int], *, turned: bool) -> tuple[int, int]:
    """The least width and height, as the file has them, from which the input is made by shrinking only."""
    width, height = size[::-1] if turned else size
    if steps.resize == "stretch":
        needed = steps.width, steps.height
    else:
        if steps.resize == "crop":
            ratio = steps.shorter_edge / min(width, height)
        else:
            ratio = min(steps.width / width, steps.height / height)
        needed = ceil(width * ratio), ceil(height * ratio)
    return needed[::-1] if turned else needed


def _last_row(image: Image.Image) -> bytes:
    """Its values; empty when all are 0, as they are, too, where nothing was decoded."""
    return image.crop((0, image.height - 1, image.width, image.height)).tobytes().strip(b"\0")


def _fit(steps: PictureSteps, image: Image.Image, whole: tuple[int, int]) -> Image.Image:
    """The picture at the input's size; `whole` is its size, of which `image` may be a fraction.

    Raises:
        PictureError: cropping it would need a picture of over MAX_PIXELS.
    """
    size = (steps.width, steps.height)
    place = placed(steps, whole)
    if steps.resize == "crop" and place.scaled[0] * place.scaled[1] > MAX_PIXELS:
        raise PictureError(f"a picture of {whole[0]}x{whole[1]} is too long and narrow to be cropped")
    scaled = image if image.size == place.scaled else image.resize(place.scaled, _FILTERS[steps.filter])
    if steps.resize == "crop":
        left, top = -place.offset[0], -place.offset[1]
        return scaled.crop((left, top, left + size[0], top + size[1]))
    if scaled.size == size:
        return scaled
    canvas = Image.new(image.mode, size, steps.pad_value if image.mode == "L" else (steps.pad_value,) * 3)
    canvas.paste(scaled, place.offset)
    return canvas


def _eight_bit(image: Image.Image, mode: str) -> Image.Image:
    if image.mode.startswith("I"):
        image = Image.fromarray((np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8))
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image if image.mode == mode else image.convert(mode)
