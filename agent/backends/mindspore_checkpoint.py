"""MindSpore checkpoints: weights, filled into a network of this project's own catalogue, or into one that is built by
code that came with them.

Of a network of the catalogue no code of a model runs. Other code runs only in a worker process, and only signed code.
The agent verified the signature, which holds for the module's digest, before it started this worker. Here the file is
read once; the bytes that are hashed are the bytes that are compiled, and the source that MindSpore asks for to compile
`construct` is theirs too: the file on disk is not looked at again. Python 3.9 syntax.
"""

from __future__ import annotations

import hashlib
import linecache
import os
import sys
from collections.abc import Mapping, Sequence
from importlib.util import decode_source
from types import ModuleType
from typing import Any

import numpy as np

from agent.backends.base import NUMPY_DTYPES, RAW, BackendError, LoadOptions, TensorInfo, VerifiedEntryPoint
from registry.mindspore_networks import table

USUAL_SIDE = 224
"""Height and width of the trial where the network takes any and the manifest declares none."""
MAX_MODULE_BYTES = 1 << 20
MODULE = "modelfleet_entry_point"
"""Its name in sys.modules, where MindSpore looks for the source of a class."""
TRIALS = ((1, 64), (2, 96))
"""Batch, and every other open dimension, of the runs on zeros that find out what comes out. Networks that halve a
picture five times take these."""
_DATATYPES = {code: name for name, code in NUMPY_DTYPES.items() if name not in (*RAW, "BYTES")}


Loaded = tuple[Any, tuple[TensorInfo, ...], tuple[TensorInfo, ...]]
"""The filled network in graph mode, what goes in and what comes out."""


def load(mindspore: Any, directory: str, entry: str, options: LoadOptions) -> Loaded:
    """Fills the network that the options name, or that their entry point builds.

    Raises BackendError: checkpoint_mismatch when the parameters are not the network's, entry_point_signature when the
    module is not the signed one, else load_failed.
    """
    mindspore.set_context(mode=mindspore.GRAPH_MODE)
    path = os.path.join(directory, entry)
    if options.entry_point is not None:
        return _with_entry_point(mindspore, directory, path, options.entry_point, options)
    if options.network is None:
        raise BackendError(
            "load_failed",
            "a checkpoint holds weights only, and the manifest names no network: publish it with --network",
        )
    name, arguments = options.network
    network = build(name, arguments)
    fill(mindspore, network, path, name)
    network.set_train(False)
    takes = declared(tuple(network.takes), options.input_shapes)
    shape = [None if dim == -1 else dim for dim in takes]
    network.set_inputs(mindspore.Tensor(shape=shape, dtype=mindspore.float32))
    inputs = (TensorInfo(options.input_names[0] if len(options.input_names) == 1 else "x", "FP32", takes),)
    return network, inputs, (_output(mindspore, network, inputs, options.output_names),)


def _with_entry_point(
    mindspore: Any, directory: str, path: str, code: VerifiedEntryPoint, options: LoadOptions
) -> Loaded:
    """Inputs are as the manifest declares them, outputs as runs on zeros show them, under the manifest's names."""
    if not options.input_names:
        raise BackendError("load_failed", "the manifest names no inputs for the entry point")
    network = run_entry_point(mindspore, read_source(directory, code), code)
    fill(mindspore, network, path, f"that {code.module}:{code.function} builds")
    network.set_train(False)
    inputs = tuple(map(TensorInfo, options.input_names, options.input_datatypes, options.input_shapes))
    unknown = [info.datatype for info in inputs if info.datatype not in _DATATYPES.values()]
    if unknown:
        raise BackendError("load_failed", f"MindSpore takes no input of {unknown[0]} here")
    network.set_inputs(*(_open_tensor(mindspore, info) for info in inputs))
    return network, inputs, _outputs(mindspore, network, inputs, options.output_names)


def build(name: str, arguments: Mapping[str, Any]) -> Any:
    """As `table.build`. Raises BackendError(load_failed)."""
    try:
        return table.build(name, arguments)
    except ValueError as error:
        raise BackendError("load_failed", str(error)) from None


def fill(mindspore: Any, network: Any, path: str, name: str) -> None:
    """Every parameter from the file. Raises BackendError."""
    try:
        wrong = table.fill(mindspore, network, path)
    except ValueError as error:
        raise BackendError("load_failed", f"MindSpore cannot read the checkpoint: {error}") from None
    if wrong:
        raise BackendError(
            "checkpoint_mismatch",
            f"the checkpoint is not one of the network {name}: {'; '.join(wrong)}. Publish it with the network and "
            "the arguments that it was trained with (--network, --network-arg)",
        )


