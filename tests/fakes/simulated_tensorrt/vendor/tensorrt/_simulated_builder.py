"""Builder, network, parser of the simulated TensorRT: what they build is a simulated plan around the ONNX file."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from cuda.bindings.runtime import GPU, SimulatedContractViolation

import tensorrt
from agent.backends.base import BackendError, LoadOptions
from agent.backends.ort import open_model
from tensorrt._simulated_engine import ILogger, registered
from tests.fakes.simulated_tensorrt.plan import simulated_plan


class MemoryPoolType(Enum):
    WORKSPACE = 0


class BuilderFlag(Enum):
    """TensorRT 11 has no FP16 any more: its networks are strongly typed."""

    VERSION_COMPATIBLE, EXCLUDE_LEAN_RUNTIME = range(2)


class SimulatedProfile:
    def __init__(self) -> None:
        self.shapes: dict[str, list[list[int]]] = {}

    def set_shape(self, input: str, min: Sequence[int], opt: Sequence[int], max: Sequence[int]) -> None:  # noqa: A002
        if not all(0 <= a <= b <= c for a, b, c in zip(min, opt, max, strict=True)):
            raise ValueError("simulated: min <= opt <= max does not hold")
        self.shapes[input] = [list(min), list(opt), list(max)]


class SimulatedConfig:
    def __init__(self) -> None:
        self.profiles: list[SimulatedProfile] = []
        self.flags: set[BuilderFlag] = set()

    def set_flag(self, flag: BuilderFlag) -> None:
        self.flags.add(flag)

    def set_memory_pool_limit(self, pool: MemoryPoolType, pool_size: int) -> None:
        if not isinstance(pool, MemoryPoolType) or pool_size < 1:
            raise TypeError("simulated: set_memory_pool_limit")

    def add_optimization_profile(self, profile: SimulatedProfile) -> int:
        self.profiles.append(profile)
        return len(self.profiles) - 1


class SimulatedNetwork:
    def __init__(self) -> None:
        self.onnx = b""
        self.inputs: list[Any] = []

    @property
    def num_inputs(self) -> int:
        return len(self.inputs)

    def get_input(self, index: int) -> Any:
        return self.inputs[index]


class OnnxParser:
    def __init__(self, network: SimulatedNetwork, logger: ILogger) -> None:
        self._network, self._logger = network, registered(logger)
        self._errors: list[str] = []

    @property
    def num_errors(self) -> int:
        return len(self._errors)

    def get_error(self, index: int) -> Any:
        return SimpleNamespace(desc=lambda: self._errors[index])

    def parse_from_file(self, model: str) -> bool:
        content = Path(model).read_bytes()
        try:
            session = open_model(content, LoadOptions())
        except BackendError as error:
            self._errors.append(f"simulated parser: {error.message}")
            return False
        self._network.onnx = content
        self._network.inputs = [SimpleNamespace(name=t.name, shape=t.shape) for t in session.inputs]
        return True


class Builder:
    def __init__(self, logger: ILogger) -> None:
        self._logger = registered(logger)

    def create_network(self, flags: int = 0) -> SimulatedNetwork:
        return SimulatedNetwork()

    def create_builder_config(self) -> SimulatedConfig:
        return SimulatedConfig()

    def create_optimization_profile(self) -> SimulatedProfile:
        return SimulatedProfile()

    def build_serialized_network(self, network: SimulatedNetwork, config: SimulatedConfig) -> bytearray | None:
        if not network.onnx:
            raise SimulatedContractViolation("build_serialized_network of an empty network")
        open_inputs = {tensor.name for tensor in network.inputs if -1 in tensor.shape}
        if any(open_inputs - set(profile.shapes) for profile in config.profiles) or (
            open_inputs and not config.profiles
        ):
            self._logger.log(ILogger.Severity.ERROR, "Network has dynamic or shape inputs, but no optimization profile")
            return None
        profiles = [profile.shapes for profile in config.profiles]
        version = tensorrt.__version__
        return bytearray(simulated_plan(network.onnx, profiles, version=version, capability=GPU.capability))
