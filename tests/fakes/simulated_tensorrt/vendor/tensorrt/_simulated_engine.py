"""Runtime, engine and context of the simulated TensorRT. The rules: docstrings of TensorRT 11.4's bindings."""

from __future__ import annotations

import ctypes
import json
import struct
import sys
import weakref
from collections.abc import Sequence
from enum import Enum, IntEnum
from math import prod
from typing import Any

import numpy as np
from cuda.bindings.runtime import GPU, SimulatedContractViolation

import tensorrt
from agent.backends.base import NUMPY_DTYPES, BackendError, LoadOptions, TensorInfo
from agent.backends.ort import open_model

MAGIC = b"simulated TensorRT plan\0"
ALIVE: weakref.WeakSet[Any] = weakref.WeakSet()
"""Engines and contexts that nobody let go of yet."""


class DataType(Enum):
    FLOAT, HALF, INT8, INT32, BOOL, UINT8, FP8, BF16, INT64 = range(9)


class TensorIOMode(Enum):
    NONE, INPUT, OUTPUT = range(3)


class TensorLocation(Enum):
    DEVICE, HOST = range(2)


class TensorFormat(Enum):
    LINEAR, CHW2 = range(2)


_TYPES = {
    "FP32": DataType.FLOAT, "FP16": DataType.HALF, "INT8": DataType.INT8, "INT32": DataType.INT32,
    "BOOL": DataType.BOOL, "UINT8": DataType.UINT8, "BF16": DataType.BF16, "INT64": DataType.INT64,
}  # fmt: skip


class ILogger:
    class Severity(IntEnum):
        INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)

    first: ILogger | None = None
    """TensorRT registers the first logger of a process and keeps it."""

    def __init__(self) -> None:
        self.ready = True

    def log(self, severity: Severity, message: str) -> None:
        raise SimulatedContractViolation("ILogger.log is pure virtual")


class Logger(ILogger):
    """TensorRT's own, which prints."""

    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = ILogger.Severity

    def __init__(self, min_severity: ILogger.Severity = ILogger.Severity.WARNING) -> None:
        super().__init__()
        self._limit = min_severity

    def log(self, severity: ILogger.Severity, message: str) -> None:
        if severity <= self._limit:
            sys.stderr.write(f"[TRT] [{severity.name[0]}] {message}\n")


def registered(logger: ILogger) -> ILogger:
    if not isinstance(logger, ILogger) or not getattr(logger, "ready", False):
        raise TypeError("an ILogger whose __init__ was called is wanted")
    if ILogger.first is not None and ILogger.first is not logger:
        raise SimulatedContractViolation("the logger differs from one already registered in this process")
    ILogger.first = logger
    return logger


class Runtime:
    def __init__(self, logger: ILogger) -> None:
        self._logger = registered(logger)
        self.engine_host_code_allowed = False

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> SimulatedEngine | None:
        try:
            return self._deserialized(bytes(serialized_engine))
        except (ValueError, KeyError, struct.error, BackendError) as error:
            self._logger.log(ILogger.Severity.INFO, "simulated: some information")
            self._logger.log(ILogger.Severity.ERROR, f"IRuntime::deserializeCudaEngine: Error Code 1: {error}")
            return None

    def _deserialized(self, content: bytes) -> SimulatedEngine:
        if not content.startswith(MAGIC):
            raise ValueError(
                "Serialization (Serialization assertion stdArchiveReader failed. Magic tag does not match)"
            )
        start = len(MAGIC)
        length, total = struct.unpack_from("<IQ", content, start)
        if total != len(content):
            raise ValueError("the plan ends too early")
        meta = json.loads(content[start + 12 : start + 12 + length])
        built, here = tuple(meta["capability"]), GPU.capability
        if meta["version"] != tensorrt.__version__:
            text = f"expecting library version {meta['version']} got {tensorrt.__version__}"
            raise ValueError(f"The engine plan file is not compatible with this version of TensorRT, {text}")
        if built != here:
            text = f"expecting compute {built[0]}.{built[1]} got compute {here[0]}.{here[1]}, please rebuild."
            raise ValueError(f"The engine plan file is generated on an incompatible device, {text}")
        if meta.get("host_code") and not self.engine_host_code_allowed:
            raise ValueError("engine_host_code_allowed is not set: the plan contains host code")
        return SimulatedEngine(meta, content[start + 12 + length :], self._logger)


