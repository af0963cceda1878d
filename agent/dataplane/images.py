"""Pictures to input tensors, as the manifest's `image` says.

- JPEG and PNG only, known by their content whatever the content type says; at most MAX_PIXELS; truncated or
  damaged ones are refused (`bad_image`), never half decoded.
- EXIF orientation is applied: the model sees what a person sees. Alpha is dropped; 16-bit grey keeps its upper 8 bits.
- Resize is Pillow's bilinear filter (with anti-aliasing when it shrinks), on 8-bit channels.
- value = (pixel * scale - mean) / std, in double precision, then rounded to the input's datatype; integer datatypes
  round to nearest and saturate.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from agent.dataplane.codec_json import to_bf16
from agent.dataplane.plan import Buffer, RequestError, quote
from registry.contracts.codes import InferenceCode
from registry.contracts.manifest import ImageInput, TensorSpec
from registry.contracts.tensors import NUMPY_NAME, Datatype

MAX_PIXELS = 40_000_000
"""Of a picture before it is resized: 120 MB as RGB."""
_BEGINNINGS = ((b"\xff\xd8\xff", "image/jpeg"), (b"\x89PNG\r\n\x1a\n", "image/png"))
_HELD = {Datatype.FP16: "<f2", Datatype.FP32: "<f4", Datatype.FP64: "<f8", Datatype.BF16: "<f4"}
_FORMATS = ("JPEG", "PNG")


def sniff(payload: Buffer) -> str:
    """The content type of a picture by its first bytes; empty when it is none that is taken."""
    start = bytes(payload[:8])
    return next((kind for magic, kind in _BEGINNINGS if start.startswith(magic)), "")


class ImageDecoder:
    """Makes the input tensor of one active worker from a picture. Thread-safe: it holds only tables."""

    def __init__(self, declared: ImageInput, spec: TensorSpec) -> None:
        """Raises ValueError when the declaration does not fit the input."""
        self._declared = declared
        self.datatype = str(spec.datatype)
        self._planar = declared.layout == "NCHW"
        self._channels = 1 if declared.channels == "L" else 3
        size = (declared.height, declared.width)
        item: tuple[int, ...] = (self._channels, *size) if self._planar else (*size, self._channels)
        shape = (1, *item) if len(spec.shape) == 4 else item
        if len(shape) != len(spec.shape) or any(w not in (-1, g) for w, g in zip(spec.shape, shape, strict=True)):
            raise ValueError(f"a picture makes shape {list(shape)}, input {spec.name!r} has {list(spec.shape)}")
        self.shape = shape
        self._tables = self._value_tables(spec.datatype)

    def _value_tables(self, datatype: Datatype) -> NDArray[Any]:
        """[channels, 256]: the tensor's value for each pixel value."""
        if datatype in (Datatype.BOOL, Datatype.BYTES):
            raise ValueError(f"a picture cannot become {datatype}")
        mean = np.array(self._declared.mean or (0.0,) * self._channels)[:, None]
        std = np.array(self._declared.std or (1.0,) * self._channels)[:, None]
        with np.errstate(all="ignore"):
            values: NDArray[np.float64] = (np.arange(256.0)[None, :] * self._declared.scale - mean) / std
            narrow = values.astype(_HELD.get(datatype, "<f8"))
        if not np.isfinite(narrow).all():
            raise ValueError(f"scale, mean and std make values that {datatype} cannot hold")
        if datatype is Datatype.BF16:
            return to_bf16(narrow)
        if datatype in _HELD:
            return narrow
        held = np.dtype(NUMPY_NAME[datatype])
        limits = np.iinfo(held)
        rounded = [[min(max(round(value), limits.min), limits.max) for value in row] for row in values.tolist()]
        return np.array(rounded, dtype=held)

    def decode(self, data: Buffer) -> bytes:
        """The bytes of the input tensor (`shape`, `datatype`). Raises RequestError `bad_image`."""
        if not sniff(data):
            raise RequestError(
                InferenceCode.BAD_IMAGE, f"expected a JPEG or PNG, got {len(data)} bytes: {quote(bytes(data[:8]))}"
            )
        pixels = self._pixels(data)
        if self._channels == 1:
            return np.take(self._tables[0], pixels).tobytes()
        if self._declared.channels == "BGR":
            pixels = pixels[..., ::-1]
        planes = [np.take(self._tables[channel], pixels[..., channel]) for channel in range(3)]
        return np.stack(planes, axis=0 if self._planar else 2).tobytes()

    def _pixels(self, data: Buffer) -> NDArray[np.uint8]:
        """[height, width] or [height, width, 3], resized."""
        try:
            with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
                _check_pixels(image)
                return np.asarray(self._fit(_eight_bit(ImageOps.exif_transpose(image), self._mode)))
        except RequestError:
            raise
        except Exception as error:  # Pillow's decoders raise many kinds over damaged pictures.
            raise RequestError(
                InferenceCode.BAD_IMAGE, f"the picture cannot be decoded: {type(error).__name__}: {quote(str(error))}"
            ) from error

    @property
    def _mode(self) -> str:
        return "L" if self._channels == 1 else "RGB"

    def _fit(self, image: Image.Image) -> Image.Image:
        size = (self._declared.width, self._declared.height)
        if image.size == size:
            return image
        if self._declared.resize == "stretch":
            return image.resize(size, Image.Resampling.BILINEAR)
        ratio = min(size[0] / image.width, size[1] / image.height)
        inner = tuple(min(max(round(side * ratio), 1), limit) for side, limit in zip(image.size, size, strict=True))
        fill = (self._declared.pad_value,) * self._channels
        canvas = Image.new(self._mode, size, fill if self._channels > 1 else fill[0])
        canvas.paste(image.resize((inner[0], inner[1]), Image.Resampling.BILINEAR), (0, 0))
        return canvas


def _check_pixels(image: Image.Image) -> None:
    if image.width * image.height > MAX_PIXELS:
        raise RequestError(
            InferenceCode.BAD_IMAGE, f"expected at most {MAX_PIXELS} pixels, got {image.width} x {image.height}"
        )


def _eight_bit(image: Image.Image, mode: str) -> Image.Image:
    if image.mode.startswith("I"):
        image = Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8))
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image if image.mode == mode else image.convert(mode)
