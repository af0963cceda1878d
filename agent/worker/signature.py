"""What a loaded model says it takes and gives, checked: it comes from a process that is not trusted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from pydantic import ValidationError

from agent.errors import PermanentError
from registry.contracts.catalogue.manifest import TensorSpec
from registry.contracts.codes import DeploymentCode
from registry.contracts.tensors import MAX_TENSORS

_SHOWN = 100
"""Characters of a name in a message."""


def parse(tensors: object) -> tuple[TensorSpec, ...]:
    """From [[name, datatype, shape], ...]. Raises ValueError when it is not that, within the contract's bounds."""
    if not isinstance(tensors, (list, tuple)) or len(tensors) > MAX_TENSORS:
        raise ValueError(f"not a list of at most {MAX_TENSORS} tensors")
    specs = []
    for entry in tensors:
        name, datatype, shape = entry
        specs.append({"name": name, "datatype": datatype, "shape": shape})
    try:
        parsed = tuple(TensorSpec.model_validate(spec) for spec in specs)
    except ValidationError as error:
        raise ValueError(f"not a tensor: {error.errors()[0]['msg']}") from None
    if len({spec.name for spec in parsed}) != len(parsed):
        raise ValueError("a tensor's name appears twice")
    return parsed


class Declared(Protocol):
    """The part of a worker's specification that says what the manifest declares."""

    @property
    def model(self) -> str:
        """For messages."""

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """Empty: not checked."""

    @property
    def optional_inputs(self) -> tuple[TensorSpec, ...]:
        """Those with a default."""

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """Empty: not checked."""


def agreed(
    declared: Declared, inputs: Sequence[TensorSpec], optional: Sequence[TensorSpec], outputs: Sequence[TensorSpec]
) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Inputs, inputs with a default, and outputs of a loaded model, once they are those of the manifest.

    What has no declared shape says so, which the loaded model cannot. Inputs with a default are those that both know.
    Raises PermanentError: signature_mismatch, or load_failed for a model without outputs.
    """
    if not outputs:
        raise PermanentError(DeploymentCode.LOAD_FAILED, f"the model of {declared.model} has no outputs")
    require("input", inputs, declared.inputs)
    require("output", outputs, declared.outputs)
    names = {spec.name: spec.datatype for spec in declared.optional_inputs}
    known = [spec for spec in optional if names.get(spec.name) == spec.datatype]
    return (
        _open(inputs, declared.inputs),
        _open(known, declared.optional_inputs),
        _open(outputs, declared.outputs),
    )


def _open(loaded: Sequence[TensorSpec], declared: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
    free = {spec.name for spec in declared if spec.any_rank}
    return tuple(spec.model_copy(update={"any_rank": True}) if spec.name in free else spec for spec in loaded)


def require(kind: str, loaded: Sequence[TensorSpec], declared: Sequence[TensorSpec]) -> None:
    """The loaded model is the declared one: names, datatypes, ranks of inputs; a dimension of -1 agrees with any.

    An output's shape is not compared: files declare wrong ones, and an answer has the shape that the model gave. An
    empty declaration asks for nothing. Raises PermanentError(signature_mismatch).
    """
    if not declared:
        return
    by_name = {spec.name: spec for spec in declared}
    for spec in loaded:
        wanted = by_name.pop(spec.name, None)
        if (
            wanted is None
            or wanted.datatype != spec.datatype
            or not (kind == "output" or wanted.any_rank or _shapes_agree(wanted.shape, spec.shape))
        ):
            raise PermanentError(
                DeploymentCode.SIGNATURE_MISMATCH,
                f"the model's {kind} {_show(spec)} is {_show(wanted) if wanted else 'not there'} in the manifest: "
                "publish the version again from this file",
            )
    if by_name:
        missing = ", ".join(map(_show, by_name.values()))
        raise PermanentError(
            DeploymentCode.SIGNATURE_MISMATCH, f"the model has no {kind} {missing}, which the manifest declares"
        )


def _shapes_agree(one: Sequence[int], other: Sequence[int]) -> bool:
    return len(one) == len(other) and all(a == b or -1 in (a, b) for a, b in zip(one, other, strict=True))


def _show(spec: Any) -> str:
    return f"{spec.name[:_SHOWN]!r} {spec.datatype}{list(spec.shape)}"
