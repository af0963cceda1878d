"""Non-maximum suppression: of boxes that cover the same object the best one stays. Needs NumPy.

Greedy, as torchvision's `nms`, ONNX's NonMaxSuppression-11 and Ultralytics' `non_max_suppression` do it: the best box
is kept, and those go whose intersection over union with it is larger than the threshold; one that equals it stays. So
on with the best of what is left. The cost is bounded: each box that is kept is compared with those that are left once.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


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
    areas = (corners[:, 2] - corners[:, 0]) * (corners[:, 3] - corners[:, 1])
    left = np.arange(len(corners))
    kept: list[int] = []
    while left.size and len(kept) < limit:
        best, left = int(left[0]), left[1:]
        kept.append(best)
        others = corners[left]
        low = np.maximum(others[:, :2], corners[best, :2])
        high = np.minimum(others[:, 2:], corners[best, 2:])
        sides = np.maximum(high - low, 0.0)
        common = sides[:, 0] * sides[:, 1]
        # Without a division: two boxes without an area have no union.
        covered = common > iou_threshold * (areas[best] + areas[left] - common)
        if classes is not None:
            covered &= classes[left] == classes[best]
        left = left[~covered]
    return np.array(kept, dtype=np.int64)
