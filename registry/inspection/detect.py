"""Which format a file has, by its content; or that it is one that the registry does not store, and what to do instead.

ONNX, MindIR and MindSpore checkpoints are all protobuf and are distinguished by their outermost fields:
ONNX has a number in field 1 and a graph in field 7; MindIR a version text in field 1 and its producer
in field 2; a checkpoint only tensors in field 1; AIR graphs of Graph Engine in field 7. OM starts with a
256-byte header `IMOD`, safetensors with the length of a JSON header; it is a form of checkpoint here.

A file's name is only asked where the content says nothing. Sources for what is not stored: the formats' own
specifications (TensorFlow Lite and ORT flatbuffers, GGUF, HDF5, NumPy), the first lines that their writers print
(onnx.printer, protobuf's text form, OpenVINO's model serialiser), and for protobuf, told by its outermost fields,
tensorflow/core/framework/graph.proto and protobuf/saved_model.proto, Core ML's Model.proto, caffe.proto,
paddle/fluid/framework/framework.proto. Folders are told by the names in them.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from registry.contracts.catalogue.manifest import Format
from registry.inspection import air, checkpoint, plan, protobuf
from registry.inspection.facts import InspectionError
from registry.plan_file import read_description

_GRAPH_FIELD = 7
"""Of ONNX's ModelProto."""


