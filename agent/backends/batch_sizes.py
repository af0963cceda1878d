"""Batches in a few fixed sizes, for runtimes that plan again at each change of shape. Only for independent items.

A batch between two sizes is filled up with its last item, a longer one is cut into several, and what was added is
dropped. Standard library and NumPy only, Python 3.9 syntax.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from agent.backends.base import BackendError

if TYPE_CHECKING:
    from agent.backends.base import Array

Run = Callable[[int, "dict[str, Array]"], "list[Array]"]
"""A run of exactly so many items, with these inputs."""


def items_of(feeds: Mapping[str, Array], inputs: Sequence[str]) -> int:
    """How many items these inputs hold along their first axes; 0 when they do not agree or others are given."""
    if set(feeds) != set(inputs):
        return 0
    counts = {array.shape[0] if array.ndim else 0 for array in feeds.values()}
    return counts.pop() if len(counts) == 1 else 0


def run_in_sizes(run: Run, sizes: Sequence[int], feeds: Mapping[str, Array], count: int) -> list[Array]:
    """The outputs of `count` items, by runs of `sizes` (ascending) items each. Raises BackendError(run_failed)."""
    parts = [_part(run, sizes, feeds, start, min(sizes[-1], count - start)) for start in range(0, count, sizes[-1])]
    return parts[0] if len(parts) == 1 else [np.concatenate(arrays) for arrays in zip(*parts)]


def _part(run: Run, sizes: Sequence[int], feeds: Mapping[str, Array], start: int, count: int) -> list[Array]:
    size = next(size for size in sizes if size >= count)
    filled = {name: _filled(array[start : start + count], size) for name, array in feeds.items()}
    results = run(size, filled)
    for result in results:
        if result.shape[:1] != (size,):
            raise BackendError("run_failed", f"an output of {size} items came with shape {list(result.shape)}")
    return [result[:count] for result in results]


def _filled(items: Array, size: int) -> Array:
    missing = size - len(items)
    return np.concatenate([items, np.repeat(items[-1:], missing, axis=0)]) if missing else items
