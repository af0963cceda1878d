"""ONNX Runtime.

External data is given to it as memory, which it copies: by itself it maps the files, and would go on reading them while
it serves, so that what is checked at a load says nothing of a later answer.

Batches of independent items run in a few fixed sizes on providers that plan again at each change of shape. A batch
between two sizes is filled up with its last item, a longer one is cut into several, and what was added is dropped.

Which provider a model runs on, and how a silent fallback is found out: `ort_providers`. External data is read by ONNX
Runtime itself, which refuses paths and symbolic links that leave the model's directory; hard links are the caller's to
refuse. No custom operator library is ever registered.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from agent.backends.base import NUMPY_DTYPES, RAW, BackendError, BackendProbe, LoadOptions, TensorInfo, is_memory_fault
from agent.backends.catalog import CATALOG
from agent.backends.ort_providers import (
    CPU,
    CUDA,
    NAME,
    Provider,
    first_line,
    guarded_session,
    listed,
    plugin_faults,
    targets_of,
    vendor,
    wanted_for,
    what_ran,
)
from agent.backends.ort_tiny_model import text_model, tiny_model

if TYPE_CHECKING:
    from agent.backends.base import Array

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
    "tensor(float8e4m3fn)": "FP8E4M3FN",
    "tensor(float8e4m3fnuz)": "FP8E4M3FNUZ",
    "tensor(float8e5m2)": "FP8E5M2",
    "tensor(float8e5m2fnuz)": "FP8E5M2FNUZ",
    "tensor(float8e8m0)": "FP8E8M0",
    "tensor(string)": "BYTES",
}
"""ONNX Runtime's names (onnxruntime/core/framework/data_types.cc) in the words of the Open Inference Protocol."""

_ELEMENT_TYPES = {
    "BF16": 16,
    "FP8E4M3FN": 17,
    "FP8E4M3FNUZ": 18,
    "FP8E5M2": 19,
    "FP8E5M2FNUZ": 20,
    "FP8E8M0": 24,
}
"""onnx.proto, TensorProto.DataType, of what NumPy has no type for."""
BATCH_SIZES = (1, 8, 32)
Run = Callable[[int, "dict[str, Array]"], "list[Array]"]
"""A run of exactly so many items, with these inputs."""
MAX_COPIED_BYTES = 512 << 20
"""A model larger than that has one session: its weights would lie on the card three times."""
_OLDEST_IR, _OLDEST_OPSET = 7, 13
_NEWEST_TRIED = 64
_MAX_REASON = 1000
_TRY_S = 6.0
"""For one provider with a tiny model; a probe has 20 s in all, and TensorRT may take longer than that to start."""


class OnnxRuntime:
    """The backend for ONNX files."""

    def probe(self) -> BackendProbe:
        """Runs a tiny model on every provider that is listed, and tries which IR and opset versions load.

        `reason` says of each provider that is listed and does not work why, also where another does.
        """
        try:
            ort = vendor()
        except BackendError as error:
            return BackendProbe(usable=False, reason=error.message)
        targets: list[str] = []
        working: list[str] = []
        providers = listed(ort)
        reasons = list(plugin_faults())
        unknown = False
        for provider in providers:
            found, reason, passing = _tried(ort, provider)
            unknown |= passing
            if reason:
                reasons.append(f"{provider.name} is listed and does not work: {reason}")
            else:
                working.append(provider.name)
                targets += [target for target in found if target not in targets]
        return BackendProbe(
            usable=bool(targets),
            unknown=unknown,
            reason="; ".join(reasons)[:_MAX_REASON] or ("" if targets else "this onnxruntime lists no provider"),
            version=str(ort.__version__),
            targets=tuple(targets),
            providers=tuple(working),
            max_onnx_ir=_newest(lambda ir: tiny_model(ir, _OLDEST_OPSET), _OLDEST_IR),
            max_onnx_opset=_newest(lambda opset: tiny_model(_OLDEST_IR, opset), _OLDEST_OPSET),
        )

    def load(self, directory: str, entry: str, options: LoadOptions) -> OrtSession:
        """By path, never from bytes: only so does ONNX Runtime keep external data inside the directory."""
        return open_model(os.path.join(directory, entry), options)


