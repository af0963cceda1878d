"""The backend test cases of the `onnx` wheel, and what plain ONNX Runtime answers to them.

A case is a model with one or more sets of inputs. Those whose model ONNX Runtime does not load or run are left out: a
device cannot do more. Needs `onnx` and `onnxruntime`; nothing is downloaded (the kind `real` would be).
"""

from __future__ import annotations

import contextlib
import ctypes
import struct
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import numpy_helper
from onnx.backend.test.loader import load_model_tests

from registry.client.devices import Answer, TypedTensor
from registry.client.devices.arrays import bits_of
from registry.contracts.tensors import RAW, Datatype

KINDS = ("node", "simple", "pytorch-converted", "pytorch-operator")
DATATYPES = {
    "tensor(bool)": "BOOL", "tensor(uint8)": "UINT8", "tensor(uint16)": "UINT16", "tensor(uint32)": "UINT32",
    "tensor(uint64)": "UINT64", "tensor(int8)": "INT8", "tensor(int16)": "INT16", "tensor(int32)": "INT32",
    "tensor(int64)": "INT64", "tensor(float16)": "FP16", "tensor(float)": "FP32", "tensor(double)": "FP64",
    "tensor(bfloat16)": "BF16", "tensor(string)": "BYTES", "tensor(float8e4m3fn)": "FP8E4M3FN",
    "tensor(float8e4m3fnuz)": "FP8E4M3FNUZ", "tensor(float8e5m2)": "FP8E5M2", "tensor(float8e5m2fnuz)": "FP8E5M2FNUZ",
    "tensor(float8e8m0)": "FP8E8M0",
}  # fmt: skip
"""ONNX Runtime's types that requests and replies can carry."""
ITEM_BYTES = {
    **dict.fromkeys(("BOOL", "UINT8", "INT8", "FP8E4M3FN", "FP8E4M3FNUZ", "FP8E5M2", "FP8E5M2FNUZ", "FP8E8M0"), 1),
    **dict.fromkeys(("UINT16", "INT16", "FP16", "BF16"), 2),
    **dict.fromkeys(("UINT32", "INT32", "FP32"), 4),
    **dict.fromkeys(("UINT64", "INT64", "FP64"), 8),
}
_RAW = {16: "<u2", 17: "u1", 18: "u1", 19: "u1", 20: "u1", 24: "u1"}
"""TensorProto.DataType of what NumPy has no type for, and what holds its bits."""
_FLOATS = {"FP16": "<f2", "FP32": "<f4", "FP64": "<f8"}


class Tensor(NamedTuple):
    """As it goes over the wire: little-endian, row-major; BYTES with their lengths."""

    datatype: str
    shape: tuple[int, ...]
    data: bytes


@dataclass(frozen=True)
class Set:
    """One request and its right answer."""

    inputs: dict[str, Tensor]
    outputs: dict[str, Tensor]
    repeatable: bool
    """ONNX Runtime answers the same twice; else only types and shapes can be compared."""


@dataclass(frozen=True)
class Case:
    """One model that ONNX Runtime answers."""

    name: str
    model: bytes
    sets: tuple[Set, ...]
    carried: str
    """Empty, or which type of its inputs and outputs no request can carry."""


