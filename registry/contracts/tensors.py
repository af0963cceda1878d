"""The tensor types and limits of the Open Inference Protocol (KServe v2) as Modelfleet speaks it.

Source: https://kserve.github.io/website/docs/concepts/architecture/data-plane/v2-protocol and its
binary tensor data extension. Pure tables, and what raw bits stand for: codecs live with whoever encodes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from .enums import StrEnum

Array = Any
"""A `numpy.ndarray`: NumPy itself is not imported here."""


class Datatype(StrEnum):
    """The datatypes of the Open Inference Protocol, with BF16 and, as an extension of ours, the 8-bit floats of ONNX.

    Those are named as the standards that define them: OCP 8-bit Floating Point (E4M3FN, E5M2), the FNUZ forms of
    https://onnx.ai/onnx/technical/float8.html, and E8M0 of OCP Microscaling Formats.
    """

    BOOL = "BOOL"
    """One byte, 0 or 1."""
    UINT8 = "UINT8"
    """Unsigned, 1 byte."""
    UINT16 = "UINT16"
    """Unsigned, 2 bytes."""
    UINT32 = "UINT32"
    """Unsigned, 4 bytes."""
    UINT64 = "UINT64"
    """Unsigned, 8 bytes."""
    INT8 = "INT8"
    """Signed, 1 byte."""
    INT16 = "INT16"
    """Signed, 2 bytes."""
    INT32 = "INT32"
    """Signed, 4 bytes."""
    INT64 = "INT64"
    """Signed, 8 bytes."""
    FP16 = "FP16"
    """IEEE 754 half precision, 2 bytes."""
    FP32 = "FP32"
    """IEEE 754 single precision, 4 bytes."""
    FP64 = "FP64"
    """IEEE 754 double precision, 8 bytes."""
    BF16 = "BF16"
    """The upper half of an FP32, 2 bytes."""
    FP8E4M3FN = "FP8E4M3FN"
    """1 byte: 4 bits exponent, 3 bits fraction, no infinity."""
    FP8E4M3FNUZ = "FP8E4M3FNUZ"
    """1 byte: as FP8E4M3FN, without a negative zero."""
    FP8E5M2 = "FP8E5M2"
    """1 byte: 5 bits exponent, 2 bits fraction, with infinities."""
    FP8E5M2FNUZ = "FP8E5M2FNUZ"
    """1 byte: as FP8E5M2, without infinities and without a negative zero."""
    FP8E8M0 = "FP8E8M0"
    """1 byte: a power of two, a scale without sign and fraction."""
    BYTES = "BYTES"
    """Any bytes: each element is a u32 little-endian length and so many bytes."""


FLOAT8 = frozenset({Datatype.FP8E4M3FN, Datatype.FP8E4M3FNUZ, Datatype.FP8E5M2, Datatype.FP8E5M2FNUZ, Datatype.FP8E8M0})
"""One byte an element. A value is taken and given as a number in JSON, as its byte in binary tensors."""
RAW = FLOAT8 | {Datatype.BF16}
"""NumPy has no type for them: they are held as their raw bits."""


NUMPY_NAME: dict[Datatype, str] = {
    Datatype.BOOL: "|b1",
    Datatype.UINT8: "|u1",
    Datatype.UINT16: "<u2",
    Datatype.UINT32: "<u4",
    Datatype.UINT64: "<u8",
    Datatype.INT8: "|i1",
    Datatype.INT16: "<i2",
    Datatype.INT32: "<i4",
    Datatype.INT64: "<i8",
    Datatype.FP16: "<f2",
    Datatype.FP32: "<f4",
    Datatype.FP64: "<f8",
    Datatype.BF16: "<u2",
    **dict.fromkeys(sorted(FLOAT8), "|u1"),
}
"""How the bytes of a datatype are held in NumPy. Those of RAW are held as their raw bits. BYTES has no fixed size."""

ITEM_BYTES: dict[Datatype, int] = {name: int(code[2:]) for name, code in NUMPY_NAME.items()}
"""Bytes per element on the wire (little-endian, row-major)."""

HEADER_LENGTH_PROPERTY = "inference-header-content-length"
"""MQTT 5 user property with the decimal length of the JSON header of a binary payload (HTTP's
`Inference-Header-Content-Length`, as OIP's binary extension names it)."""

BINARY_MAGIC = b"OIPB"
"""A payload may carry its header length itself, for MQTT 3.1.1: magic, u32 little-endian length, header, tensors."""

CONTENT_JSON = "application/json"
CONTENT_BINARY = "application/octet-stream"
CONTENT_IMAGES = ("image/jpeg", "image/png")

MAX_HEADER_BYTES = 256 << 10
"""The longest JSON header of a binary payload: MAX_TENSORS inputs take 150 KiB."""
MAX_JSON_BYTES = 16 << 20
"""The longest JSON request; bigger tensors belong in binary."""
MAX_TENSORS = 1024
"""Inputs or outputs of a model."""
MAX_NAME = 4096
"""Characters of a tensor's name."""
MAX_NAMES_BYTES = 48 << 10
"""Of all names of a model's inputs, and of its outputs, as JSON has them: a request's header may name each once."""
MAX_RANK = 8
"""Dimensions of a tensor."""
MAX_ELEMENTS = 1 << 31
"""Elements of a tensor."""
MAX_BYTES_ELEMENTS = 1 << 16
"""Of a BYTES tensor: an agent walks their lengths one by one (about 0.1 us each)."""


def numbers(datatype: Datatype, array: Array) -> Array:
    """The array in double precision. BF16 comes as its 16 raw bits, which are the upper half of a float; 8-bit floats
    as their bytes."""
    if datatype is Datatype.BF16:
        return (array.astype("<u4") << 16).view("<f4").astype("<f8")
    if datatype in _FLOAT8:
        return _float8(_FLOAT8[datatype], array.astype("<i4"))
    return array.astype("<f8")


class _Float8(NamedTuple):
    """An 8-bit float: a sign, an exponent, a mantissa. Sources: see `Datatype`."""

    mantissa: int
    """Bits."""
    bias: int
    special: Mapping[int, float]
    """By byte: NaN and infinities."""


_NAN = float("nan")
_INFINITY = float("inf")
_FLOAT8 = {
    Datatype.FP8E4M3FN: _Float8(3, 7, dict.fromkeys((0x7F, 0xFF), _NAN)),
    Datatype.FP8E4M3FNUZ: _Float8(3, 8, {0x80: _NAN}),
    Datatype.FP8E5M2: _Float8(
        2, 15, {0x7C: _INFINITY, 0xFC: -_INFINITY, **dict.fromkeys((0x7D, 0x7E, 0x7F, 0xFD, 0xFE, 0xFF), _NAN)}
    ),
    Datatype.FP8E5M2FNUZ: _Float8(2, 16, {0x80: _NAN}),
    Datatype.FP8E8M0: _Float8(0, 127, {0xFF: _NAN}),
}


def _float8(form: _Float8, array: Array) -> Array:
    """E8M0 has neither sign nor mantissa nor zero: it is a power of two."""
    bits = array.reshape(-1)
    signed = form.mantissa > 0
    rest = bits & 0x7F if signed else bits
    exponent = rest >> form.mantissa
    fraction = (rest & ((1 << form.mantissa) - 1)).astype("<f8") / (1 << form.mantissa)
    values = (1 + fraction) * 2.0 ** (exponent - form.bias).astype("<f8")
    if signed:
        subnormal = exponent == 0
        values[subnormal] = fraction[subnormal] * 2.0 ** (1 - form.bias)
        values = values * (1 - 2.0 * (bits >> 7))
    for byte, value in form.special.items():
        values[bits == byte] = value
    return values.reshape(array.shape)