class OrtSession:
    """One ONNX model in memory. `run` may be called from several threads where the provider allows it."""

    def __init__(
        self,
        session: Any,
        provider: str,
        *,
        concurrent: bool,
        batch_sizes: tuple[int, ...] = (),
        another: Callable[[], Any] | None = None,
    ) -> None:
        """`another` opens the same model once more: each of `batch_sizes` has a session of its own."""
        self._session = session
        self._sized = {1: session}
        self._another = another
        self._opening = threading.Lock()
        self.provider = provider
        self.concurrent = concurrent
        self.batch_sizes = batch_sizes
        self.inputs = tuple(_info(node) for node in session.get_inputs())
        outputs = {node.name: node for node in session.get_outputs()}  # a graph may list one twice
        self.outputs = tuple(map(_info, outputs.values()))
        self.optional_inputs = tuple(
            _info(node) for node in session.get_overridable_initializers() if node.type in DATATYPES
        )
        tensors = (*self.inputs, *self.optional_inputs, *self.outputs)
        self._strings = {tensor.name for tensor in tensors if tensor.datatype == "BYTES"}
        self._raw = {tensor.name: tensor.datatype for tensor in tensors if tensor.datatype in RAW}
        self._raw_asked = {tensor.name for tensor in (*self.inputs, *self.outputs) if tensor.datatype in RAW}
        self._input_names = [tensor.name for tensor in self.inputs]

    def run(self, feeds: dict[str, Array], outputs: Sequence[str]) -> list[Array]:
        """See BackendSession.run."""
        try:
            if len(self.batch_sizes) > 1 and (count := items_of(feeds, self._input_names)):
                return run_in_sizes(
                    lambda size, filled: self._run(self._for(size), filled, outputs), self.batch_sizes, feeds, count
                )
            return self._run(self._session, feeds, outputs)
        except BackendError:
            raise
        except Exception as error:  # noqa: BLE001 - the vendor's exceptions derive from Exception only
            code = "out_of_memory" if is_memory_fault(error) else "run_failed"
            raise BackendError(code, first_line(error)) from None

    def _for(self, size: int) -> Any:
        """The session that runs this many items and no other number, opened when it is first needed."""
        with self._opening:
            if size not in self._sized and self._another is not None:
                self._sized[size] = self._another()
            return self._sized[size]

    def _run(self, session: Any, feeds: dict[str, Array], outputs: Sequence[str]) -> list[Array]:
        if self._raw and (self._raw_asked or any(name in self._raw for name in feeds)):
            return self._run_values(session, feeds, outputs)
        if not self._strings:
            return session.run(outputs, feeds)  # type: ignore[no-any-return]
        texts = {name: _to_text(name, array) if name in self._strings else array for name, array in feeds.items()}
        results = session.run(outputs, texts)
        return [_to_bytes(a) if name in self._strings else a for name, a in zip(outputs, results)]

    def _run_values(self, session: Any, feeds: dict[str, Array], outputs: Sequence[str]) -> list[Array]:
        """NumPy has no bfloat16 and no 8-bit floats: they go in and come out as OrtValue, as their raw bits."""
        ort = vendor()
        value = ort.OrtValue
        given = {}
        for name, array in feeds.items():
            if name in self._raw:
                kind = _ELEMENT_TYPES[self._raw[name]]
                given[name] = value.ortvalue_from_numpy_with_onnx_type(np.asarray(array, order="C"), kind)
            elif name in self._strings:
                given[name] = _text_value(ort, _to_text(name, array))
            else:
                given[name] = value.ortvalue_from_numpy(array)
        results = session.run_with_ort_values(outputs, given)
        return [self._from_value(name, result) for name, result in zip(outputs, results)]

    def _from_value(self, name: str, result: Any) -> Array:
        if name in self._raw:
            shape = tuple(result.shape())
            dtype = np.dtype(NUMPY_DTYPES[self._raw[name]])
            size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
            return np.frombuffer(ctypes.string_at(result.data_ptr(), size) if size else b"", dtype).reshape(shape)
        array: Array = result.numpy()
        return _to_bytes(array) if name in self._strings else array

    def close(self) -> None:
        """Frees the model."""
        self._session = None
        self._sized.clear()


def items_of(feeds: Mapping[str, Array], inputs: Sequence[str]) -> int:
    """How many items these inputs hold along their first axes; 0 when they do not agree or others are given."""
    if set(feeds) != set(inputs):
        return 0
    counts = {array.shape[0] if array.ndim else 0 for array in feeds.values()}
    return counts.pop() if len(counts) == 1 else 0


def run_in_sizes(run: Run, sizes: Sequence[int], feeds: Mapping[str, Array], count: int) -> list[Array]:
    """The outputs of `count` items, by runs of `sizes` (ascending) items each. Raises BackendError(run_failed)."""
    parts = [_part(run, sizes, feeds, start, min(sizes[-1], count - start)) for start in range(0, count, sizes[-1])]
    return parts[0] if len(parts) == 1 else [np.concatenate(arrays) for arrays in zip(*parts)]


