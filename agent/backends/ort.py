"""ONNX Runtime.

A provider that is listed is not one that works, and ONNX Runtime falls back to the CPU silently: a session counts only
when the wanted provider is among those it really has. External data is read by ONNX Runtime itself, which refuses
paths and symbolic links that leave the model's directory; hard links are the caller's to refuse. No custom operator
library is ever registered.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from agent.backends.base import NUMPY_DTYPES, BackendError, BackendProbe, LoadOptions, TensorInfo
from agent.backends.catalog import CATALOG

if TYPE_CHECKING:
    from agent.backends.base import Array

NAME = "onnxruntime"
PROVIDERS = {"cpu": "CPUExecutionProvider", "gpu": "CUDAExecutionProvider"}
"""The provider for each target platform."""

DATATYPES = {
    "tensor(bool)": "BOOL",
    "tensor(uint8)": "UINT8",
    "tensor(uint16)": "UINT16",
    "tensor(uint32)": "UINT32",
    "tensor(uint64)": "UINT64",
    "tensor(int8)": "INT8",
    "tensor(int16)": "INT16",
    "tensor(int32)": "INT32",
    "tensor(int64)": "INT64",
    "tensor(float16)": "FP16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(bfloat16)": "BF16",
    "tensor(string)": "BYTES",
}
"""ONNX Runtime's names (onnxruntime/core/framework/data_types.cc) in the words of the Open Inference Protocol."""

_BFLOAT16 = 16
"""onnx.proto, TensorProto.DataType.BFLOAT16."""
_FATAL = 4
"""Log severity: what goes wrong comes as an exception, and a worker's stderr is small."""
_OLDEST_IR, _OLDEST_OPSET = 7, 13
_NEWEST_TRIED = 64


class OnnxRuntime:
    """The backend for ONNX files."""

    def probe(self) -> BackendProbe:
        """Runs a tiny model on every provider of the table, and tries which IR and opset versions load."""
        try:
            ort = _vendor()
        except BackendError as error:
            return BackendProbe(usable=False, reason=error.message)
        version = str(ort.__version__)
        reasons = {target: _why_unusable(target) for target in PROVIDERS}
        working = tuple(target for target, reason in reasons.items() if not reason)
        if not working:
            return BackendProbe(usable=False, reason=reasons["cpu"], version=version)
        return BackendProbe(
            usable=True,
            version=version,
            targets=working,
            providers=tuple(PROVIDERS[target] for target in working),
            max_onnx_ir=_newest(lambda ir: tiny_model(ir, _OLDEST_OPSET), _OLDEST_IR),
            max_onnx_opset=_newest(lambda opset: tiny_model(_OLDEST_IR, opset), _OLDEST_OPSET),
        )

    def load(self, directory: str, entry: str, options: LoadOptions) -> OrtSession:
        """By path, never from bytes: only so does ONNX Runtime keep external data inside the directory."""
        return OrtSession(open_session(os.path.join(directory, entry), options), options)


class OrtSession:
    """One ONNX model in memory. `run` may be called from several threads."""

    concurrent = True

    def __init__(self, session: Any, options: LoadOptions) -> None:
        self._session = session
        self.provider = PROVIDERS[options.target]
        self.inputs = tuple(_info(node) for node in session.get_inputs())
        self.outputs = tuple(_info(node) for node in session.get_outputs())
        signature = {tensor.name: tensor.datatype for tensor in (*self.inputs, *self.outputs)}
        self._strings = {name for name, datatype in signature.items() if datatype == "BYTES"}
        self._bfloats = {name for name, datatype in signature.items() if datatype == "BF16"}
        self._shapes = {tensor.name: tensor.shape for tensor in self.inputs}

    def run(self, feeds: dict[str, Array], outputs: Sequence[str]) -> list[Array]:
        """See Session.run."""
        try:
            if self._bfloats:
                return self._run_values(feeds, outputs)
            if not self._strings:
                return self._session.run(outputs, feeds)  # type: ignore[no-any-return]
            texts = {name: _to_text(name, array) if name in self._strings else array for name, array in feeds.items()}
            results = self._session.run(outputs, texts)
            return [_to_bytes(a) if name in self._strings else a for name, a in zip(outputs, results)]
        except BackendError:
            raise
        except Exception as error:  # noqa: BLE001 - the vendor's exceptions derive from Exception only
            raise BackendError("run_failed", _first_line(error)) from None

    def _run_values(self, feeds: dict[str, Array], outputs: Sequence[str]) -> list[Array]:
        """NumPy has no bfloat16: such tensors go in and come out as OrtValue, as their raw bits."""
        value = _vendor().OrtValue
        given = {}
        for name, array in feeds.items():
            if name in self._bfloats:
                given[name] = value.ortvalue_from_numpy_with_onnx_type(np.asarray(array, order="C"), _BFLOAT16)
            else:
                given[name] = value.ortvalue_from_numpy(_to_text(name, array) if name in self._strings else array)
        results = self._session.run_with_ort_values(outputs, given)
        return [self._from_value(name, result) for name, result in zip(outputs, results)]

    def _from_value(self, name: str, result: Any) -> Array:
        if name in self._bfloats:
            shape = tuple(result.shape())
            count = int(np.prod(shape, dtype=np.int64))
            raw = ctypes.string_at(result.data_ptr(), 2 * count) if count else b""
            return np.frombuffer(raw, NUMPY_DTYPES["BF16"]).reshape(shape)
        array: Array = result.numpy()
        return _to_bytes(array) if name in self._strings else array

    def close(self) -> None:
        """Frees the model."""
        self._session = None


