"""What the processes of pictures do: a picture to the input tensor, or a detector's outputs to boxes. Needs NumPy."""

from __future__ import annotations

from typing import Any

from registry.pictures.bare import PictureError
from registry.pictures.decode import decode
from registry.pictures.detections import DetectionError, DetectionLimits, Part, RawOutput, Reading, detect
from registry.pictures.placement import Placement
from registry.pictures.steps import PictureSteps

RefusedError = (PictureError, DetectionError)
"""What `work` raises where the fault is the picture's, or the outputs'."""


def work(said: list[Any], body: bytes) -> tuple[bytes, tuple[int, int]]:
    """The answer, and of a picture its width and height.

    Args:
        said: [PictureSteps], or [Reading, Placement, DetectionLimits, outputs], as JSON gives them.
        body: The picture, or the outputs one after the other.
    """
    if len(said) == 1:
        found = decode(PictureSteps._make(map(_tuple, said[0])), body)
        return found.data, found.size
    reading, placement, limits, described = said
    outputs, at, view = {}, 0, memoryview(body)
    for name, datatype, shape, size in described:
        outputs[name] = RawOutput(datatype, tuple(shape), view[at : at + size])
        at += size
    parts = Reading._make(Part._make(value) if isinstance(value, list) else value for value in reading)
    boxes, scores, classes = detect(
        parts, outputs, Placement._make(map(_tuple, placement)), DetectionLimits._make(limits)
    )
    return boxes.tobytes() + scores.tobytes() + classes.tobytes(), (0, 0)


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
