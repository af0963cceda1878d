"""OM models on Huawei Ascend through pyACL (`ascend_acl_calls` says how that is found).

Static shapes and gears (`ascend_acl_shapes`). Shape ranges and dynamic AIPP are refused when loading. Names, datatypes
and shapes come from the OM: conversion may change them (AIPP); an input that takes the bytes of a picture and no plain
tensor, YUV for one, is UINT8 with the bytes of an item. A model has a context of its own, which each thread binds
first; it executes one request at a time. All memory of the device is taken when loading. ACL checks no sizes, so
everything is checked here before it is copied.
"""

from __future__ import annotations

import os
import platform
import re
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import numpy as np

from agent.backends.ascend_acl_calls import MAX_DEVICES, NO_MEMORY, PROCESS, AclError, ask
from agent.backends.ascend_acl_shapes import (
    AIPP_INPUT,
    SHAPE_INPUT,
    Gear,
    batch_of,
    choose_gear,
    declared_outputs,
    read_gears,
)
from agent.backends.base import (
    NUMPY_DTYPES,
    BackendError,
    BackendProbe,
    DeviceTensor,
    LoadOptions,
    TensorInfo,
    checked_feed,
    size_of,
)

if TYPE_CHECKING:
    from agent.backends.base import Array

OM_MAGIC = b"IMOD"
OM_HEADER_BYTES = 256
"""An OM file begins with such a header (GE's ModelFileHeader)."""
_SOC = re.compile(r"Ascend(310|910)(?!\d)")
"""acl.get_soc_name says Ascend310, Ascend310P3, Ascend310B4, Ascend910B4, Ascend910_9391."""
_MAX_INFO_BYTES = 16384
DATATYPES = {
    0: "FP32",
    1: "FP16",
    2: "INT8",
    3: "INT32",
    4: "UINT8",
    6: "INT16",
    7: "UINT16",
    8: "UINT32",
    9: "INT64",
    10: "UINT64",
    11: "FP64",
    12: "BOOL",
    27: "BF16",
}
"""CANN's aclDataType in the words of the Open Inference Protocol."""
_ON_DEVICE = 0
"""acl.rt.get_run_mode: the process runs on the device's own CPU; its memory and the device's are the same kind."""
_HOST_TO_DEVICE, _DEVICE_TO_HOST, _DEVICE_TO_DEVICE = 1, 2, 3
_HUGE_PAGES_FIRST = 0
_MAX_BUFFER = 1 << 32
_ONNX_OUTPUT_NAME = re.compile(r"[^:]*:\d+:(.+)", re.DOTALL)
"""`operator:index:name`, as ACL names the outputs of a model that was ONNX."""


class AscendAcl:
    """The backend for OM files."""

    def probe(self) -> BackendProbe:
        """Starts ACL, counts devices, takes one and asks what it is.

        `version` is CANN's, `providers` the SoC's exact name: what an OM was converted for must be the same.
        """
        try:
            acl = PROCESS.start()
            PROCESS.take_device()
            try:
                soc = _soc_name(acl)
            finally:
                PROCESS.give_device()
            major, minor, patch = ask(acl, "get_version")
        except BackendError as error:
            return BackendProbe(usable=False, reason=error.message)
        version = _cann_version() or f"pyACL {major}.{minor}.{patch}"
        target = target_of(soc)
        if target is None:
            return BackendProbe(usable=False, reason=f"{soc} is neither an Ascend 310 nor a 910", version=version)
        return BackendProbe(usable=True, version=version, targets=(target,), providers=(soc,))

    def load(self, directory: str, entry: str, options: LoadOptions) -> AclSession:
        """Loads an OM file; what was taken is given back when that fails."""
        path = os.path.join(directory, entry)
        _check_header(path)
        acl = PROCESS.start()
        soc = _soc_name(acl)
        if options.target != target_of(soc):
            raise BackendError("backend_unavailable", f"this device is a {soc}, which is not {options.target!r}")
        device = options.settings.get("device")
        if device is not None and (type(device) is not int or not 0 <= device < MAX_DEVICES):
            raise BackendError("backend_unavailable", f"options.ascend_acl.device is {device!r}, not a device's number")
        return AclSession(acl, soc, path, device, may_pad=options.independent)


