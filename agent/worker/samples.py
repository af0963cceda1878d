"""Inputs for a model that nobody has asked yet: zeros to warm it up, items that differ to see whether they mix.

The same every time. Standard library and NumPy only, Python 3.9 syntax.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from agent.backends.base import NUMPY_DTYPES
from agent.worker.runner import zeros

if TYPE_CHECKING:
    from agent.backends.base import Array, Session, TensorInfo

_GOLDEN_RATIO = 0.6180339887


def zero_feeds(session: Session, batch: int) -> dict[str, Array]:
    """A run of `batch` items of zeros, or of empty texts."""
    return {tensor.name: zeros(tensor, batch) for tensor in session.inputs}


def unlike_feeds(session: Session, count: int) -> dict[str, Array]:
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
