"""One trial of a version that has no golden vectors: does it answer, and is there anything in the answer?

It proves nothing. It finds what is broken before a device does: weights that were never loaded, an export that lost its
inputs, scores that are NaN.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import prod
from typing import NamedTuple

import numpy as np

from registry.contracts.catalogue.manifest import ImageInput, TensorSpec
from registry.contracts.tensor_file import Tensor
from registry.contracts.tensors import ITEM_BYTES
from registry.running.parity import array_of, make_cases, random_inputs
from registry.running.process import Array, ModelProcess, ModelRunError

REQUESTS = 2
"""Different ones: an answer that does not depend on the request is seen."""


MAX_REQUEST_BYTES = 64 << 20
"""A longer trial request is not made."""


class Smoke(NamedTuple):
    """What a trial showed."""

    outputs: Mapping[str, Tensor]
    """Of the first request."""
    warnings: tuple[str, ...]


def smoke(
    process: ModelProcess, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], image: ImageInput | None
) -> Smoke:
    """Asks a running model with random values. Raises RunFailedError: it does not answer them, which may be right."""
    size = sum(prod(max(dim, 1) for dim in spec.shape) * ITEM_BYTES[spec.datatype] for spec in inputs)
    if size > MAX_REQUEST_BYTES:
        raise ModelRunError(f"it would have {size} bytes")
    requests = random_inputs(inputs, REQUESTS, image)
    cases = make_cases(process, requests, outputs)
    differ = any(bytes(requests[0][name].data) != bytes(requests[1][name].data) for name in requests[0])
    warnings: list[str] = []
    for spec in outputs:
        first, second = (array_of(case.outputs[spec.name]) for case in cases)
        warnings += [f"output {spec.name!r} {text}" for text in _findings(first, second, differ=differ)]
        if not spec.any_rank and not _fits(first.shape, spec.shape):
            warnings.append(
                f"output {spec.name!r} is declared as {list(spec.shape)} and came as {list(first.shape)}: answers have "
                "the shape that the model gives"
            )
    return Smoke(cases[0].outputs, tuple(warnings))


def _findings(first: Array, second: Array, *, differ: bool) -> Iterator[str]:
    trial = "for a request of random values"
    if not first.size:
        yield f"is empty, {list(first.shape)}, {trial}"
        return
    if first.dtype.kind == "f" and not np.isfinite(first).all():
        kind, found = ("NaN", np.isnan(first)) if np.isnan(first).any() else ("infinity", np.isinf(first))
        yield f"holds {kind} {trial}: {int(found.sum())} of {first.size} elements"
        return
    same = differ and first.shape == second.shape and first.tobytes() == second.tobytes()
    if first.size > 1 and (first.reshape(-1) == first.reshape(-1)[0]).all():
        yield f"is {first.reshape(-1)[0]} in all of its {first.size} elements {trial}"
    elif same:
        yield "is the same for two different requests of random values"


def _fits(shape: Sequence[int], declared: Sequence[int]) -> bool:
    return len(shape) == len(declared) and all(want in (-1, have) for have, want in zip(shape, declared, strict=True))
