"""Where a picture lies in the input tensor: the geometry of `resize`, in one place for pixels and boxes. Pure.

A picture's own pixels are those of the upright picture, as a viewer shows it: after its EXIF orientation. Coordinates
are continuous: the left edge of the first pixel is 0, the right edge of the last one is the width.
"""

from __future__ import annotations

from typing import NamedTuple

from registry.pictures.steps import PictureSteps


class Placement(NamedTuple):
    """A picture of `size` was scaled to `scaled`, whose upper left corner lies at `offset` in the input.

    Of each pair the first is of x. An offset is negative where the input shows a part only.
    """

    size: tuple[int, int]
    scaled: tuple[int, int]
    offset: tuple[int, int]


def placed(steps: PictureSteps, size: tuple[int, int]) -> Placement:
    """Where a picture of that width and height lies in the input.

    Sizes of `crop` are rounded as `get_resize_output_image_size` and `center_crop` of Hugging Face transformers do.
    """
    target = (steps.width, steps.height)
    if steps.resize == "crop":
        shorter, longer = sorted(size)
        long = int(steps.shorter_edge * longer / shorter)
        scaled = (steps.shorter_edge, long) if size[0] <= size[1] else (long, steps.shorter_edge)
        # The offset is that of the input in the scaled picture, rounded down, turned round.
        return Placement(size, scaled, (-((scaled[0] - target[0]) // 2), -((scaled[1] - target[1]) // 2)))
    if steps.resize == "stretch":
        return Placement(size, target, (0, 0))
    ratio = min(target[0] / size[0], target[1] / size[1])
    width, height = (min(max(round(side * ratio), 1), limit) for side, limit in zip(size, target, strict=True))
    middle = ((target[0] - width) // 2, (target[1] - height) // 2)
    return Placement(size, (width, height), middle if steps.resize == "letterbox" else (0, 0))


def own_pixels(steps: PictureSteps) -> Placement:
    """Of a tensor that was not made of a picture: its own pixels are those of the input."""
    size = (steps.width, steps.height)
    return Placement(size, size, (0, 0))