def _part(run: Run, sizes: Sequence[int], feeds: Mapping[str, Array], start: int, count: int) -> list[Array]:
    size = next(size for size in sizes if size >= count)
    filled = {name: _filled(array[start : start + count], size) for name, array in feeds.items()}
    results = run(size, filled)
    for result in results:
        if result.shape[:1] != (size,):
            raise BackendError("run_failed", f"an output of {size} items came with shape {list(result.shape)}")
    return [result[:count] for result in results]


def _filled(items: Array, size: int) -> Array:
    missing = size - len(items)
    return np.concatenate([items, np.repeat(items[-1:], missing, axis=0)]) if missing else items


def open_model(model: str | bytes, options: LoadOptions) -> OrtSession:
    """A session on the first provider of the target that works here; the next is tried only when one does not work.

    Raises BackendError: load_failed for a fault of the model, backend_unavailable with what each provider said.
    """
    ort = vendor()
    wanted = wanted_for(ort, options)
    if not wanted:
        raise BackendError(
            "backend_unavailable",
            f"this onnxruntime {ort.__version__} has no provider for {options.target}: {CATALOG[NAME].install}",
        )
    reasons = []
    for provider in wanted:
        found = _on(ort, model, provider, options)
        if isinstance(found, OrtSession):
            return found
        reasons.append(found)
    raise BackendError("backend_unavailable", "; ".join(reasons)[:_MAX_REASON])


def _on(ort: Any, model: str | bytes, provider: Provider, options: LoadOptions) -> OrtSession | str:
    """A session, or why the provider does not work here; a fault of the model is raised."""
    try:
        session = guarded_session(ort, model, provider, options)
        if options.target not in targets_of(provider):
            return f"{provider.name} runs here, but not on {options.target}"
        return OrtSession(
            session,
            what_ran(session, provider),
            concurrent=provider.concurrent,
            batch_sizes=_batch_sizes(model, provider, options),
            another=lambda: guarded_session(ort, model, provider, options),
        )
    except BackendError as error:
        if error.code != "backend_unavailable":
            raise
        return error.message


def _batch_sizes(model: str | bytes, provider: Provider, options: LoadOptions) -> tuple[int, ...]:
    """See BackendSession.batch_sizes.

    CUDA's provider plans its convolutions again at each change of shape and keeps the last plan only: on an H100 a
    change took 24 ms for LeNet and 290 ms for SqueezeNet, where a run takes 0.2 to 4 ms (docs/backends.md). So each
    size has a session of its own, with its own copy of the weights on the card, where they are not too large for that.
    How other accelerators take a change of shape was not measured: nothing is joined for them.
    """
    if provider.name == CPU:
        return ()
    if provider.name != CUDA or not options.independent or _bytes_of(model) > MAX_COPIED_BYTES:
        return (1,)
    return BATCH_SIZES


def _bytes_of(model: str | bytes) -> int:
    """Of the file and what lies beside it: external data, too."""
    if isinstance(model, bytes):
        return len(model)
    with os.scandir(os.path.dirname(model)) as entries:
        return sum(entry.stat().st_size for entry in entries if entry.is_file())


def _tried(ort: Any, provider: Provider) -> tuple[tuple[str, ...], str, bool]:
    """The targets that a session really computes on, or why none; True when that may be otherwise at the next try."""

    def run() -> tuple[tuple[str, ...], str, bool]:
        try:
            session = guarded_session(ort, tiny_model(_OLDEST_IR, _OLDEST_OPSET), provider, LoadOptions())
            (result,) = session.run(["y"], {"x": np.ones((1,), np.float32)})
            targets = targets_of(provider)
        except Exception as error:  # noqa: BLE001 - the vendor's exceptions derive from Exception only
            return (), error.message if isinstance(error, BackendError) else first_line(error), is_memory_fault(error)
        right = result.tolist() == [-1.0]
        return targets, "" if right else f"it computed {result.tolist()} where -1 is right", False

    found: list[tuple[tuple[str, ...], str, bool]] = []
    thread = threading.Thread(target=lambda: found.append(run()), daemon=True)
    thread.start()
    thread.join(_TRY_S)
    return found[0] if found else ((), f"it took longer than {_TRY_S:.0f} s with a model of one operator", True)


def _newest(build: Callable[[int], bytes], known_good: int) -> int:
    """The newest version in a row that loads on the CPU, from one that is known to."""
    newest = known_good
    while newest < _NEWEST_TRIED:
        try:
            open_model(build(newest + 1), LoadOptions())
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


def _text_value(ort: Any, texts: Array) -> Any:
    """Text as an OrtValue, which ONNX Runtime makes of no NumPy array: a model of one constant gives it."""
    session = ort.InferenceSession(text_model(texts.shape, texts.ravel().tolist()), providers=["CPUExecutionProvider"])
    return session.run_with_ort_values(["y"], {})[0]


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
