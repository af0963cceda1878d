"""MindSpore: MindIR files, run as they are through GraphCell, and checkpoints (see `mindspore_checkpoint`).

MindSpore crashes when two threads run it and hangs after a fork, so a session is never concurrent and a worker is
always a fresh process. It takes a wrong batch size in silence, so shapes are checked here. A MindIR may name operators
that load a library or run Python: such a file is refused before MindSpore sees it. Names inside a MindIR are the
exporter's accident (`70_1_..._construct_15:CNode_37:40`): the manifest's names are given to them, in order.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from agent.backends import mindir, mindspore_checkpoint
from agent.backends.base import BackendError, BackendProbe, LoadOptions, TensorInfo
from agent.backends.catalog import CATALOG
from registry.mindspore_networks.table import NETWORKS

if TYPE_CHECKING:
    from agent.backends.base import Array

NAME = "mindspore"
DEVICES = {"cpu": "CPU", "gpu": "GPU", "ascend910": "Ascend"}
"""MindSpore's device for each target platform."""
CHECKPOINTS = (".ckpt", ".safetensors")
_TRIAL_S = 15.0
_TRIAL = """\
import sys
import mindspore, numpy
mindspore.set_device(sys.argv[1])
name = mindspore.hal.get_device_name(0) if sys.argv[1] == "Ascend" else ""
result = mindspore.ops.neg(mindspore.Tensor(numpy.ones(1, numpy.float32))).asnumpy()
assert result.tolist() == [-1.0], f"computed {result} where -1 is right"
assert sys.argv[1] != "Ascend" or "910" in name, f"the device is {name!r}, not an Ascend 910"
"""
"""Run in a process of its own: a driver that crashes must not take the probe with it."""


class MindSpore:
    """The backend for MindIR files and checkpoints."""

    def probe(self) -> BackendProbe:
        """Computes a number on every device that MindSpore says it has."""
        try:
            mindspore = _vendor()
        except BackendError as error:
            return BackendProbe(usable=False, reason=error.message)
        version = str(mindspore.__version__)
        reasons = {target: _why_unusable(mindspore, target) for target in DEVICES}
        working = tuple(target for target, reason in reasons.items() if not reason)
        if not working:
            return BackendProbe(usable=False, reason=reasons["cpu"], version=version)
        providers = tuple(DEVICES[target] for target in working)
        networks = tuple(sorted(NETWORKS))
        return BackendProbe(True, "", version, targets=working, providers=providers, networks=networks)

    def load(self, directory: str, entry: str, options: LoadOptions) -> MindSporeSession:
        """Inspects the file, then loads it for the wanted device. Raises BackendError."""
        mindspore = _vendor()
        path = os.path.join(directory, entry)
        is_mindir = options.network is None and options.entry_point is None and not entry.endswith(CHECKPOINTS)
        sides = mindir.inspect(path) if is_mindir else None
        device = DEVICES.get(options.target)
        if device is None:
            raise BackendError("backend_unavailable", f"MindSpore has no device for {options.target}")
        try:
            mindspore.set_device(device)
        except Exception as error:  # noqa: BLE001 - MindSpore raises whatever its C++ threw
            raise BackendError(
                "backend_unavailable", f"MindSpore cannot use {device}: {first_line(error)}; {CATALOG[NAME].install}"
            ) from None
        if sides is None:
            cell, inputs, outputs = mindspore_checkpoint.load(mindspore, directory, entry, options)
        else:
            try:
                cell = mindspore.nn.GraphCell(mindspore.load(path))
                cell.set_train(False)
            except Exception as error:  # noqa: BLE001 - as above
                raise BackendError("load_failed", f"MindSpore cannot load the model: {first_line(error)}") from None
            inputs, outputs = map(named, sides, (options.input_names, options.output_names))
        return MindSporeSession(cell, mindspore.Tensor, f"MindSpore {device}", inputs, outputs)


