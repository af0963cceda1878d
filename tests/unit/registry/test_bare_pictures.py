"""Of a picture only what makes pixels goes to the decoder; of its metadata only the orientation is read."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from registry.pictures import decode as decoding
from registry.pictures.bare import MAX_SCANS, PictureError, bare, check_cost
from registry.pictures.steps import PictureSteps

PIXELS = np.random.default_rng(5).integers(0, 256, (12, 20, 3), np.uint8)
UPRIGHT = PictureSteps(20, 12, "RGB", "NHWC", "stretch", 0, 1.0, (), (), "UINT8")
AS_IT_IS = UPRIGHT._replace(height=12, width=20)


def decode(steps: PictureSteps, data: bytes) -> bytes:
    return decoding.decode(steps, data).data


def saved(kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).save(buffer, kind, **options)
    return buffer.getvalue()


def tiff(*entries: tuple[int, int, int, bytes], order: str = "<") -> bytes:
    """A TIFF structure of one directory: (tag, type, count, 4 bytes of value or offset)."""
    head = (b"II" if order == "<" else b"MM") + struct.pack(order + "HIH", 42, 8, len(entries))
    return head + b"".join(struct.pack(order + "HHI", *entry[:3]) + entry[3] for entry in entries) + bytes(4)


def turned(order: str = "<", kind: int = 3, value: int = 6) -> tuple[int, int, int, bytes]:
    packed = struct.pack(order + ("H" if kind == 3 else "I"), value)
    return 0x0112, kind, 1, packed.ljust(4, b"\0")


def with_segment(jpeg: bytes, marker: int, content: bytes) -> bytes:
    return jpeg[:2] + struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content + jpeg[2:]


def with_exif(jpeg: bytes, exif: bytes) -> bytes:
    return with_segment(jpeg, 0xE1, b"Exif\0\0" + exif)


def with_chunk(png: bytes, kind: bytes, content: bytes, crc: int | None = None) -> bytes:
    check = zlib.crc32(kind + content) if crc is None else crc
    chunk = struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)
    return png[:33] + chunk + png[33:]


JPEG, PNG = saved("JPEG", quality=95), saved("PNG")
RATIONAL_OF_NOTHING = (0x011A, 10, 1, struct.pack("<I", 26 + 12))  # -1/0, behind the directory


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", [3, 4])
@pytest.mark.parametrize("make", [lambda exif: with_exif(JPEG, exif), lambda exif: with_chunk(PNG, b"eXIf", exif)])
def test_the_orientation_is_read_in_both_byte_orders(make: Any, kind: int, order: str) -> None:
    picture = make(tiff(turned(order, kind), order=order))
    assert bare(picture).orientation == 6
    plain = np.frombuffer(decode(AS_IT_IS, bare(picture).data), np.uint8).reshape(12, 20, 3)
    assert decode(UPRIGHT, picture) == np.rot90(plain, -1).tobytes()


@pytest.mark.parametrize(
    ("exif", "orientation"),
    [
        (tiff(RATIONAL_OF_NOTHING, turned()) + struct.pack("<ii", -1, 0), 6),
        (tiff(turned(), (0x8769, 4, 1, b"\xff\xff\xff\x7f")), 6),  # a directory that is nowhere
        (tiff(turned(value=9)), 1),
        (tiff(turned(value=0)), 1),
        (tiff((0x0112, 2, 1, b"6\0\0\0")), 1),
        (tiff(turned())[:-9], 1),
        (b"II*\0\xff\xff\xff\xff", 1),
        (b"II*\0\x08\0\0\0\xff\xff", 1),
        (b"", 1),
        (b"XX" * 40, 1),
    ],
)
def test_odd_metadata_of_a_good_picture_is_ignored(exif: bytes, orientation: int) -> None:
    for picture, plain in ((with_exif(JPEG, exif), JPEG), (with_chunk(PNG, b"eXIf", exif), PNG)):
        found = bare(picture)
        assert found.orientation == orientation
        assert decode(AS_IT_IS, found.data) == decode(AS_IT_IS, plain)


@pytest.mark.parametrize(
    "picture",
    [
        with_segment(JPEG, 0xE2, b"ICC_PROFILE\0\x01\x07" + b"junk" * 9),
        with_segment(JPEG, 0xE2, b"MPF\0II*\0" + b"\xff" * 30),
        with_segment(JPEG, 0xED, b"Photoshop 3.0\x008BIM" + b"\xff" * 7),
        with_segment(JPEG, 0xE1, b"http://ns.adobe.com/xap/1.0/\0<x:xmpmeta"),
        with_segment(JPEG, 0xFE, b"\xff" * 60_000),
        JPEG[:2] + b"\xff\xff\xff" + JPEG[2:],
        with_chunk(PNG, b"iCCP", b"x\0\0no deflate"),
        with_chunk(PNG, b"zTXt", b"k\0\0" + zlib.compress(bytes(200_000_000))),
        with_chunk(PNG, b"iTXt", b"\xff\xfe"),
        with_chunk(PNG, b"pHYs", b"\0"),
        with_chunk(PNG, b"tIME", b"", crc=0),
        with_chunk(PNG, b"acTL", struct.pack(">II", 9, 0)),
    ],
)
def test_other_metadata_is_not_looked_at(picture: bytes) -> None:
    plain = JPEG if picture.startswith(b"\xff") else PNG
    assert decode(AS_IT_IS, picture) == decode(AS_IT_IS, plain)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_blocks": 1}])
def test_what_a_camera_appends_to_a_picture_is_neither_scanned_nor_decoded(options: dict[str, Any]) -> None:
    """A film, whose bytes hold more starts of scans than a picture may have; a second picture."""
    picture = saved("JPEG", quality=95, **options)
    for appended in (b"\0\0\0\x18ftypmp42" + b"\xff\xda\0\x0c" * (MAX_SCANS + 1), with_exif(JPEG, tiff(turned()))):
        assert bare(picture + appended) == bare(picture)
        assert decode(AS_IT_IS, picture + appended) == decode(AS_IT_IS, picture)


def test_an_end_marker_within_a_segment_between_scans_does_not_end_a_picture() -> None:
    picture = saved("JPEG", quality=95, progressive=True)
    second = picture.rindex(b"\xff\xda")
    comment = b"\xff\xfe\0\x06\xff\xd9\xff\xd9"
    assert decode(AS_IT_IS, picture[:second] + comment + picture[second:]) == decode(AS_IT_IS, picture)


def test_of_two_exif_segments_the_first_has_the_orientation() -> None:
    """One over 64 kB goes on in a second segment, which has no directory of its own."""
    goes_on = with_segment(with_exif(JPEG, b"\1\2\3\4" * 9), 0xE1, b"Exif\0\0" + tiff(turned()))
    assert bare(goes_on).orientation == 6


def test_colours_stay_as_the_segments_that_code_them_say() -> None:
    for mode in ("CMYK", "YCbCr", "L"):
        buffer = io.BytesIO()
        Image.fromarray(PIXELS).convert(mode).save(buffer, "JPEG", quality=95)
        expected = np.asarray(Image.open(io.BytesIO(buffer.getvalue())).convert("RGB"))
        assert decode(AS_IT_IS, buffer.getvalue()) == expected.tobytes()
    clear = io.BytesIO()
    Image.fromarray(PIXELS).convert("P").save(clear, "PNG", transparency=0)
    assert decode(AS_IT_IS, clear.getvalue()) == np.asarray(Image.open(clear).convert("RGBA").convert("RGB")).tobytes()


def test_more_scans_than_any_encoder_writes_are_refused_before_they_are_decoded() -> None:
    progressive = saved("JPEG", progressive=True)
    assert 1 < progressive.count(b"\xff\xda") < 20
    decode(AS_IT_IS, progressive)
    start = progressive.rindex(b"\xff\xda")
    many = progressive[:start] + progressive[start:-2] * (MAX_SCANS + 1) + b"\xff\xd9"
    with pytest.raises(PictureError, match="at most 100 scans"):
        decode(AS_IT_IS, many)
    with pytest.raises(PictureError, match="got 30 over 8000 x 5000 pixels"):
        check_cost(8000, 5000, b"\xff\xd8" + b"\xff\xda" * 30)
    check_cost(8000, 5000, b"\xff\xd8" + b"\xff\xda" * 13)


@pytest.mark.parametrize("cut", [3, 20, 200, len(JPEG) - 3])
def test_a_cut_jpeg_is_refused(cut: int) -> None:
    with pytest.raises(PictureError):
        decode(AS_IT_IS, JPEG[:cut])


@pytest.mark.parametrize("cut", [9, 30, 50, len(PNG) - 60])
def test_a_cut_png_is_refused(cut: int) -> None:
    with pytest.raises(PictureError):
        decode(AS_IT_IS, PNG[:cut])


def coded(rows: int, width: int, height: int, *, depth: int = 8, colour: int = 2, interlaced: int = 0) -> bytes:
    """A PNG of black pixels that says height and holds so many rows (interlaced: so many bytes)."""
    row = 1 + (width * depth * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour] + 7) // 8
    raw = bytes(rows if interlaced else rows * row)
    picture = b"\x89PNG\r\n\x1a\n"
    palette = [(b"PLTE", bytes(range(6)))] if colour == 3 else []
    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced)
    for kind, content in ((b"IHDR", head), *palette, (b"IDAT", zlib.compress(raw)), (b"IEND", b"")):
        picture += struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
    return picture


@pytest.mark.parametrize(("depth", "colour"), [(8, 0), (1, 0), (16, 0), (8, 2), (16, 2), (1, 3), (8, 4), (16, 6)])
def test_a_png_whose_coded_data_ends_early_is_refused_and_a_black_one_is_not(depth: int, colour: int) -> None:
    assert decode(AS_IT_IS, coded(12, 20, 12, depth=depth, colour=colour))
    for rows in (0, 1, 11):
        with pytest.raises(PictureError, match=r"before its last row|truncated"):
            decode(AS_IT_IS, coded(rows, 20, 12, depth=depth, colour=colour))


@pytest.mark.parametrize(("width", "height", "size"), [(20, 12, 20 * 12 * 3 + 23), (1, 1, 4), (8, 8, 8 * 8 * 3 + 15)])
def test_an_interlaced_png_has_the_bytes_of_all_its_passes(width: int, height: int, size: int) -> None:
    """A pass has a byte more for each of its rows: 23 rows for a height of 12, 15 for 8."""
    assert decode(AS_IT_IS, coded(size, width, height, interlaced=1))
    with pytest.raises(PictureError, match="before its last row"):
        decode(AS_IT_IS, coded(size - 1, width, height, interlaced=1))


def test_a_png_with_a_critical_chunk_that_the_standard_does_not_have_is_refused() -> None:
    """As Apple's tools write it: the pixels behind it are coded otherwise."""
    with pytest.raises(PictureError, match="'CgBI'"):
        decode(AS_IT_IS, with_chunk(PNG, b"CgBI", bytes(4)))


@pytest.mark.parametrize(
    "picture", [coded(12, 0, 12), JPEG.replace(b"\xff\xc0\0\x11\x08\0\x0c", b"\xff\xc0\0\x11\x08\0\0")]
)
def test_a_picture_without_a_size_is_refused_in_words_for_people(picture: bytes) -> None:
    with pytest.raises(PictureError, match="header is damaged"):
        decode(AS_IT_IS, picture)
