"""What an inspection says of a model file, and how it refuses one. Nothing here is asked of the publisher."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from registry.contracts.catalogue.batching import Batching
from registry.contracts.catalogue.manifest import Format, Requirements, TensorSpec
from registry.errors import RegistryError
from registry.inspection.ultralytics import Described


class InspectionError(RegistryError):
    """The file cannot be published as it is; the message says what is wrong with it and what to do."""

    code = "invalid_model"


@dataclass(frozen=True)
class Parameter:
    """One weight of a checkpoint."""

    name: str
    datatype: str
    """`Float32`, as MindSpore's own form says it; of safetensors the wire's `FP32`."""
    shape: tuple[int, ...]
    size: int
    """Bytes."""


@dataclass(frozen=True)
class ModelFacts:
    """What one model file says of itself."""

    format: Format
    inputs: tuple[TensorSpec, ...] = ()
    optional_inputs: tuple[TensorSpec, ...] = ()
    """Those that the model has a default for."""
    outputs: tuple[TensorSpec, ...] = ()
    requirements: Requirements = field(default_factory=Requirements)
    companions: tuple[str, ...] = ()
    """Files that belong to the artifact, as POSIX paths relative to the model's folder, in the order of their names."""
    producer: str = ""
    """The program that wrote the file, as the file says."""
    parameters: tuple[Parameter, ...] = ()
    """The weights of a checkpoint, in the order of the file; empty for formats that hold a graph."""
    last_operators: Mapping[str, str] = field(default_factory=dict)
    """Output to the operator that makes its numbers, as far as the file says so."""
    batching: Batching | None = None
    """What the graph says of joining requests; None: the format's graph is not read."""
    warnings: tuple[str, ...] = ()
    """What will work, but perhaps not as the publisher expects."""
    described: Described | None = None
    """What the exporter wrote of the model beside it. Told to people."""