class MindSporeSession:
    """One model in memory. `run` from one thread at a time only."""

    concurrent = False
    batch_sizes: tuple[int, ...] = ()

    def __init__(
        self, cell: Any, tensor: Any, provider: str, inputs: tuple[TensorInfo, ...], outputs: tuple[TensorInfo, ...]
    ) -> None:
        self._cell = cell
        self._tensor = tensor
        self.provider = provider
        self.inputs = inputs
        self.outputs = outputs

    def run(self, feeds: dict[str, Array], outputs: Sequence[str]) -> list[Array]:
        """See BackendSession.run."""
        for info in self.inputs:
            check_shape(info, feeds[info.name].shape)
        try:
            # A copy of each input: MindSpore may still read it when the slot is filled again.
            given = [self._tensor(np.array(feeds[info.name], order="C", copy=True)) for info in self.inputs]
            answer = self._cell(*given)
            results = list(answer) if isinstance(answer, (tuple, list)) else [answer]
            arrays = {info.name: result.asnumpy() for info, result in zip(self.outputs, results)}
        except Exception as error:  # noqa: BLE001 - MindSpore raises whatever its C++ threw
            raise BackendError("run_failed", first_line(error)) from None
        if len(results) != len(self.outputs):
            raise BackendError(
                "run_failed", f"the model gave {len(results)} outputs, its file declares {len(self.outputs)}"
            )
        return [arrays[name] for name in outputs]

    def close(self) -> None:
        """Frees the model."""
        self._cell = None


def check_shape(info: TensorInfo, shape: Sequence[int]) -> None:
    """Raises BackendError(run_failed) unless the rank and every fixed dimension agree."""
    if len(shape) != len(info.shape) or any(want not in (-1, have) for want, have in zip(info.shape, shape)):
        raise BackendError("run_failed", f"input {info.name!r} has shape {list(info.shape)}, not {list(shape)}")


def named(tensors: tuple[TensorInfo, ...], names: Sequence[str]) -> tuple[TensorInfo, ...]:
    """The tensors under the manifest's names: by name when the file has the same ones, in order otherwise.

    A manifest that declares none, or another number, changes nothing; the agent then compares and refuses.
    """
    if len(names) != len(tensors) or {tensor.name for tensor in tensors} == set(names):
        return tensors
    return tuple(tensor._replace(name=name) for tensor, name in zip(tensors, names))


def first_line(error: BaseException) -> str:
    """MindSpore's own words in one line, without the ruled lines and the call stack of its C++ code below them."""
    said = re.split(r"\n-+\n- (?:C\+\+ )?Call Stack|\n-+\n- The Traceback", str(error), maxsplit=1)[0]
    text = " ".join(word for word in said.split() if word.strip("-")) or type(error).__name__
    return text if len(text) <= 400 else f"{text[:200]} ... {text[-190:]}"


def _settle() -> None:
    """MindSpore asks for a working and a temporary directory at import; a worker has neither, and needs neither."""
    try:
        os.getcwd()
    except OSError:
        os.chdir("/")
    try:
        tempfile.gettempdir()
    except OSError:
        tempfile.tempdir = "/nonexistent"


def _vendor() -> Any:
    _settle()
    os.environ.update(CATALOG[NAME].settings)  # Read at import: how much it logs, and where.
    try:
        import mindspore  # noqa: PLC0415 - heavy, and absent on hosts that run something else
    except MemoryError:
        raise  # the worker names its limit
    except Exception as error:  # noqa: BLE001 - a broken installation raises more than ImportError
        raise BackendError(
            "backend_unavailable", f"mindspore cannot be imported ({first_line(error)}): {CATALOG[NAME].install}"
        ) from None
    return mindspore


def _why_unusable(mindspore: Any, target: str) -> str:
    """Empty when MindSpore really computes on the target's device."""
    device = DEVICES[target]
    try:
        if not getattr(mindspore.device_context, device.lower()).is_available():
            return f"MindSpore finds no {device}"
        command = [sys.executable, "-I", "-c", _TRIAL, device]
        done = subprocess.run(command, capture_output=True, timeout=_TRIAL_S, text=True, check=False)
    except (OSError, RuntimeError, AttributeError, subprocess.TimeoutExpired) as error:
        return f"MindSpore cannot use {device}: {first_line(error)}"
    if done.returncode != 0:
        return f"MindSpore cannot use {device}: {(done.stderr.strip().splitlines() or ['it crashed'])[-1][-300:]}"
    return ""
