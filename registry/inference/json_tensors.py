"""Tensor data as JSON arrays, to bytes and back.

In: flat or nested in the tensor's own shape. Numbers must fit the datatype: no overflow, no rounding of integers.
FP16, BF16 and 8-bit floats are taken and given as numbers too, rounded to nearest. BYTES are strings, as UTF-8.
A tensor of no dimensions may stand without brackets.
Out: flat, row-major.
NaN and infinities of floating-point tensors stand in both directions as the tokens that Triton Inference Server reads
and writes, although JSON has none: NaN, Infinity, -Infinity; Inf, -Inf and -NaN are read, too. (Its TritonJson parses
with RapidJSON's kParseNanAndInfFlag and writes with kWriteNanAndInfFlag.)
The number of commas is compared with the shape before anything is built, so an array is never larger than its tensor.
"""

from __future__ import annotations

import re
import struct
from functools import cache
from hashlib import blake2b
from math import inf, isnan, nan, prod
from typing import Annotated, Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from registry.contracts.codes import InferenceCode
from registry.contracts.tensors import FLOAT8, NUMPY_NAME, RAW, Datatype, numbers
from registry.inference.errors import RequestError, quote
from registry.inference.packets import Buffer
from registry.inference.small_floats import to_bf16, to_float8

_FLOATS = FLOAT8 | {Datatype.FP16, Datatype.FP32, Datatype.FP64, Datatype.BF16}
_LENGTH = struct.Struct("<I")
MAX_DATA_NESTING_BYTES = 1 << 16
"""An empty tensor's `data` is brackets only, and no longer than this."""
_TOKENS = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*(?:"|\\?\Z)|-?(?:NaN|Infinity|Inf)', re.DOTALL)
"""A whole string (or one that never ends), or a token. Linear: a string is consumed once, whatever is in it."""
_SPECIAL = {b"NaN": nan, b"Infinity": inf, b"Inf": inf, b"-NaN": nan, b"-Infinity": -inf, b"-Inf": -inf}
_NONE = b""


class Marked(NamedTuple):
    """JSON in which each NaN and infinity has become a string, and what these strings begin with."""

    text: bytes
    mark: bytes


def mark_specials(text: Buffer) -> Marked | None:
    """The text as JSON proper; None when it has no token of NaN or infinity.

    The strings begin with a digest of the text, so that none of the text's own can be taken for one of them.
    """
    whole = bytes(text)
    if b"NaN" not in whole and b"Inf" not in whole:
        return None
    mark = blake2b(whole, digest_size=6).hexdigest().encode()
    marked = _TOKENS.sub(lambda m: m[0] if m[0][:1] == b'"' else b'"' + mark + m[0] + b'"', whole)
    return Marked(marked, mark)


def data_from_json(
    raw: bytes | memoryview, datatype: str, shape: tuple[int, ...], name: str, mark: bytes = _NONE
) -> bytes:
    """The tensor's bytes from the text of its `data` array; `mark` is that of `mark_specials`. Raises RequestError."""
    elements = prod(shape)
    text = bytes(raw)
    kind = Datatype(datatype)
    if elements == 0:
        if len(text) > MAX_DATA_NESTING_BYTES or text.strip(b"[], \t\r\n") or not text.startswith(b"["):
            raise _mismatch(name, 0, "something else")
        return b""
    if kind is not Datatype.BYTES and text.count(b",") + 1 != elements:
        raise _mismatch(name, elements, f"{text.count(b',') + 1}")
    depth = _depth(text)
    if depth not in (1, len(shape)):
        raise RequestError(
            InferenceCode.WRONG_SHAPE,
            f"input {quote(name)}: data must be a flat list or nested {len(shape)} deep, got nesting {depth}",
        )
    if mark and mark in text:
        if kind not in _FLOATS:
            raise RequestError(
                InferenceCode.WRONG_DATATYPE, f"input {quote(name)}: {kind} has no NaN and no infinity, data has one"
            )
        values = _specials(_decode(text, kind, depth, name, special=True), depth, mark.decode(), name)
    else:
        values = _decode(text, kind, depth, name)
    form = shape if depth != 1 else (elements,)
    if kind is Datatype.BYTES:
        return _pack_strings(_flatten(values, form, name) if depth else [values])
    return _pack_numbers(values, kind, form, name)


def _depth(text: bytes) -> int:
    """Leading brackets: how deep the array is nested, if it is regular."""
    opening = text[: len(text) - len(text.lstrip(b"[ \t\r\n"))]
    return opening.count(b"[")


def _decode(text: bytes, kind: Datatype, depth: int, name: str, *, special: bool = False) -> Any:
    try:
        return _decoder(kind, depth, special).decode(text)
    except (msgspec.DecodeError, RecursionError) as error:
        raise RequestError(
            InferenceCode.WRONG_DATATYPE, f"input {quote(name)}: expected {kind} values in data: {quote(str(error))}"
        ) from None


def _specials(values: Any, depth: int, mark: str, name: str) -> Any:
    """Nested lists of numbers, with what stands for NaN and infinities. Raises RequestError for any other string."""
    if depth:
        return [_specials(inner, depth - 1, mark, name) for inner in values]
    if not isinstance(values, str):
        return values
    found = _SPECIAL.get(values.removeprefix(mark).encode()) if values.startswith(mark) else None
    if found is None:
        raise RequestError(InferenceCode.WRONG_DATATYPE, f"input {quote(name)}: expected numbers, got {quote(values)}")
    return found


@cache
def _decoder(kind: Datatype, depth: int, special: bool) -> msgspec.json.Decoder[Any]:
    """At most datatypes x MAX_RANK x 2 of them."""
    if kind in _FLOATS:
        element: Any = float | str if special else float
    elif kind is Datatype.BOOL:
        element = bool
    elif kind is Datatype.BYTES:
        element = str
    else:  # the range is checked here: older NumPy wraps what does not fit
        bounds = np.iinfo(NUMPY_NAME[kind])
        largest = int(bounds.max) if kind is not Datatype.UINT64 else None  # over what can be said here: NumPy refuses
        element = Annotated[int, msgspec.Meta(ge=int(bounds.min), le=largest)]
    for _ in range(depth):
        element = list[element]
    return msgspec.json.Decoder(element)


def _flatten(values: list[Any], shape: tuple[int, ...], name: str) -> list[str]:
    """Row-major; each list must be as long as its dimension says."""
    if len(values) != shape[0]:
        raise _mismatch(name, prod(shape), f"{len(values)} in the outermost list")
    for dimension in shape[1:]:
        if any(len(inner) != dimension for inner in values):
            raise _mismatch(name, prod(shape), "an array of another shape")
        values = [item for inner in values for item in inner]
    return values


def _pack_strings(values: list[str]) -> bytes:
    pieces: list[bytes] = []
    for value in values:
        encoded = value.encode()
        pieces += (_LENGTH.pack(len(encoded)), encoded)
    return b"".join(pieces)


def _pack_numbers(values: Any, kind: Datatype, shape: tuple[int, ...], name: str) -> bytes:
    held = "<f4" if kind is Datatype.BF16 else "<f8" if kind in FLOAT8 else NUMPY_NAME[kind]
    try:
        with np.errstate(over="ignore"):
            array: NDArray[Any] = np.array(values, dtype=held)
    except (OverflowError, ValueError) as error:
        raise RequestError(
            InferenceCode.WRONG_DATATYPE, f"input {quote(name)}: data does not make {kind}: {quote(str(error))}"
        ) from None
    if array.shape != shape:
        raise _mismatch(name, prod(shape), f"shape {list(array.shape)}")
    held_finite = np.isfinite(array) if kind in _FLOATS else None
    if kind is Datatype.BF16:
        array = to_bf16(array)
        held_finite = (array & 0x7F80) != 0x7F80
    elif kind in FLOAT8:
        array = to_float8(kind, array)
        held_finite = np.isfinite(numbers(kind, array))
    if held_finite is not None and not held_finite.all():
        given = np.asarray(values, np.float64)
        lost = np.isfinite(given) & ~held_finite
        if lost.any():
            fault = "cannot be held by" if kind is Datatype.FP8E8M0 else "is too large for"
            raise RequestError(InferenceCode.WRONG_DATATYPE, f"input {quote(name)}: {given[lost][0]:g} {fault} {kind}")
        if kind in FLOAT8 and not _same_specials(given, numbers(kind, array)):
            raise RequestError(InferenceCode.WRONG_DATATYPE, f"input {quote(name)}: {kind} has no infinity")
    return array.tobytes()


def _same_specials(given: NDArray[Any], held: NDArray[Any]) -> bool:
    """Infinities stayed what they are."""
    infinite = np.isinf(given)
    return bool((given[infinite] == held[infinite]).all())


def data_to_json(data: Buffer, datatype: str, name: str) -> bytes:
    """The text of a flat `data` array. Raises RequestError when BYTES are not UTF-8."""
    if datatype == Datatype.BYTES:
        return _strings_to_json(data, name)
    kind = Datatype(datatype)
    array = np.frombuffer(data, NUMPY_NAME[kind])
    if kind in RAW:
        array = numbers(kind, array)
    text = msgspec.json.encode(array.tolist())
    if datatype not in _FLOATS:
        return text
    finite = np.isfinite(array)
    return text if finite.all() else _with_specials(text, array[~finite])


def _with_specials(text: bytes, specials: NDArray[Any]) -> bytes:
    """The encoder writes null for what JSON cannot say: each becomes its token, in order."""
    pieces = text.split(b"null")
    tokens = [b"NaN" if isnan(value) else b"Infinity" if value > 0 else b"-Infinity" for value in specials.tolist()]
    return pieces[0] + b"".join(token + piece for token, piece in zip(tokens, pieces[1:], strict=True))


def _strings_to_json(data: Buffer, name: str) -> bytes:
    view = memoryview(data)
    values: list[str] = []
    at = 0
    try:
        while at < len(view):
            (length,) = _LENGTH.unpack_from(view, at)
            values.append(str(view[at + 4 : at + 4 + length], "utf-8"))
            at += 4 + length
    except (struct.error, UnicodeDecodeError) as error:
        raise RequestError(
            InferenceCode.RUN_FAILED,
            f"output {quote(name)} cannot stand in JSON ({quote(str(error))}): ask for it with binary_data",
        ) from None
    return msgspec.json.encode(values)


def _mismatch(name: str, expected: int, got: str) -> RequestError:
    return RequestError(
        InferenceCode.SIZE_MISMATCH, f"input {quote(name)}: expected {expected} elements in data, got {got}"
    )