def all_cases(names: Collection[str] | None = None) -> Iterator[Case]:
    """Every case that ONNX Runtime answers, in the order of the wheel; or only those of these names."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the cases' own arithmetic
        tests = [test for kind in KINDS for test in load_model_tests(kind=kind)]
    for test in tests:
        if names is None or test.name in names:
            model, given = (test.model, test.data_sets) if test.model is not None else _read(Path(test.model_dir))
            inputs = [value.name for value in model.graph.input]
            requests = [dict(zip(inputs, values, strict=False)) for values, _ in given]
            with contextlib.suppress(Exception):  # ONNX Runtime's exceptions derive from Exception only
                yield answered(test.name, model.SerializeToString(), requests)


def answered(name: str, content: bytes, requests: Sequence[Mapping[str, Any]]) -> Case:
    """The case of a model and requests to it (NumPy arrays or TensorProtos by input name), with ONNX Runtime's answers.

    Raises what ONNX Runtime raises when it does not load the model, or not answer a request.
    """
    onnxruntime.set_default_logger_severity(4)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    inputs = (*session.get_inputs(), *session.get_overridable_initializers())
    strange = sorted({node.type for node in (*inputs, *session.get_outputs())} - DATATYPES.keys())
    if strange:
        return Case(name, content, (), ", ".join(strange))
    kinds = {node.name: DATATYPES[node.type] for node in inputs}
    sets = []
    for request in requests:
        feeds = {key: _value(value) for key, value in request.items()}
        first, second = _run(session, feeds), _run(session, feeds)
        sent = {key: _tensor(kinds[key], value) for key, value in feeds.items()}
        sets.append(Set(sent, first, repeatable=first == second))
    return Case(name, content, tuple(sets), "")


def _read(folder: Path) -> tuple[Any, list[tuple[list[Any], list[Any]]]]:
    model = onnx.load(folder / "model.onnx")
    sets = []
    for data in sorted(folder.glob("test_data*")):
        inputs = []
        for number in range(len(list(data.glob("input_*.pb")))):
            tensor = onnx.TensorProto()
            tensor.ParseFromString((data / f"input_{number}.pb").read_bytes())
            inputs.append(tensor)
        sets.append((inputs, []))
    return model, sets


def _value(given: Any) -> Any:
    """A NumPy array of text, or an OrtValue."""
    value = onnxruntime.OrtValue
    if isinstance(given, onnx.TensorProto):
        array = numpy_helper.to_array(given)
        kind = given.data_type
    else:
        array = np.asarray(given)
        kind = 16 if array.dtype.name == "bfloat16" else 0
    if array.dtype.kind in "OUS":
        texts = [each.decode() if isinstance(each, bytes) else str(each) for each in array.ravel().tolist()]
        flat = np.empty(len(texts), dtype=object)
        flat[:] = texts
        return flat.reshape(array.shape)
    array = np.array(array, order="C")
    if kind in _RAW:
        return value.ortvalue_from_numpy_with_onnx_type(array.view(_RAW[kind]), kind)
    return value.ortvalue_from_numpy(array)


def _run(session: Any, feeds: dict[str, Any]) -> dict[str, Tensor]:
    outputs = session.get_outputs()
    names = [node.name for node in outputs]
    if any(isinstance(value, np.ndarray) for value in feeds.values()):
        results = session.run(
            names, {name: value if isinstance(value, np.ndarray) else value.numpy() for name, value in feeds.items()}
        )
    else:
        results = session.run_with_ort_values(names, feeds)
    return {node.name: _tensor(DATATYPES[node.type], value) for node, value in zip(outputs, results, strict=True)}


def _tensor(datatype: str, value: Any) -> Tensor:
    if datatype == "BYTES":
        array = value if isinstance(value, np.ndarray) else value.numpy()
        texts = [str(each).encode() for each in array.ravel().tolist()]
        return Tensor(datatype, array.shape, b"".join(struct.pack("<I", len(text)) + text for text in texts))
    if isinstance(value, np.ndarray):
        return Tensor(datatype, value.shape, value.tobytes())
    shape = tuple(value.shape())
    size = int(np.prod(shape, dtype=np.int64)) * ITEM_BYTES[datatype]
    return Tensor(datatype, shape, ctypes.string_at(value.data_ptr(), size) if size else b"")


def difference(got: dict[str, Tensor], right: Set) -> str:
    """What is wrong with an answer; empty: nothing. Floats may differ by rounding: threads share a sum differently."""
    if got.keys() != right.outputs.keys():
        return f"outputs {sorted(got)} instead of {sorted(right.outputs)}"
    for name, want in right.outputs.items():
        have = got[name]
        if have[:2] != want[:2]:
            return f"{name} is {have[0]}{list(have[1])} instead of {want[0]}{list(want[1])}"
        if right.repeatable and have.data != want.data and not _close(have, want):
            return f"{name} has other values"
    return ""


def _close(have: Tensor, want: Tensor) -> bool:
    held = _FLOATS.get(have.datatype)
    if held is None or len(have.data) != len(want.data):
        return False
    tolerance = 1e-3 if have.datatype == "FP16" else 1e-5
    one, other = _array(have.data, held), _array(want.data, held)
    return bool(np.allclose(one, other, rtol=tolerance, atol=tolerance, equal_nan=True))


def _array(data: bytes, held: str) -> NDArray[Any]:
    return np.frombuffer(data, held)


def given(tensor: Tensor) -> TypedTensor:
    """What the client is given for an input."""
    kind = Datatype(tensor.datatype)
    return TypedTensor(bits_of(kind, tensor.shape, memoryview(tensor.data)), tensor.datatype, raw=kind in RAW)


def outputs_of(answer: Answer) -> dict[str, Tensor]:
    """The tensors of an answer."""
    return {name: _tensor_of(datatype, answer.raw(name)) for name, datatype in answer.datatypes.items()}


def _tensor_of(datatype: str, bits: NDArray[Any]) -> Tensor:
    if datatype == "BYTES":
        return Tensor(datatype, bits.shape, b"".join(struct.pack("<I", len(text)) + text for text in bits.ravel()))
    return Tensor(datatype, bits.shape, bits.tobytes())
