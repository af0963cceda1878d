"""Inputs for a model that nobody has asked yet: what its publisher gave, zeros and other plain values to warm it up,
items that differ to see whether they mix.

The same every time. Standard library and NumPy only, Python 3.9 syntax.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np

from agent.backends.base import NUMPY_DTYPES, RAW

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from agent.backends.base import Array, BackendSession, TensorInfo

_GOLDEN_RATIO = 0.6180339887


def _zeros(tensor: TensorInfo, batch: int) -> Array:
    """A zero tensor for the model's input: `batch` for a leading dynamic dimension, 1 for any other."""
    shape = [1 if dim == -1 else dim for dim in tensor.shape]
    if tensor.shape and tensor.shape[0] == -1:
        shape[0] = batch
    if tensor.datatype == "BYTES":
        return np.full(shape, b"", dtype=object)
    return np.zeros(shape, NUMPY_DTYPES[tensor.datatype])


def zero_feeds(session: BackendSession, batch: int) -> dict[str, Array]:
    """A run of `batch` items of zeros, or of empty texts."""
    return {tensor.name: _zeros(tensor, batch) for tensor in session.inputs}


def read_samples(descriptor: int, cases: Sequence[Mapping[str, Sequence[Any]]]) -> list[dict[str, Array]]:
    """The requests of a file: of each case by input [datatype, shape, first byte, end]. Closes the descriptor."""
    try:
        return [{name: _read(descriptor, *span) for name, span in case.items()} for case in cases]
    finally:
        os.close(descriptor)


def _read(descriptor: int, datatype: str, shape: Sequence[int], begin: int, end: int) -> Array:
    return np.frombuffer(os.pread(descriptor, end - begin, begin), NUMPY_DTYPES[datatype]).reshape(shape)


def trial_feeds(session: BackendSession, given: Sequence[dict[str, Array]]) -> Iterator[dict[str, Array]]:
    """Requests to try one after the other until one runs: the publisher's, then values that are seldom out of range.

    Zero is no divisor, no step, no scale and no number of rows; one is no index into a single row.
    """
    yield from given
    yield zero_feeds(session, 1)
    for text, number in ((b"1", 1), (b"0", 2)):
        yield {tensor.name: _full(tensor, text, number) for tensor in session.inputs}
    yield {name: array[:1] for name, array in unlike_feeds(session, 1).items()}
    yield {tensor.name: _counted(tensor) for tensor in session.inputs}


def batch_of(feeds: dict[str, Array], count: int) -> dict[str, Array]:
    """`count` items along the first axis, each the first of these."""
    return {name: np.repeat(array[:1], count, axis=0) for name, array in feeds.items()}


def _full(tensor: TensorInfo, text: bytes, number: int) -> Array:
    array = _zeros(tensor, 1)
    if tensor.datatype == "BYTES":
        array.fill(text)
    elif tensor.datatype not in RAW:
        array.fill(number)
    elif tensor.datatype == "BF16":
        array.fill(0x3F80)
    return array


def _counted(tensor: TensorInfo) -> Array:
    """1, 2, 3, ...: sorted and without twins, as axes, splits and edges are."""
    array = _zeros(tensor, 1)
    if tensor.datatype == "BYTES" or tensor.datatype in RAW:
        return _full(tensor, b"2", 1)
    return (np.arange(array.size) % 100 + 1).reshape(array.shape).astype(array.dtype)


def unlike_feeds(session: BackendSession, count: int) -> dict[str, Array]:
    """`count` items along the first axis of every input, no two of them alike where the type has as many values.

    Small numbers, so that indices stay in range: fractions below 1 and 0s and 1s.
    """
    return {tensor.name: _unlike(tensor, count) for tensor in session.inputs}


def _unlike(tensor: TensorInfo, count: int) -> Array:
    shape = (count, *(1 if dim == -1 else dim for dim in tensor.shape[1:]))
    if tensor.datatype == "BYTES":
        texts = np.array([b"0", b"1", b"", b"a", b"10"], dtype=object)
        items = np.empty(shape, dtype=object)
        for number in range(count):
            items[number] = texts[number % len(texts)]
        return items
    spread = np.modf(np.arange(np.prod(shape, dtype=np.int64)) * _GOLDEN_RATIO)[0].reshape(shape)
    if tensor.datatype in ("FP16", "FP32", "FP64"):
        levels = (np.arange(count) + 1.0) / count  # items of unlike magnitude: what is taken over all of them differs
        return np.asarray(spread * levels.reshape(count, *[1] * (len(shape) - 1)), NUMPY_DTYPES[tensor.datatype])
    # The share of ones differs from item to item: a single element still alternates.
    steps = np.modf((np.arange(count) + 1) * _GOLDEN_RATIO)[0].reshape(count, *[1] * (len(shape) - 1))
    bits = spread < steps if spread[0].size > 1 else (np.arange(count) % 2).reshape(shape) == 1
    one = 0x3F80 if tensor.datatype == "BF16" else 1  # 1.0 in bfloat16
    return np.asarray(bits * np.uint16(one)).astype(NUMPY_DTYPES[tensor.datatype])