class AclSession:
    """One OM model on the device. `run` and `close` may come from any thread, one after the other."""

    concurrent = False
    batch_sizes: tuple[int, ...] = ()  # gears are filled up at hardly any cost

    def __init__(self, acl: Any, soc: str, path: str, device: int | None = None, *, may_pad: bool = False) -> None:
        """On that device, or on the one with the most memory left. `may_pad`: items are known to be independent.

        Raises BackendError; whatever was taken by then is given back.
        """
        self._acl = acl
        self._wanted_device = device
        self._may_pad = may_pad
        self._lock = threading.Lock()
        self.provider = soc
        with ExitStack() as stack:
            self._open(path, stack)
            self._stack = stack.pop_all()

    def _open(self, path: str, stack: ExitStack) -> None:
        """Takes everything; the stack gives it back in the opposite order."""
        acl = self._acl
        device = PROCESS.take_device(self._wanted_device)
        stack.callback(PROCESS.give_device)
        self._context = self._take(stack, "rt.create_context", "rt.destroy_context", device)
        self._model = self._take(stack, "mdl.load_from_file", "mdl.unload", path)
        self._desc = self._make(stack, "mdl.create_desc", "mdl.destroy_desc")
        ask(self._acl, "mdl.get_desc", self._desc, self._model)
        mode = ask(acl, "rt.get_run_mode")
        self._upload, self._download = (
            (_DEVICE_TO_DEVICE, _DEVICE_TO_DEVICE) if mode == _ON_DEVICE else (_HOST_TO_DEVICE, _DEVICE_TO_HOST)
        )
        self._gears, self._gear_index = self._read_gears()
        self._given = self._take_dataset(stack)
        self._feeds = self._take_inputs(stack)
        self._taken = self._take_dataset(stack)
        self._results = self._take_outputs(stack)
        self._staging_size = max((tensor.size for tensor in self._results.values()), default=0)
        self._staging = self._take(stack, "rt.malloc_host", "rt.free_host", self._staging_size)
        self.inputs = tuple(tensor.info for tensor in self._feeds.values())
        self.outputs = tuple(tensor.info for tensor in self._results.values())
        self._can_pad = self._may_pad and all(tensor.shape[:1] == (-1,) for tensor in self.outputs)

    def run(self, feeds: dict[str, Array], outputs: Sequence[str]) -> list[Array]:
        """See BackendSession.run. A batch between two gears is padded with zeros to the next, where items are known to
        be independent, and refused otherwise."""
        with self._lock:
            if self._context is None:
                raise BackendError("run_failed", "the model is closed")
            ask(self._acl, "rt.set_context", self._context, running=True)
            # Every input is checked against the OM's signature first.
            shapes = {name: checked_feed(tensor.info, feeds).shape for name, tensor in self._feeds.items()}
            gear = choose_gear(self._gears, shapes, can_pad=self._can_pad)
            for name, tensor in self._feeds.items():
                self._copy_in(tensor, feeds[name], gear.inputs[name])
            self._set_gear(gear, running=True)
            ask(self._acl, "mdl.execute", self._model, self._given, self._taken, running=True)
            batch = batch_of(gear, shapes)
            taken = dict(zip(self._results, gear.outputs))
            return [self._copy_out(self._results[name], taken[name], batch) for name in outputs]

    def close(self) -> None:
        """Gives everything back; when a part of that fails, the rest is given back before AclError is raised."""
        with self._lock:
            if self._context is None:
                return
            context, self._context = self._context, None
            try:
                ask(self._acl, "rt.set_context", context)
            finally:
                self._stack.close()

    # -- calls ---------------------------------------------------------------------------------------------------------

    def _take(self, stack: ExitStack, call: str, undo: str, *arguments: Any) -> Any:
        """A call that returns (handle, error number), and how the handle is given back."""
        handle = ask(self._acl, call, *arguments)
        stack.callback(ask, self._acl, undo, handle)
        return handle

    def _make(self, stack: ExitStack, call: str, undo: str, *arguments: Any) -> int:
        """A call that returns a handle only: 0 or None when ACL has no memory for it."""
        handle = attrgetter(call)(self._acl)(*arguments)
        if not handle:
            raise AclError(f"acl.{call}", NO_MEMORY)
        stack.callback(ask, self._acl, undo, handle)
        return int(handle)

    # -- loading -------------------------------------------------------------------------------------------------------

    def _read_gears(self) -> tuple[tuple[Gear, ...], int]:
        """What the OM was converted for, and the input that takes it; none: static."""
        names = [self._input_name(index) for index in range(self._acl.mdl.get_num_inputs(self._desc))]
        if AIPP_INPUT in names:
            raise BackendError("load_failed", "the OM has dynamic AIPP, which needs parameters that no request carries")
        self._infos = {name: self._input_info(index, name) for index, name in enumerate(names) if name != SHAPE_INPUT}
        shapes = {name: info.shape for name, info in self._infos.items()}
        if SHAPE_INPUT not in names:
            if any(-1 in shape for shape in shapes.values()):
                raise BackendError("load_failed", "shape ranges are not supported: convert the model with gears")
            return (Gear(shapes, "", ()),), -1  # ACL is told nothing
        return read_gears(self._acl, self._desc, shapes), names.index(SHAPE_INPUT)

    def _input_info(self, index: int, name: str) -> TensorInfo:
        """As the OM says it; the bytes of a picture where that is all that fits the input's size (AIPP)."""
        mdl = self._acl.mdl
        dims = ask(self._acl, "mdl.get_input_dims", self._desc, index)
        info = _info(name, mdl.get_input_data_type(self._desc, index), dims["dims"])
        size = mdl.get_input_size_by_index(self._desc, index)
        if info.datatype != "UINT8" or -1 in info.shape or size_of(info, info.shape) == size:
            return info
        items = info.shape[0] if info.shape else 1
        if size % items:
            raise BackendError("load_failed", f"input {name!r} takes {size} bytes, which are not {items} pictures")
        return info._replace(shape=(items, size // items))

    def _input_name(self, index: int) -> str:
        return str(self._acl.mdl.get_input_name_by_index(self._desc, index))

    def _take_dataset(self, stack: ExitStack) -> int:
        return self._make(stack, "mdl.create_dataset", "mdl.destroy_dataset")

    def _take_buffer(self, stack: ExitStack, dataset: int, size: int) -> int:
        """Memory on the device, in a data buffer of the dataset."""
        pointer = self._take(stack, "rt.malloc", "rt.free", size, _HUGE_PAGES_FIRST)
        buffer = self._make(stack, "create_data_buffer", "destroy_data_buffer", pointer, size)
        ask(self._acl, "mdl.add_dataset_buffer", dataset, buffer)
        return int(pointer)

    def _take_inputs(self, stack: ExitStack) -> dict[str, DeviceTensor]:
        mdl = self._acl.mdl
        tensors = {}
        for index in range(mdl.get_num_inputs(self._desc)):
            name, size = self._input_name(index), mdl.get_input_size_by_index(self._desc, index)
            if not 0 < size <= _MAX_BUFFER:
                raise BackendError("load_failed", f"input {name!r} has no fixed size: shape ranges are not supported")
            pointer = self._take_buffer(stack, self._given, size)
            if index == self._gear_index:
                continue
            info = self._infos[name]
            wanted = max(size_of(info, gear.inputs[name]) for gear in self._gears)
            if wanted != size:
                message = f"input {name!r} takes {size} bytes where {info.datatype}{list(info.shape)} has {wanted}"
                raise BackendError("load_failed", f"{message}: a form of AIPP that is not supported")
            tensors[name] = DeviceTensor(info, pointer, size)
        return tensors

    def _take_outputs(self, stack: ExitStack) -> dict[str, DeviceTensor]:
        mdl = self._acl.mdl
        tensors = {}
        self._gears = tuple(gear._replace(outputs=self._outputs_of(gear)) for gear in self._gears)
        shapes = declared_outputs(self._gears)
        for index, shape in enumerate(shapes):
            found = str(mdl.get_output_name_by_index(self._desc, index))
            match = _ONNX_OUTPUT_NAME.fullmatch(found)
            name, size = match.group(1) if match else found, mdl.get_output_size_by_index(self._desc, index)
            info = _info(name, mdl.get_output_data_type(self._desc, index), shape)
            if not 0 < size <= _MAX_BUFFER or max(size_of(info, gear.outputs[index]) for gear in self._gears) > size:
                raise BackendError(
                    "load_failed",
                    f"output {name!r} has {size} bytes, which is not what {info.datatype}{list(shape)} takes",
                )
            tensors[name] = DeviceTensor(info, self._take_buffer(stack, self._taken, size), size)
        if len(tensors) != len(shapes):
            raise BackendError("load_failed", "two outputs of the OM have the same name")
        return tensors

    def _outputs_of(self, gear: Gear) -> tuple[tuple[int, ...], ...]:
        """As ACL infers them once it is told the gear."""
        self._set_gear(gear)
        shapes = []
        for index in range(self._acl.mdl.get_num_outputs(self._desc)):
            dims = ask(self._acl, "mdl.get_cur_output_dims", self._desc, index)
            if any(dim < 0 for dim in dims["dims"]):
                raise BackendError("load_failed", "the size of an output depends on the data of a request")
            shapes.append(tuple(dims["dims"]))
        return tuple(shapes)

    # -- running -------------------------------------------------------------------------------------------------------

    def _set_gear(self, gear: Gear, *, running: bool = False) -> None:
        if gear.call:
            ask(self._acl, gear.call, self._model, self._given, self._gear_index, *gear.argument, running=running)

    def _copy_in(self, tensor: DeviceTensor, array: Array, shape: Sequence[int]) -> None:
        """Padded with zeros to `shape`."""
        raw = array.tobytes().ljust(size_of(tensor.info, shape), b"\0")
        # `raw` must live until the copy is done: its pointer does not keep it.
        source = self._acl.util.bytes_to_ptr(raw)
        ask(self._acl, "rt.memcpy", tensor.pointer, tensor.size, source, len(raw), self._upload, running=True)

    def _copy_out(self, tensor: DeviceTensor, shape: tuple[int, ...], batch: int) -> Array:
        """Without what padding added."""
        if batch and tensor.info.shape[:1] == (-1,):
            shape = (batch, *shape[1:])
        size = size_of(tensor.info, shape)
        ask(
            self._acl,
            "rt.memcpy",
            self._staging,
            self._staging_size,
            tensor.pointer,
            size,
            self._download,
            running=True,
        )
        raw = self._acl.util.ptr_to_bytes(self._staging, size)
        return np.frombuffer(raw, NUMPY_DTYPES[tensor.info.datatype]).reshape(shape)


def target_of(soc: str) -> str | None:
    """The target platform (`Target` of the manifest) of a SoC name; None when it is neither 310 nor 910."""
    match = _SOC.match(soc)
    return f"ascend{match.group(1)}" if match else None


def _soc_name(acl: Any) -> str:
    name = acl.get_soc_name()
    if not isinstance(name, str) or not name:
        raise BackendError("backend_unavailable", "ACL does not know the SoC's name: check with `npu-smi info`")
    return name


def _cann_version() -> str:
    """As CANN's own file says, e.g. `8.0.RC1`; empty when it is not where the toolkit puts it."""
    home = os.environ.get("ASCEND_TOOLKIT_HOME") or os.environ.get("ASCEND_HOME_PATH") or ""
    folder = os.path.join(home, f"{platform.machine()}-linux")
    for kind in ("toolkit", "nnrt"):
        try:
            with open(os.path.join(folder, f"ascend_{kind}_install.info"), encoding="utf-8", errors="replace") as file:
                text = file.read(_MAX_INFO_BYTES)
        except OSError:
            continue  # the version is for people to read; pyACL's own takes its place
        match = re.search(r"^version=([\w.-]{1,64})$", text, re.MULTILINE)
        if match:
            return match.group(1)
    return ""


def _check_header(path: str) -> None:
    """What is no OM file at all never reaches the device."""
    try:
        with open(path, "rb") as file:
            header = file.read(OM_HEADER_BYTES)
    except OSError as error:
        raise BackendError("load_failed", f"the OM file cannot be read: {error.strerror}") from None
    if header[: len(OM_MAGIC)] != OM_MAGIC:
        raise BackendError("load_failed", "the file does not begin as an OM file does: convert the model with ATC")
    if len(header) < OM_HEADER_BYTES:
        raise BackendError("load_failed", "the OM file ends within its header: it is truncated")


def _info(name: str, datatype: int, dims: Sequence[int]) -> TensorInfo:
    if datatype not in DATATYPES:
        raise BackendError(
            "load_failed", f"{name!r} has ACL's datatype {datatype}, which the Open Inference Protocol does not know"
        )
    return TensorInfo(name, DATATYPES[datatype], tuple(dims))
