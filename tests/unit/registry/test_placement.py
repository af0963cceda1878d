"""Where a picture lies in the input is what its pixels show: boxes are scaled back by the numbers that scaled it."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from registry.pictures.decode import decode
from registry.pictures.placement import placed
from registry.pictures.steps import PictureSteps

SIZES = st.tuples(st.integers(16, 160), st.integers(16, 160))
RESIZES = st.sampled_from(["stretch", "pad", "letterbox", "crop"])


def steps(target: tuple[int, int], resize: Any, *, reduced: bool = False) -> PictureSteps:
    height, width = target[::-1]
    return PictureSteps(height, width, "L", "NCHW", resize, 255, 1.0, (), (), "UINT8", max(target), reduced=reduced)


@given(
    size=SIZES, target=SIZES, resize=RESIZES, orientation=st.sampled_from([1, 3, 6, 8]), reduced=st.booleans(),
    across=st.floats(0.3, 0.7), down=st.floats(0.3, 0.7),
)  # fmt: skip
def test_an_edge_of_the_picture_is_where_its_placement_says(
    *,
    size: tuple[int, int],
    target: tuple[int, int],
    resize: str,
    orientation: int,
    reduced: bool,
    across: float,
    down: float,
) -> None:
    """To a pixel of the input, and to one of the picture where that is larger."""
    left, top = int(size[0] * across), int(size[1] * down)
    pixels = np.full((size[1], size[0]), 255, np.uint8)
    pixels[top:, left:] = 0
    turns = {1: 0, 3: 2, 6: 1, 8: 3}[orientation]  # as a camera stores what a viewer turns back
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(np.rot90(pixels, turns))).save(stored, "JPEG", quality=95, exif=exif)
    wanted = steps(target, resize, reduced=reduced)
    made = decode(wanted, stored.getvalue())
    assert made.size == size
    place = placed(wanted, size)
    black = np.frombuffer(made.data, np.uint8).reshape(target[1], target[0]) < 128
    for axis, edge in ((0, left), (1, top)):
        expected = place.offset[axis] + edge * place.scaled[axis] / size[axis]
        end = min(place.offset[axis] + place.scaled[axis], target[axis])
        if not 0 <= expected < end:
            continue
        found = np.flatnonzero(black.any(axis=axis))
        pixel = max(1.0, place.scaled[axis] / size[axis]) + (8 * place.scaled[axis] / size[axis] if reduced else 0)
        assert found.size == 0 or abs(int(found[0]) - expected) <= pixel


@given(SIZES, SIZES, RESIZES)
def test_the_scaled_picture_fills_or_fits_the_input(
    size: tuple[int, int], target: tuple[int, int], resize: str
) -> None:
    place = placed(steps(target, resize), size)
    for axis in (0, 1):
        begin, end = place.offset[axis], place.offset[axis] + place.scaled[axis]
        if resize == "crop":
            assert begin <= 0
            assert end >= target[axis]
        else:
            assert 0 <= begin < end <= target[axis]
    if resize == "letterbox":
        assert all(0 <= target[a] - place.scaled[a] - 2 * place.offset[a] <= 1 for a in (0, 1))


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_the_size_is_that_of_the_upright_picture(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = io.BytesIO()
    Image.new("L", (30, 20)).save(stored, "PNG", exif=exif)
    assert decode(steps((8, 8), "stretch"), stored.getvalue()).size == (20, 30)