def _vendor() -> Any:
    # Some builds carry an uploader of usage data; it must be off before the import.
    os.environ.update(CATALOG[NAME].settings)
    try:
        import onnxruntime  # noqa: PLC0415 - heavy, and absent on hosts that run something else
    except ImportError as error:
        message = f"onnxruntime cannot be imported ({_first_line(error)}): {CATALOG[NAME].install}"
        raise BackendError("backend_unavailable", message) from None
    onnxruntime.set_default_logger_severity(_FATAL)
    return onnxruntime


def open_session(model: str | bytes, options: LoadOptions) -> Any:
    """An InferenceSession on the wanted provider, or BackendError."""
    ort = _vendor()
    provider = PROVIDERS.get(options.target)
    if provider is None or provider not in ort.get_available_providers():
        raise BackendError(
            "backend_unavailable",
            f"this onnxruntime {ort.__version__} has no provider for {options.target}: {CATALOG[NAME].install}",
        )
    settings = ort.SessionOptions()
    settings.log_severity_level = _FATAL
    settings.intra_op_num_threads = options.cores if options.profile == "latency" else 1
    settings.inter_op_num_threads = 1
    settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
    settings.add_session_config_entry("session.inter_op.allow_spinning", "0")
    if options.target != "cpu":
        settings.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    try:
        session = ort.InferenceSession(model, settings, providers=[provider], enable_fallback=0)
    except Exception as error:  # noqa: BLE001 - the vendor's exceptions derive from Exception only
        raise BackendError("load_failed", f"onnxruntime cannot load the model: {_first_line(error)}") from None
    if provider not in session.get_providers():
        raise BackendError(
            "backend_unavailable",
            f"onnxruntime fell back to {', '.join(session.get_providers())} although {provider} was asked for: "
            "the provider's libraries are missing or do not fit",
        )
    session.disable_fallback()
    return session


def _why_unusable(target: str) -> str:
    """Empty when a session really computes on the target's provider."""
    options = LoadOptions(target=target)
    try:
        session = OrtSession(open_session(tiny_model(_OLDEST_IR, _OLDEST_OPSET), options), options)
        (result,) = session.run({"x": np.ones((1,), np.float32)}, ["y"])
    except BackendError as error:
        return error.message
    return "" if result.tolist() == [-1.0] else f"{PROVIDERS[target]} computed {result.tolist()} where -1 is right"


def _newest(build: Callable[[int], bytes], known_good: int) -> int:
    """The newest version in a row that loads on the CPU, from one that is known to."""
    newest = known_good
    while newest < _NEWEST_TRIED:
        try:
            open_session(build(newest + 1), LoadOptions())
        except BackendError:
            break
        newest += 1
    return newest


def _info(node: Any) -> TensorInfo:
    datatype = DATATYPES.get(node.type)
    if datatype is None:
        raise BackendError(
            "load_failed", f"{node.name!r} is a {node.type}, which the Open Inference Protocol has no datatype for"
        )
    shape = tuple(dim if isinstance(dim, int) and dim >= 0 else -1 for dim in node.shape)
    return TensorInfo(node.name, datatype, shape)


def _to_text(name: str, array: Array) -> Array:
    """ONNX strings are UTF-8 (onnx.proto, TensorProto.string_data)."""
    try:
        texts = [element.decode("utf-8") for element in array.ravel().tolist()]
    except UnicodeDecodeError:
        raise BackendError("bad_payload", f"an element of {name!r} is not UTF-8, as ONNX strings are") from None
    flat = np.empty(len(texts), dtype=object)
    flat[:] = texts
    return flat.reshape(array.shape)


def _to_bytes(array: Array) -> Array:
    flat = np.empty(array.size, dtype=object)
    flat[:] = [str(element).encode("utf-8") for element in array.ravel().tolist()]
    return flat.reshape(array.shape)


def _first_line(error: BaseException) -> str:
    """What the vendor says, without the source paths and templates it likes to begin with."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 400 else f"{text[:120]} ... {text[-270:]}"


def tiny_model(ir_version: int, opset: int) -> bytes:
    """An ONNX file by hand: y = -x for one float. Field numbers: onnx.proto (ModelProto, GraphProto, NodeProto)."""
    one = _field(1, _number(1, 1))  # TensorShapeProto with one dimension of 1
    tensor = _field(1, _number(1, 1) + _field(2, one))  # TypeProto: a float tensor of that shape
    node = _field(1, b"x") + _field(2, b"y") + _field(4, b"Neg")
    graph = _field(1, node) + _field(2, b"tiny")
    graph += _field(11, _field(1, b"x") + _field(2, tensor)) + _field(12, _field(1, b"y") + _field(2, tensor))
    return _number(1, ir_version) + _field(7, graph) + _field(8, _number(2, opset))


def _number(field: int, value: int) -> bytes:
    """A protobuf varint field; numbers below 128 only."""
    return bytes((field << 3, value))


def _field(field: int, payload: bytes) -> bytes:
    """A protobuf length-delimited field; payloads below 128 bytes only."""
    return bytes((field << 3 | 2, len(payload))) + payload
