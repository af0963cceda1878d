"""Tensors that a person gives in a file: .npz of NumPy, without pickle, or .safetensors. Golden vectors, data sets."""

from __future__ import annotations

import tokenize
import zipfile
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from registry.contracts.tensor_file import Tensor, TensorFileError, read_spans
from registry.contracts.tensors import MAX_RANK, NUMPY_NAME, RAW
from registry.inspection.facts import InspectionError

DATATYPES = {np.dtype(code): datatype for datatype, code in NUMPY_NAME.items() if datatype not in RAW}
"""NumPy's types; those of RAW have none, and come in safetensors only."""
_BROKEN = (
    *(zipfile.BadZipFile, zlib.error, ValueError, EOFError, KeyError, SyntaxError, tokenize.TokenError),
    *(NotImplementedError, RuntimeError),  # another compression; a password
    *(MemoryError, OverflowError),  # a shape that the bytes do not fill: NumPy asks for the room before it reads
)
"""What zipfile and NumPy raise for an .npz that was cut, damaged or made to harm."""


def load_tensors(path: Path, max_bytes: int, max_tensors: int) -> dict[str, Tensor]:
    """The tensors of the file, by name.

    Raises:
        InspectionError: not such a file, too large, or a type that a request cannot carry.
    """
    try:
        if path.suffix == ".npz":
            return _from_npz(path, max_bytes, max_tensors)
        if path.suffix == ".safetensors":
            return _from_safetensors(path, max_bytes, max_tensors)
    except OSError as error:
        raise InspectionError(f"{path} cannot be read: {error.strerror or error}") from None
    raise InspectionError(f"{path.name} is neither .npz nor .safetensors")


def _from_safetensors(path: Path, max_bytes: int, max_tensors: int) -> dict[str, Tensor]:
    size = path.stat().st_size
    _require_size(path, size, max_bytes)
    content = memoryview(path.read_bytes())
    try:
        spans = read_spans(content, len(content), max_tensors)
    except TensorFileError as error:
        raise InspectionError(f"{path.name}: {error}") from None
    return {name: Tensor(s.datatype, s.shape, content[s.begin : s.end]) for name, s in spans.items()}


def _from_npz(path: Path, max_bytes: int, max_tensors: int) -> dict[str, Tensor]:
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
        _require_size(path, sum(member.file_size for member in members), max_bytes)  # unpacked, before it is
        if len(members) > max_tensors:
            raise InspectionError(f"{path.name} has {len(members)} arrays; at most {max_tensors}")
        names = {member.filename for member in members}
        unexpected = sorted(name for name in names if not name.endswith(".npy"))
        if unexpected or len(names) != len(members):
            what = f"{unexpected[0][:256]!r}, which is no array" if unexpected else "a name twice"
            raise InspectionError(f"{path.name} has {what}. Write it with numpy.savez")
        with np.load(path, allow_pickle=False) as arrays:
            return {name: as_tensor(f"{path.name}: {name!r}", arrays[name]) for name in arrays.files}
    except _BROKEN as error:
        raise InspectionError(f"{path.name} is no .npz file of plain arrays: {str(error)[:200]}") from None


def as_tensor(what: str, array: NDArray[np.generic]) -> Tensor:
    """An array of any byte order and layout. Raises InspectionError for a type or rank that a request cannot carry."""
    plain = np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<"), copy=False)
    datatype = DATATYPES.get(plain.dtype)
    if datatype is None or array.ndim > MAX_RANK:
        raise InspectionError(f"{what} is {array.dtype} of {array.ndim} dimensions, which no request can carry")
    return Tensor(datatype, array.shape, plain.tobytes())


def _require_size(path: Path, size: int, max_bytes: int) -> None:
    if size > max_bytes:
        raise InspectionError(f"{path.name} has {size} bytes of tensors; at most {max_bytes}")
