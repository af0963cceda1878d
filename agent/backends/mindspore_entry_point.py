"""Checkpoints whose network is built by code that came with them. Only in a worker process, only signed code.

The agent verified the signature, which holds for the module's digest, before it started this worker. Here the file is
read once; the bytes that are hashed are the bytes that are compiled, and the source that MindSpore asks for to compile
`construct` is theirs too: the file on disk is not looked at again. Python 3.9 syntax.
"""

from __future__ import annotations

import hashlib
import linecache
import os
import sys
from collections.abc import Sequence
from importlib.util import decode_source
from types import ModuleType
from typing import Any

import numpy as np

from agent.backends.base import NUMPY_DTYPES, RAW, BackendError, LoadOptions, TensorInfo, VerifiedEntryPoint
from agent.backends.mindspore_checkpoint import fill

MAX_MODULE_BYTES = 1 << 20
MODULE = "modelfleet_entry_point"
"""Its name in sys.modules, where MindSpore looks for the source of a class."""
TRIALS = ((1, 64), (2, 96))
"""Batch, and every other open dimension, of the runs on zeros that find out what comes out. Networks that halve a
picture five times take these."""
_DATATYPES = {code: name for name, code in NUMPY_DTYPES.items() if name not in (*RAW, "BYTES")}


def load(
    mindspore: Any, directory: str, entry: str, options: LoadOptions
) -> tuple[Any, tuple[TensorInfo, ...], tuple[TensorInfo, ...]]:
    """The filled network in graph mode, what goes in and what comes out.

    Inputs are as the manifest declares them, outputs as runs on zeros show them, under the manifest's names.
    Raises BackendError: entry_point_signature when the module is not the signed one, checkpoint_mismatch when the
    parameters are not the network's, else load_failed.
    """
    code = options.entry_point
    if code is None or not options.input_names:
        raise BackendError("load_failed", "the manifest names no entry point, or no inputs for it")
    text = read_source(directory, code)
    mindspore.set_context(mode=mindspore.GRAPH_MODE)
    network = build(mindspore, text, code)
    fill(mindspore, network, os.path.join(directory, entry), f"that {code.module}:{code.function} builds")
    network.set_train(False)
    inputs = tuple(map(TensorInfo, options.input_names, options.input_datatypes, options.input_shapes))
    unknown = [info.datatype for info in inputs if info.datatype not in _DATATYPES.values()]
    if unknown:
        raise BackendError("load_failed", f"MindSpore takes no input of {unknown[0]} here")
    network.set_inputs(*(_open_tensor(mindspore, info) for info in inputs))
    return network, inputs, _outputs(mindspore, network, inputs, options.output_names)


def read_source(directory: str, code: VerifiedEntryPoint) -> str:
    """The module's text, which has the signed digest. Raises BackendError(entry_point_signature, load_failed)."""
    try:
        descriptor = os.open(os.path.join(directory, code.module), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        with os.fdopen(descriptor, "rb") as stream:
            source = stream.read(MAX_MODULE_BYTES + 1)
    except OSError as error:
        raise BackendError("load_failed", f"the module {code.module} cannot be read: {error.strerror}") from None
    if "sha256:" + hashlib.sha256(source).hexdigest() != code.digest:
        message = f"the module {code.module} on disk is not the one that was signed; nothing of it was run"
        raise BackendError("entry_point_signature", message)
    try:
        return decode_source(source)
    except (SyntaxError, UnicodeDecodeError) as error:
        raise BackendError("load_failed", f"the module {code.module} is no Python source: {error}") from None


def build(mindspore: Any, text: str, code: VerifiedEntryPoint) -> Any:
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
        message = f"the network gives {len(first)} outputs, and the manifest declares {len(names)}"
        raise BackendError("load_failed", message)
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
        message = f"the network fails on zeros of {shapes}: {' '.join(str(error).split())[:300]}"
        raise BackendError("load_failed", message) from None