class SimulatedEngine:
    def __init__(self, meta: dict[str, Any], onnx: bytes, logger: ILogger) -> None:
        self.meta, self.logger = meta, logger
        self.session = open_model(onnx, LoadOptions())
        self.tensors = {tensor.name: tensor for tensor in (*self.session.inputs, *self.session.outputs)}
        self.inputs = {tensor.name for tensor in self.session.inputs}
        for tensor in self.tensors.values():
            if tensor.datatype not in _TYPES:
                raise ValueError(f"{tensor.name} has a type that TensorRT does not know")
        self.profiles: list[dict[str, list[list[int]]]] = meta["profiles"]
        ALIVE.add(self)

    @property
    def num_io_tensors(self) -> int:
        return len(self.tensors)

    @property
    def num_optimization_profiles(self) -> int:
        return max(len(self.profiles), 1)

    def get_tensor_name(self, index: int) -> str:
        return list(self.tensors)[index]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return TensorIOMode.INPUT if name in self.inputs else TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name: str) -> DataType:
        return DataType[self.meta.get("dtype", {}).get(name) or _TYPES[self.tensors[name].datatype].name]

    def get_tensor_shape(self, name: str) -> Sequence[int]:
        return self.tensors[name].shape

    def get_tensor_location(self, name: str) -> TensorLocation:
        return TensorLocation.HOST if name in self.meta.get("on_host", ()) else TensorLocation.DEVICE

    def get_tensor_format(self, name: str) -> TensorFormat:
        return TensorFormat.CHW2 if name in self.meta.get("vectorized", ()) else TensorFormat.LINEAR

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[tuple[int, ...]]:
        if name not in self.inputs or not 0 <= profile_index < self.num_optimization_profiles:
            raise SimulatedContractViolation(f"get_tensor_profile_shape({name!r}, {profile_index}): no such input")
        return [tuple(shape) for shape in self.profiles[profile_index][name]]

    def create_execution_context(self) -> SimulatedContext | None:
        if self.meta.get("no_context"):
            self.logger.log(ILogger.Severity.ERROR, "simulated: out of memory for the execution context")
            return None
        return SimulatedContext(self)


class SimulatedContext:
    def __init__(self, engine: SimulatedEngine) -> None:
        self.engine = engine
        self.profile = 0
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.addresses: dict[str, int] = {}
        self.pending = 0
        ALIVE.add(self)
        GPU.contexts.add(self)

    def _refuse(self, text: str) -> bool:
        self.engine.logger.log(ILogger.Severity.ERROR, text)
        return False

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        GPU.work(stream_handle)
        if not 0 <= profile_index < self.engine.num_optimization_profiles:
            return self._refuse("simulated: no such profile")
        self.profile = profile_index
        self.shapes.clear()
        return True

    def set_input_shape(self, name: str, shape: Sequence[int]) -> bool:
        declared = self.engine.tensors[name].shape
        if name not in self.engine.inputs or len(shape) != len(declared):
            return self._refuse(f"simulated: {name} takes no such shape")
        low, high = declared, declared
        if -1 in declared:
            low, _, high = self.engine.get_tensor_profile_shape(name, self.profile)
        if any(not a <= dim <= b for a, dim, b in zip(low, shape, high, strict=True)):
            return self._refuse(f"simulated: {name} {list(shape)} is not within [{list(low)}, {list(high)}]")
        self.shapes[name] = tuple(shape)
        return True

    def infer_shapes(self) -> list[str]:
        return [
            name for name in self.engine.inputs if -1 in self.engine.tensors[name].shape and name not in self.shapes
        ]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        """Outputs follow the batch here, unless the plan says that they depend on data."""
        if name in self.shapes:
            return self.shapes[name]
        if self.infer_shapes() or name in self.engine.meta.get("data_dependent", ()):
            return self.engine.tensors[name].shape
        return self._output(name)

    def _output(self, name: str) -> tuple[int, ...]:
        feeds = {
            tensor.name: np.zeros(self._shape(tensor), NUMPY_DTYPES[tensor.datatype])
            for tensor in self.engine.session.inputs
        }
        (result,) = self.engine.session.run(feeds, [name])
        return result.shape

    def _shape(self, tensor: TensorInfo) -> tuple[int, ...]:
        return self.shapes.get(tensor.name, tensor.shape)

    def set_tensor_address(self, name: str, memory: int) -> bool:
        if name not in self.engine.tensors or not memory:
            return self._refuse(f"simulated: no address for {name}")
        GPU.require(memory, 0)
        self.addresses[name] = memory
        return True

    def execute_async_v3(self, stream_handle: int) -> bool:
        work = GPU.work(stream_handle)
        if self.pending:
            raise SimulatedContractViolation("one context is executed again before its stream was synchronised")
        if missing := [name for name in self.engine.tensors if name not in self.addresses]:
            raise SimulatedContractViolation(f"execute_async_v3 before set_tensor_address of {missing}")
        if missing := self.infer_shapes():
            raise SimulatedContractViolation(f"execute_async_v3 before set_input_shape of {missing}")
        for tensor in self.engine.session.inputs:
            GPU.require(self.addresses[tensor.name], _size(tensor, self._shape(tensor)))
        if self.engine.meta.get("refuses_to_run"):
            return self._refuse("IExecutionContext::enqueueV3: Error Code 1: Cuda Runtime (simulated)")
        self.pending += 1
        work.append(self._execute)
        return True

    def _execute(self) -> None:
        self.pending -= 1
        feeds = {}
        for tensor in self.engine.session.inputs:
            shape = self._shape(tensor)
            raw = ctypes.string_at(self.addresses[tensor.name], _size(tensor, shape))
            feeds[tensor.name] = np.frombuffer(raw, NUMPY_DTYPES[tensor.datatype]).reshape(shape)
        names = [tensor.name for tensor in self.engine.session.outputs]
        try:
            results = self.engine.session.run(feeds, names)
        except BackendError:
            GPU.broken = 700
            return
        for name, result in zip(names, results, strict=True):
            GPU.require(self.addresses[name], result.nbytes)
            ctypes.memmove(self.addresses[name], np.ascontiguousarray(result).tobytes(), result.nbytes)


def _size(tensor: TensorInfo, shape: Sequence[int]) -> int:
    return prod(shape) * np.dtype(NUMPY_DTYPES[tensor.datatype]).itemsize
