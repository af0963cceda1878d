"""Files of tensors that people give: damaged .npz archives, and such as are made to harm, are refused in words."""

from __future__ import annotations

import io
import pickle
import struct
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from registry.inspection.arrays import load_tensors
from registry.inspection.facts import InspectionError

MAX_BYTES = 1 << 20
LOCAL_FLAGS, LOCAL_METHOD, CENTRAL_FLAGS, CENTRAL_METHOD, CENTRAL_SIZE = 6, 8, 8, 10, 24
"""Offsets in the headers of a zip archive."""


def npy(shape: str = "(2,)", descr: str = "'<f4'", data: bytes = bytes(8)) -> bytes:
    """One array, with a header that may lie."""
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    header += b" " * (63 - (10 + len(header)) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + data


def archive(*members: tuple[str, bytes]) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as out, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a name twice is what one test is about
        for name, data in members:
            out.writestr(name, data)
    return content.getvalue()


def patched(local: tuple[int, int] | None, central: tuple[int, bytes]) -> bytes:
    """A sound archive with a number in its headers changed."""
    content = bytearray(archive(("x.npy", npy())))
    directory = content.rfind(b"PK\x01\x02")
    if local is not None:
        content[local[0]] = local[1]
    content[directory + central[0] : directory + central[0] + len(central[1])] = central[1]
    return bytes(content)


def loaded(folder: Path, content: bytes) -> list[str]:
    (folder / "given.npz").write_bytes(content)
    return list(load_tensors(folder / "given.npz", MAX_BYTES, 10))


def test_what_numpy_saves_is_read(tmp_path: Path) -> None:
    given: dict[str, Any] = {"x": np.ones((2, 3), ">f4"), "0/in/y": np.zeros(1, "i8")}
    np.savez_compressed(tmp_path / "given.npz", **given)
    tensors = load_tensors(tmp_path / "given.npz", MAX_BYTES, 10)
    assert {name: (t.datatype, t.shape) for name, t in tensors.items()} == {
        "x": ("FP32", (2, 3)),
        "0/in/y": ("INT64", (1,)),
    }


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (archive(("x.npy", npy("(1152921504606846976,)"))), "no .npz file of plain arrays"),
        (archive(("x.npy", npy("(274877906944,)"))), "no .npz file of plain arrays"),
        (archive(("x.npy", npy(f"({10**20},)"))), "no .npz file of plain arrays"),
        (archive(("x.npy", npy("(-1,)"))), "no .npz file of plain arrays"),
        (archive(("x.npy", npy("(((("))), "no .npz file of plain arrays"),
        (archive(("x.npy", npy("(1,)", "'|O'", pickle.dumps(1)))), "Object arrays cannot be loaded"),
        (archive(("x.npy", npy("(1,)", "'<U2'"))), "which no request can carry"),
        (archive(("x.npy", npy("(2097152,)", "'|u1'", bytes(2 << 20)))), "at most 1048576"),
        (archive(("x.npy", npy()), ("notes.txt", b"hello")), "'notes.txt', which is no array"),
        (archive(("x.npy", npy()), ("x.npy", npy())), "a name twice"),
        (archive(*((f"{n}.npy", npy()) for n in range(11))), "11 arrays; at most 10"),
        (patched((LOCAL_FLAGS, 1), (CENTRAL_FLAGS, b"\x01")), "encrypted"),
        (patched((LOCAL_METHOD, 97), (CENTRAL_METHOD, b"\x61")), "compression"),
        (patched(None, (CENTRAL_SIZE, struct.pack("<I", 40))), "no .npz file of plain arrays"),
        (archive(("x.npy", npy()))[:100], "no .npz file of plain arrays"),
        (pickle.dumps({"x": 1}), "no .npz file of plain arrays"),
        (b"", "no .npz file of plain arrays"),
    ],
    ids=lambda value: value if isinstance(value, str) else "archive",
)  # fmt: skip
def test_an_archive_that_is_none_or_lies_is_refused(tmp_path: Path, content: bytes, says: str) -> None:
    with pytest.raises(InspectionError) as raised:
        loaded(tmp_path, content)
    assert says in raised.value.message


def test_damage_anywhere_is_refused_in_words_or_changes_nothing(tmp_path: Path) -> None:
    sound = archive(("x.npy", npy("(64,)", data=bytes(range(256)))))
    refused = 0
    for place in range(len(sound)):
        changed = bytearray(sound)
        changed[place] ^= 0xFF
        try:
            assert len(loaded(tmp_path, bytes(changed))) == 1
        except InspectionError:
            refused += 1
    assert refused > len(sound) // 2
