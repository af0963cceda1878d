"""Non-maximum suppression: of boxes that cover the same object the best one stays. Needs NumPy.

Greedy, as torchvision's `nms`, ONNX's NonMaxSuppression-11 and Ultralytics' `non_max_suppression` do it: the best box
is kept, and those go whose intersection over union with it is larger than the threshold; one that equals it stays. So
on with the best of what is left. Boxes are looked at in blocks, the best first, until enough are kept: each is compared
with those that were kept, and with those of its block.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

BLOCK = 256


def suppress(
    boxes: NDArray[Any], classes: NDArray[np.int64] | None, iou_threshold: float, limit: int
) -> NDArray[np.int64]:
    """The indices of the boxes that stay, in their order.

    Args:
        boxes: [n, 4]: left, top, right, bottom; the best first.
        classes: [n]: only boxes of one class suppress each other. None: all do.
        iou_threshold: 0 to 1.
        limit: So many are looked for at most.
    """
    corners = boxes.astype("<f8")
    kept: list[int] = []
    for start in range(0, len(corners), BLOCK):
        block = np.arange(start, min(start + BLOCK, len(corners)))
        block = block[~_covered(corners, classes, np.array(kept, dtype=np.int64), block, iou_threshold).any(axis=0)]
        inside = _covered(corners, classes, block, block, iou_threshold)
        open_ = np.ones(len(block), dtype=bool)
        for place, index in enumerate(block.tolist()):
            if len(kept) == limit:
                return np.array(kept, dtype=np.int64)
            if open_[place]:
                kept.append(index)
                open_ &= ~inside[place]
    return np.array(kept, dtype=np.int64)


def _covered(
    corners: NDArray[np.float64],
    classes: NDArray[np.int64] | None,
    better: NDArray[np.int64],
    worse: NDArray[np.int64],
    iou_threshold: float,
) -> NDArray[np.bool_]:
    """[better, worse]: does the one suppress the other?"""
    one, other = corners[better][:, None], corners[worse][None]
    sides = np.maximum(np.minimum(one[..., 2:], other[..., 2:]) - np.maximum(one[..., :2], other[..., :2]), 0.0)
    common = sides[..., 0] * sides[..., 1]
    areas = [(box[..., 2] - box[..., 0]) * (box[..., 3] - box[..., 1]) for box in (one, other)]
    # Without a division: two boxes without an area have no union.
    covered: NDArray[np.bool_] = common > iou_threshold * (areas[0] + areas[1] - common)
    return covered if classes is None else covered & (classes[better][:, None] == classes[worse][None])
