"""The size of a picture as a viewer shows it."""

from __future__ import annotations

import contextlib
import io

import pytest
from PIL import Image

from registry.pictures.bare import PictureError
from registry.pictures.size import shown_size


def stored(kind: str, orientation: int = 1, **options: object) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    Image.new("RGB", (301, 173), "white").save(buffer, kind, exif=exif, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "data", [stored("PNG"), stored("JPEG"), stored("JPEG", progressive=True), stored("JPEG", 3), stored("PNG", 2)]
)
def test_the_size_is_that_of_the_pixels(data: bytes) -> None:
    assert shown_size(data) == (301, 173)


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_picture_that_lies_on_its_side_is_turned(kind: str, orientation: int) -> None:
    assert shown_size(stored(kind, orientation)) == (173, 301)


@pytest.mark.parametrize(
    "data", [b"", b"GIF89a", b"\x89PNG\r\n\x1a\n", b"\x89PNG\r\n\x1a\ngarbage", b"\xff\xd8\xff", stored("JPEG")[:20]]
)
def test_what_has_no_size_is_refused(data: bytes) -> None:
    with pytest.raises(PictureError):
        shown_size(data)


def test_no_part_of_a_picture_makes_it_fail_otherwise() -> None:
    for data in (stored("PNG"), stored("JPEG")):
        for length in range(0, len(data), 7):
            with contextlib.suppress(PictureError):
                shown_size(data[:length])