def declared(takes: tuple[int, ...], shapes: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """The manifest's shape of the input, where the network takes such; else the network's, which the agent refuses."""
    if len(shapes) != 1 or len(shapes[0]) != len(takes):
        return takes
    return shapes[0] if all(own in (-1, said) for own, said in zip(takes, shapes[0])) else takes


def _output(mindspore: Any, network: Any, inputs: tuple[TensorInfo, ...], names: Sequence[str]) -> TensorInfo:
    """From a run on zeros: a network does not declare what it gives."""
    result = _trial(mindspore, network, inputs, 1, USUAL_SIDE)[0]
    shape = (inputs[0].shape[0], *result.shape[1:])
    return TensorInfo(names[0] if len(names) == 1 else "y", "FP32", shape)


def read_source(directory: str, code: VerifiedEntryPoint) -> str:
    """The module's text, which has the signed digest. Raises BackendError(entry_point_signature, load_failed)."""
    try:
        descriptor = os.open(os.path.join(directory, code.module), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        with os.fdopen(descriptor, "rb") as stream:
            source = stream.read(MAX_MODULE_BYTES + 1)
    except OSError as error:
        raise BackendError("load_failed", f"the module {code.module} cannot be read: {error.strerror}") from None
    if "sha256:" + hashlib.sha256(source).hexdigest() != code.digest:
        raise BackendError(
            "entry_point_signature",
            f"the module {code.module} on disk is not the one that was signed; nothing of it was run",
        )
    try:
        return decode_source(source)
    except (SyntaxError, UnicodeDecodeError) as error:
        raise BackendError("load_failed", f"the module {code.module} is no Python source: {error}") from None


def run_entry_point(mindspore: Any, text: str, code: VerifiedEntryPoint) -> Any:
    """Runs the module and calls its function. Raises BackendError(load_failed) with what it raised."""
    file = f"<entry point {code.module}>"
    # An entry without a time is never compared with a file: `inspect` and MindSpore get these lines.
    linecache.cache[file] = (len(text), None, text.splitlines(True), file)
    module = ModuleType(MODULE)
    module.__file__ = file
    sys.modules[MODULE] = module
    try:
        exec(compile(text, file, "exec", dont_inherit=True), module.__dict__)  # noqa: S102 - signed, and checked above
        network = getattr(module, code.function)(**code.arguments)
    except MemoryError:
        raise  # the worker names its limit
    except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever the module raises
        said = f"{type(error).__name__}: {' '.join(str(error).split())[:400]}"
        message = f"the entry point {code.module}:{code.function} failed: {said}"
        raise BackendError("load_failed", message) from None
    if not isinstance(network, mindspore.nn.Cell):
        kind = type(network).__name__[:64]
        message = f"the entry point {code.module}:{code.function} gave a {kind}, not a mindspore.nn.Cell"
        raise BackendError("load_failed", message)
    return network


def _open_tensor(mindspore: Any, info: TensorInfo) -> Any:
    """With open dimensions the network is compiled once for all sizes."""
    kind = mindspore.Tensor(np.zeros(1, NUMPY_DTYPES[info.datatype])).dtype
    return mindspore.Tensor(shape=[None if dim == -1 else dim for dim in info.shape], dtype=kind)


def _outputs(
    mindspore: Any, network: Any, inputs: tuple[TensorInfo, ...], names: Sequence[str]
) -> tuple[TensorInfo, ...]:
    """From runs on zeros of two sizes: a dimension of an output that changes with them is open."""
    is_open = any(-1 in info.shape for info in inputs)
    runs = [_trial(mindspore, network, inputs, *sizes) for sizes in (TRIALS if is_open else TRIALS[:1])]
    first, last = runs[0], runs[-1]
    if len(first) != len(names):
        raise BackendError(
            "load_failed", f"the network gives {len(first)} outputs, and the manifest declares {len(names)}"
        )
    found = []
    for name, one, other in zip(names, first, last):
        datatype = _DATATYPES.get(one.dtype.str)
        if datatype is None or one.ndim != other.ndim:
            raise BackendError("load_failed", f"the output {name} has the type {one.dtype}, or a rank that changes")
        shape = tuple(dim if dim == also else -1 for dim, also in zip(one.shape, other.shape))
        found.append(TensorInfo(name, datatype, shape))
    return tuple(found)


def _trial(mindspore: Any, network: Any, inputs: tuple[TensorInfo, ...], batch: int, side: int) -> list[Any]:
    """What comes out for zeros, as arrays."""
    feeds = []
    for info in inputs:
        shape = [dim if dim != -1 else batch if axis == 0 else side for axis, dim in enumerate(info.shape)]
        feeds.append(mindspore.Tensor(np.zeros(shape, NUMPY_DTYPES[info.datatype])))
    try:
        result = network(*feeds)
        return [part.asnumpy() for part in (result if isinstance(result, (tuple, list)) else [result])]
    except Exception as error:  # noqa: BLE001 - MindSpore raises whatever its C++ threw
        shapes = ", ".join(str(list(feed.shape)) for feed in feeds)
        raise BackendError(
            "load_failed", f"the network fails on zeros of {shapes}: {' '.join(str(error).split())[:300]}"
        ) from None