_LOOKED_AT = 1000
"""Entries of the folder: enough for any model, and never a whole disk."""
HEAD_BYTES = 4096
_TO_ONNX = "export the model to ONNX"
_TORCH = f"{_TO_ONNX}: registry import torch:FILE does it, with PyTorch's torch.onnx.export"
_TF = "convert it to ONNX (tf2onnx)"
_SAVE_BINARY = "save it in the binary form: onnx.save(onnx.load(file, format), 'model.onnx')"
_UNPACK = "unpack it first"
_PICKLE = f"a Python pickle, as PyTorch, scikit-learn and joblib write it, which runs code when it is read; {_TO_ONNX}"
_PICKLES = (
    *(b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"),
    *(b"(dp0\n", b"(lp0\n", b"ccopy_reg\n", b"}q\x00", b"]q\x00"),  # protocols 0 and 1 say no number
)
_MAGICS: tuple[tuple[int, bytes, str], ...] = (
    (0, b"GGUF", "a GGUF file of llama.cpp; no backend here runs it: export the original model to ONNX"),
    *((0, magic, "a GGML file of llama.cpp; export the original model to ONNX") for magic in (b"lmgg", b"tjgg")),
    (4, b"TFL3", f"a TensorFlow Lite model; {_TF}"),
    (4, b"ORTM", "a model in ONNX Runtime's own ORT format; publish the ONNX file that it was made from"),
    (0, b"\x89HDF\r\n", f"an HDF5 file, as Keras writes it (.h5); {_TF}"),
    (0, b"\x93NUMPY", f"an array of NumPy (.npy), not a model; {_TO_ONNX}"),
    (0, b"RKNN", "an RKNN model of Rockchip; publish the ONNX file that it was made from"),
    (0, b"\x12\x01\0\0\0\0\0\0", f"parameters of MXNet; {_TO_ONNX}"),
    (0, b"\x7fELF", f"a program or library, not a model; {_TO_ONNX}"),
    (0, b"\x1f\x8b", f"gzip-compressed; {_UNPACK}"),
    (0, b"BZh", f"bzip2-compressed; {_UNPACK}"),
    (0, b"\xfd7zXZ\0", f"xz-compressed; {_UNPACK}"),
    (0, b"\x28\xb5\x2f\xfd", f"zstd-compressed; {_UNPACK}"),
    (0, b"7z\xbc\xaf\x27\x1c", f"a 7-Zip archive; {_UNPACK}"),
    (257, b"ustar", f"a tar archive; {_UNPACK}"),
    (0, b"version https://git-lfs", "a Git LFS pointer, not the model itself; run `git lfs pull`"),
    *((0, magic, _PICKLE) for magic in _PICKLES),
)
_ZIPPED: tuple[tuple[str, str], ...] = (
    (r"(^|/)code/", f"a TorchScript archive of PyTorch; {_TORCH}"),
    (
        r"(^|/)(archive_format|serialized_exported_program\.json|models/.*\.json)$",
        f"an exported program of PyTorch (.pt2); {_TORCH}",
    ),
    (r"(^|/)data\.pkl$", f"a zip archive with a pickle, as PyTorch's torch.save writes it; {_TORCH}"),
    (r"(^|/)model\.weights\.h5$", f"a Keras model (.keras); {_TF}"),
    (r"(^|/)saved_model\.pb$", f"a zipped TensorFlow SavedModel; {_TF}"),
    (r"\.mlmodel$|com\.apple\.CoreML", "a zipped Core ML package; publish the ONNX file of the original model"),
    (r"\.npy$", f"arrays of NumPy (.npz), not a model; {_TO_ONNX}"),
)
_MADE_FROM = "publish the ONNX file that it was made from"
_TEXTS: tuple[tuple[str, str], ...] = (
    (r"<\s*(ir_version|opset_import)\b", f"ONNX as text (onnx.printer); {_SAVE_BINARY}, with format='onnxtxt'"),
    (
        r"(ir_version|producer_name|opset_import)\s*[:{]",
        f"ONNX as text of protobuf; {_SAVE_BINARY}, with format='textproto'",
    ),
    (r"\{.*\"(irVersion|ir_version|opsetImport)\"\s*:", f"ONNX as JSON; {_SAVE_BINARY}, with format='json'"),
    (r"(<.*)?<net\s", f"an OpenVINO IR (the .xml, whose weights are in the .bin); {_MADE_FROM}"),
    (r"(<.*)?<PMML\b", f"a PMML model; {_TO_ONNX}"),
    (r"<!doctype|<html|<\?xml|<head|<body", "text that looks like a web page: the download probably failed"),
    (r"\{.*\"(modelTopology|weightsManifest)\"\s*:", f"a TensorFlow.js model; {_TF}"),
    (r"\{.*\"(class_name|keras_version)\"\s*:", f"a Keras model without its weights; {_TF}"),
    (r"\{.*\"arg_nodes\"\s*:", f"a network of MXNet; {_TO_ONNX}"),
    (r"\{.*\"learner\"\s*:", f"an XGBoost model; {_TO_ONNX} (onnxmltools)"),
    (r"\{.*\"weight_map\"\s*:", f"an index of checkpoint shards; {_TO_ONNX}, or merge the shards"),
    (
        r"\{.*\"(architectures|model_type)\"\s*:",
        "the configuration of a Hugging Face model; export it: optimum-cli export onnx",
    ),
    (r"(node|library|versions)\s*\{", f"a TensorFlow GraphDef as text (.pbtxt); {_TF}"),
    (r"saved_model_schema_version\s*:", f"a TensorFlow SavedModel as text; {_TF}"),
    (
        r"(name|input)\s*:.{0,400}\n\s*(layers?|input_dim|input_shape)\s*[{:]|layers?\s*\{",
        f"a network of Caffe (.prototxt); {_TO_ONNX}",
    ),
    (r"tree\r?\nversion=", f"a LightGBM model; {_TO_ONNX} (onnxmltools)"),
    (r"7767517\r?\n", f"a network of ncnn (.param); {_MADE_FROM}"),
    (r"\[net(work)?\]", f"a network of Darknet (.cfg); {_TO_ONNX}"),
    (
        r"graph\s*\{|\w+\s*\([^)]*\)\s*=>\s*\([^)]*\)\s*\{",
        f"ONNX as text (onnx.printer); {_SAVE_BINARY}, with format='onnxtxt'",
    ),
)
"""What a text begins with, and what it is then."""
_COMPILED = tuple((re.compile(pattern, re.DOTALL | re.IGNORECASE), what) for pattern, what in _TEXTS)
_ENDINGS = {
    ".bin": "the weights of an OpenVINO IR have this ending, and PyTorch's",
    ".pb": "TensorFlow graphs have this ending",
    ".pdmodel": "PaddlePaddle's models have this ending: paddle2onnx",
    ".pdiparams": "PaddlePaddle's weights have this ending: paddle2onnx",
    ".caffemodel": "Caffe's weights have this ending",
    ".mnn": "models of MNN have this ending",
    ".mlmodel": "Core ML's models have this ending",
    ".tflite": "TensorFlow Lite's models have this ending",
    ".hef": "Hailo's models have this ending",
    ".dlc": "Qualcomm's models have this ending",
    ".pt": "PyTorch's files have this ending: torch.onnx.export",
    ".pth": "PyTorch's files have this ending: torch.onnx.export",
}


OM_MAGIC = b"IMOD\x00\x01\x00\x00"
"""Magic 0x444F4D49 and the header's length, 256, both little-endian."""
STORED = ", ".join(Format)


def other_model(seen: Sequence[protobuf.Field]) -> str | None:
    """What a file with these fields is, in words that follow `is`; None: nothing of these."""
    numbers = {field.number for field in seen}
    first = next((field for field in seen if field.number == 1), None)
    if first is None:
        return None
    if first.wire_type == protobuf.VARINT and _GRAPH_FIELD not in numbers:
        return _by_version(seen, numbers)
    if first.wire_type != protobuf.LENGTH_DELIMITED:
        return None
    if first.head.startswith(b"\x08\x00\x10"):
        return "a PaddlePaddle program (.pdmodel); convert it to ONNX (paddle2onnx)"
    if _is_node(first.head) or (first.head.startswith(b"\n") and numbers <= {1, 2, 3, 4, 5} and 4 in numbers):
        return f"a TensorFlow GraphDef (.pb); {_TF}"
    if numbers & {2, 100} and numbers <= {1, 2, 3, 4, 5, 6, 7, 8, 100} and 100 in numbers:
        return "a network of Caffe (.caffemodel); export the model to ONNX"
    return None


def _by_version(seen: Sequence[protobuf.Field], numbers: set[int]) -> str | None:
    """Files that begin with a version number, as ONNX does."""
    if any(number >= 200 for number in numbers):
        return "a Core ML model (.mlmodel); publish the ONNX file of the original model"
    second = [field for field in seen if field.number == 2]
    if second and numbers <= {1, 2} and second[0].length > 8 and second[0].head.startswith(b"\n"):
        return f"a TensorFlow SavedModel (saved_model.pb); {_TF}"
    return None


def _is_node(head: bytes) -> bool:
    """A NodeDef: its name, then its operator as text, where a checkpoint has a tensor."""
    if len(head) < 3 or head[0] != 0x0A or head[1] > 0x7F:
        return False
    at = 2 + head[1]
    if head[at : at + 1] != b"\x12" or len(head) < at + 3:
        return False
    operator = head[at + 2 : at + 2 + head[at + 1]]
    return (
        len(operator) >= 3 and operator.isascii() and operator.replace(b"_", b"").isalnum() and operator[:1].isalpha()
    )


def folder_kind(folder: Path) -> str:
    """What a folder is, in words that follow `is`, and what to do."""
    try:
        names = sorted(path.name for path in islice(folder.iterdir(), _LOOKED_AT))
    except OSError as error:
        return f"a folder that cannot be read ({error.strerror})"
    known = _known(names)
    if known:
        return known
    models = [name for name in names if name.endswith(".onnx")]
    if models:
        return f"a folder; give the model's file: {folder / models[0]}. What it refers to is found beside it"
    return "a folder; give the model's file. What an ONNX model refers to is found beside it"


def _known(names: list[str]) -> str:
    endings = {Path(name).suffix for name in names}
    kinds = (
        (
            "saved_model.pb" in names or "saved_model.pbtxt" in names,
            "a TensorFlow SavedModel; convert it to ONNX: python -m tf2onnx.convert --saved-model FOLDER",
        ),
        (
            "Manifest.json" in names and "Data" in names,
            "a Core ML package (.mlpackage); publish the ONNX file of the original model",
        ),
        (
            ".xml" in endings and ".bin" in endings and ".onnx" not in endings,
            "a folder with an OpenVINO IR; publish the ONNX file that it was made from",
        ),
        (
            "__model__" in names or {".pdmodel", ".pdiparams"} & endings,
            "a PaddlePaddle model; convert it to ONNX: paddle2onnx",
        ),
        ("data.pkl" in names, "an unpacked PyTorch file; export the model to ONNX (torch.onnx.export)"),
        (
            "config.json" in names and {".safetensors", ".bin"} & endings and ".onnx" not in endings,
            "a Hugging Face model; export it: optimum-cli export onnx --model FOLDER OUT",
        ),
        (
            "model.json" in names and ".bin" in endings,
            "a TensorFlow.js model; convert the original model to ONNX (tf2onnx)",
        ),
    )
    return next((what for found, what in kinds if found), "")


def foreign_format(path: Path, head: bytes) -> str | None:
    """What the file is, in words that follow `is`, when it is surely none that the registry stores. `head`: its first
    HEAD_BYTES."""
    if head.startswith(b"PK\x03\x04"):
        return _zipped(path)
    for offset, magic, what in _MAGICS:
        if head[offset : offset + len(magic)] == magic:
            return what
    text = _text(head)
    if text is None:
        return None
    return next((what for pattern, what in _COMPILED if pattern.match(text)), None)


def by_ending(path: Path) -> str:
    """What the file's name suggests, where its content says nothing; empty: nothing."""
    ending = path.suffix.lower()
    if ending == ".bin" and path.with_suffix(".xml").is_file():
        return "beside its .xml it is the weights of an OpenVINO IR: publish the ONNX file that it was made from"
    return _ENDINGS.get(ending, "")


def _zipped(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()[:10_000]
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return f"a damaged zip archive, as PyTorch and Keras write them; copy it again, or {_TO_ONNX}"
    for pattern, what in _ZIPPED:
        if any(re.search(pattern, name) for name in names):
            return what
    return f"a zip archive; {_UNPACK}"


def _text(head: bytes) -> str | None:
    """The beginning as text, without what is blank at its start; None: it is no text."""
    for mark, code in ((b"\xef\xbb\xbf", "utf-8"), (b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be")):
        if head.startswith(mark):
            return head[len(mark) :].decode(code, "replace").lstrip()
    if b"\0" in head or any(byte < 9 or 13 < byte < 32 for byte in head[:256]):
        return None
    return head.decode("utf-8", "replace").lstrip()


def detect(path: Path) -> Format | None:
    """The format of a file, or None when nothing about it is certain (some TensorRT plans; AIR of a form not known).

    Raises:
        InspectionError: it is empty, cut short, or surely something that the registry does not store.
    """
    with path.open("rb") as file:
        size = path.stat().st_size
        if size == 0:
            raise InspectionError(f"{path.name} is empty")
        head = file.read(HEAD_BYTES)
        if checkpoint.looks_like_safetensors(head, size):  # first: its length may look like another format's magic
            return Format.MINDSPORE_CKPT
        what = foreign_format(path, head)
        if what is not None:
            raise InspectionError(f"{path.name} is {what}. The registry stores: {STORED}")
        if head.startswith(OM_MAGIC):
            return Format.OM
        if head.startswith(plan.MAGIC) or _described_plan(file, size):
            return Format.TENSORRT_PLAN
        return _protobuf_format(file, size, path.name)


def _described_plan(file: BinaryIO, size: int) -> bool:
    """A plan behind a description, as ultralytics writes it."""
    file.seek(0)
    said, begin = read_description(file, size)
    if said is None:
        return False
    file.seek(begin)
    return file.read(len(plan.MAGIC)) == plan.MAGIC


def _protobuf_format(file: BinaryIO, size: int, name: str) -> Format | None:
    seen: list[protobuf.Field] = []
    cut: protobuf.TruncatedError | None = None
    try:
        seen.extend(protobuf.outer_fields(file, checkpoint.payload_bytes(file, size)))
    except protobuf.TruncatedError as error:
        cut = error
    except protobuf.NotProtobufError:
        return None
    what, found = other_model(seen), _by_fields(seen)
    if what is not None:
        also = ", and it is cut short" if cut else ""
        raise InspectionError(f"{name} is {what}{also}. The registry stores: {STORED}") from None
    if cut and found is not None:
        raise InspectionError(f"{name} is a file of format {found} that is cut short: {cut}. Copy it again") from cut
    if found is None and not cut and air.operators(file, size):
        return Format.AIR
    return found


def _by_fields(seen: list[protobuf.Field]) -> Format | None:
    """A file that is cut short has only the first of its fields."""
    # A plausible IR version; a file that is cut inside its graph has no field 7 yet.
    if any(f.number == 1 and f.wire_type == protobuf.VARINT and 1 <= f.length <= 1000 for f in seen):
        return Format.ONNX
    if any(field.number == 2 and field.head.startswith(b"MindSpore") for field in seen):
        return Format.MINDIR
    numbers = {field.number for field in seen}
    kinds = {field.wire_type for field in seen}
    if numbers == {1} and kinds == {protobuf.LENGTH_DELIMITED} and all(f.head.startswith(b"\n") for f in seen):
        return Format.MINDSPORE_CKPT
    return None
