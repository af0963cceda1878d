"""A numerical probe of items that are said to be independent: it may veto joining, it never permits it.

Each sample item is run alone; then the same items run together in several ways, and each must give what it gave alone.
A few samples can show that items mix. They cannot show that items do not: that the manifest says.

What "the same" means: integers, booleans and texts bit for bit. Floats within ROUNDING of the largest magnitude in the
item (at least of 1), because kernels add in another order for another size; NaN and infinities at the same places.
Standard library and NumPy only, Python 3.9 syntax.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from agent.worker.samples import unlike_feeds, zero_feeds

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from agent.backends.base import Array, BackendSession

ROUNDING = {"FP64": 1e-9, "FP32": 1e-4, "FP16": 1e-2, "BF16": 3e-2}
_UNLIKE = 4


def veto(session: BackendSession, cap: int) -> str:
    """Why requests must not be joined, by trying up to `cap` items together; empty: nothing was seen against it."""
    unlike, zero = unlike_feeds(session, _UNLIKE), zero_feeds(session, 1)
    items = [{name: array[at : at + 1] for name, array in unlike.items()} for at in range(_UNLIKE)] + [zero]
    names = [tensor.name for tensor in session.outputs]
    tried = [(item, _answer(session, item, names)) for item in items]
    able = [item for item, answer in tried if answer is not None]
    alone = [answer for _, answer in tried if answer is not None]
    for order in _orders(len(able), cap):
        why = _differs(session, names, order, able, alone)
        if why:
            return f"a trial run of {len(order)} items together {why}"
    return ""


def _answer(session: BackendSession, item: dict[str, Array], names: Sequence[str]) -> list[Array] | None:
    """None: a sample that is no valid request shows nothing."""
    try:
        return session.run(item, names)
    except Exception:  # noqa: BLE001 - whatever a vendor raises
        return None


def same(datatype: str, one: Array, other: Array) -> bool:
    """Are these two answers for the same item equal, as said above?"""
    if one.shape != other.shape:
        return False
    if datatype not in ROUNDING:
        return bool(np.array_equal(one, other))
    left, right = _numbers(datatype, one), _numbers(datatype, other)
    finite = np.isfinite(left) & np.isfinite(right)
    if not np.array_equal(left[~finite], right[~finite], equal_nan=True):
        return False
    scale = float(np.abs(right[finite]).max(initial=1.0))
    return bool((np.abs(left[finite] - right[finite]) <= ROUNDING[datatype] * scale).all())


def _orders(count: int, cap: int) -> list[list[int]]:
    """Which items run together: a pair, three, all, all backwards, twice the same, more than all of them."""
    every = list(range(count))
    tried = [every[:2], every[:3], every, every[::-1], every[:1] * 2, (every * 2)[: count + 2]]
    kept: list[list[int]] = []
    for order in tried:
        if 2 <= len(order) <= cap and order not in kept:
            kept.append(order)
    return kept


def _differs(
    session: BackendSession,
    names: Sequence[str],
    order: Sequence[int],
    items: Sequence[dict[str, Array]],
    alone: Sequence[list[Array]],
) -> str:
    feeds = {name: np.concatenate([items[at][name] for at in order]) for name in items[0]}
    try:
        together = session.run(feeds, names)
    except Exception as error:  # noqa: BLE001 - as above: what runs alone must run together
        return f"failed where each alone did not: {str(error)[:200]}"
    for index, (info, joint) in enumerate(zip(session.outputs, together)):
        if joint.shape[:1] != (len(order),):
            return f"gave output {info.name[:64]!r} with shape {list(joint.shape)}"
        for place, at in enumerate(order):
            if not same(info.datatype, joint[place : place + 1], alone[at][index]):
                return f"gave another {info.name[:64]!r} than each alone"
    return ""


def _numbers(datatype: str, array: Array) -> NDArray[np.float64]:
    """In double precision. BF16 comes as its 16 raw bits, the upper half of a float."""
    if datatype == "BF16":
        return (array.astype("<u4") << 16).view("<f4").astype(np.float64)
    return array.astype(np.float64)
