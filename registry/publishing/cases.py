"""Golden cases from files: what a person gave, checked against the signature that all variants have in common."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from registry.client.errors import UsageFault
from registry.contracts.catalogue.golden import MAX_GOLDEN_BYTES, MAX_GOLDEN_CASES
from registry.contracts.catalogue.manifest import Manifest, TensorSpec
from registry.contracts.comparison.golden_file import (
    Case,
    check_cases,
    check_tensors,
    read_cases,
    with_bytes,
    write_cases,
)
from registry.contracts.comparison.parity import numbers
from registry.contracts.tensor_file import Tensor, TensorFileError, write_tensors
from registry.contracts.tensors import MAX_TENSORS, NUMPY_NAME, Datatype
from registry.inspection.arrays import load_tensors
from registry.inspection.facts import InspectionError

Tensors = tuple[TensorSpec, ...]
Signature = tuple[Tensors, Tensors]
"""Inputs and outputs."""
MAX_GOLDEN_TENSORS = MAX_GOLDEN_CASES * 2 * MAX_TENSORS


def signature(manifest: Manifest) -> Signature:
    """What fits every variant: a dimension is only free where it is in all of them."""
    told = [variant for variant in manifest.variants if variant.inputs]
    if not told:
        raise UsageFault("Golden vectors need a variant that says its inputs and outputs")
    inputs = _narrowed([variant.inputs for variant in told])
    outputs = _narrowed([variant.outputs for variant in told])
    if any(spec.datatype is Datatype.BYTES for spec in inputs):
        raise UsageFault("A model that takes BYTES has no golden vectors: their file has no form for it")
    return inputs, tuple(spec for spec in outputs if spec.datatype is not Datatype.BYTES)


def _narrowed(sides: Sequence[Tensors]) -> Tensors:
    return tuple(
        same[0].model_copy(
            update={"shape": tuple(max(dims) for dims in zip(*(spec.shape for spec in same), strict=True))}
        )
        for same in zip(*sides, strict=True)
    )


def given_cases(path: Path, specs: Signature) -> list[Case]:
    """The cases of a file that a person gave. Raises InspectionError."""
    try:
        content = write_tensors(load_tensors(path, MAX_GOLDEN_BYTES, MAX_GOLDEN_TENSORS))
        cases = with_bytes(read_cases(content, len(content)), content)
        require_comparable(cases, specs)
    except TensorFileError as error:
        raise InspectionError(f"{path.name}: {error}") from None
    return cases


def require_comparable(cases: Sequence[Case], specs: Signature) -> None:
    """They are of this model, and in some case each output has something to compare with: NaN and infinities are
    compared too, but a version of which nothing else is known proves nothing. Raises TensorFileError."""
    content = write_cases(cases)
    check_cases(read_cases(content, len(content)), *specs)
    finite: dict[str, bool] = {}
    for case in cases:
        for name, (datatype, _, data) in case.outputs.items():
            found = bool(np.isfinite(numbers(datatype, np.frombuffer(data, NUMPY_NAME[datatype]))).any())
            finite[name] = found or finite.get(name, False)
    if bare := [name for name, found in finite.items() if not found]:
        raise TensorFileError(
            f"output {bare[0]!r} has no finite element in any case, only NaN or infinity: nothing to compare"
        )


def given_requests(path: Path, inputs: Sequence[TensorSpec]) -> list[dict[str, Tensor]]:
    """`<case>/in/<input>` each; or the inputs by their names: one case. Nothing else. Raises InspectionError."""
    tensors = load_tensors(path, MAX_GOLDEN_BYTES, MAX_GOLDEN_TENSORS)
    names = {spec.name for spec in inputs}
    found: list[dict[str, Tensor]] = []
    if names <= tensors.keys():
        found.append({name: tensors.pop(name) for name in names})
    else:
        while all(f"{len(found)}/in/{name}" in tensors for name in names):
            number = len(found)
            found.append({name: tensors.pop(f"{number}/in/{name}") for name in names})
    if not found:
        raise InspectionError(
            f"{path.name} has neither the inputs {', '.join(sorted(names))}, nor 0/in/<input> of each"
        )
    if tensors:
        wanted = ", ".join(sorted(names))
        raise InspectionError(
            f"{path.name}: {min(tensors)[:256]!r} belongs to no case; of each it has the inputs {wanted}, no outputs"
        )
    try:
        for number, request in enumerate(found):
            check_tensors(f"case {number}: input", request, inputs)
    except TensorFileError as error:
        raise InspectionError(f"{path.name}: {error}") from None
    return found
