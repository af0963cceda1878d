"""What is measured on this machine: golden vectors, a trial of a version that has none, a validation set.

One variant makes the golden vectors, the others are measured by them. A trial proves nothing: it finds what is broken
before a device does, as weights that were never loaded, an export that lost its inputs, scores that are NaN.
"""

from __future__ import annotations

import mmap
import time
from collections.abc import Iterator, Mapping, Sequence
from math import prod
from pathlib import Path
from typing import NamedTuple

import numpy as np

from registry.contracts.catalogue.manifest import Classification, ImageInput, Parity, TensorSpec, Tolerance, Variant
from registry.contracts.catalogue.picture_inputs import item_shape, request_shape
from registry.contracts.evaluation import Scoring, items_at, read_dataset
from registry.contracts.golden_vectors import Case, Comparison
from registry.contracts.tensor_file import Tensor, TensorFileError, TensorSpan, shape_fits
from registry.contracts.tensors import ITEM_BYTES, NUMPY_NAME, Datatype
from registry.errors import InvalidError
from registry.running.process import Array, ModelProcess, ModelRunError

BATCH = 32
"""Most items of one run, of a variant whose items are independent."""


class Evaluated(NamedTuple):
    """What came out."""

    value: float
    items: int
    seconds: float
    """Of the runs alone."""


def evaluate(
    process: ModelProcess,
    variant: Variant,
    classification: Classification | None,
    path: Path,
    metric: str,
) -> Evaluated:
    """Scores the variant on the set in the file at `path`.

    Raises:
        InvalidError: the set does not go with the model or the metric.
        RunFailedError: the model fails on an item.
    """
    with path.open("rb") as stream:
        content = memoryview(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ))
    try:
        dataset = read_dataset(content, len(content))
        scoring = Scoring(dataset, metric, variant.inputs, variant.outputs, classification)
        seconds = _score(process, content, dataset.items, scoring, _batch(variant, scoring))
    except TensorFileError as error:
        raise InvalidError(f"The validation set does not go with the variant {variant.name}: {error}.") from None
    return Evaluated(scoring.value(), dataset.items, round(seconds, 3))


def _batch(variant: Variant, scoring: Scoring) -> int:
    """Items of one run: one request's, or more where the manifest says that items are independent."""
    said, every = variant.batching, [spec.shape[:1] for spec in (*variant.inputs, *variant.outputs)]
    if said is None or not said.allows or any(first != (-1,) for first in every):
        return scoring.rows
    return min(BATCH, said.max_size or BATCH)


def _score(process: ModelProcess, content: memoryview, items: int, scoring: Scoring, rows: int) -> float:
    """Runs all items, `rows` at once; the seconds that the runs took."""
    arrays = {name: _array(content, span) for name, span in scoring.inputs.items()}
    right = _array(content, scoring.target)
    seconds = 0.0
    for start in range(0, items, rows):
        feeds = {name: items_at(array, start, rows) for name, array in arrays.items()}
        begin = time.perf_counter()
        answer = process.run(feeds)
        seconds += time.perf_counter() - begin
        scoring.add(answer[scoring.output], right[start : start + rows])
    return seconds


def _array(content: memoryview, span: TensorSpan) -> Array:
    return np.frombuffer(content[span.begin : span.end], NUMPY_NAME[span.datatype]).reshape(span.shape)


FREE_DIMENSION = 32
"""Of a dimension that may have any size and is not the leading one: most networks halve a picture five times."""
SEED = 20240607
Inputs = Mapping[str, Tensor]


def array_of(tensor: Tensor) -> Array:
    """The tensor as NumPy has it; BF16 as its raw bits."""
    return np.frombuffer(tensor.data, NUMPY_NAME[tensor.datatype]).reshape(tensor.shape)


def tensor_of(datatype: Datatype, array: Array) -> Tensor:
    """The array as a tensor. Raises RunFailedError when it has another type than it should."""
    if np.dtype(NUMPY_NAME[datatype]) != array.dtype:
        raise ModelRunError(f"{array.dtype} came where {datatype} is declared")
    return Tensor(datatype, array.shape, np.ascontiguousarray(array).tobytes())


def random_inputs(specs: Sequence[TensorSpec], count: int, image: ImageInput | None = None) -> list[Inputs]:
    """`count` requests of one item each that fit the signature, the same every time.

    Floats are in [0, 1), 8-bit unsigned integers in 0..255; other integers are 0 or 1, so that indices stay in range.
    """
    random = np.random.default_rng(SEED)
    return [{spec.name: _random_tensor(random, spec, image) for spec in specs} for _ in range(count)]


def _random_tensor(random: np.random.Generator, spec: TensorSpec, image: ImageInput | None) -> Tensor:
    shape = tuple((FREE_DIMENSION if axis else 1) if dim == -1 else dim for axis, dim in enumerate(spec.shape))
    if image is not None and image.input == spec.name:
        shape = request_shape(item_shape(image), spec.shape) or shape
    if spec.datatype in (Datatype.FP16, Datatype.FP32, Datatype.FP64):
        return tensor_of(spec.datatype, np.asarray(random.random(shape), NUMPY_NAME[spec.datatype]))
    integers = random.integers(0, 256 if spec.datatype is Datatype.UINT8 else 2, shape)
    return tensor_of(spec.datatype, np.asarray(integers, NUMPY_NAME[spec.datatype]))


def make_cases(process: ModelProcess, requests: Sequence[Inputs], outputs: Sequence[TensorSpec]) -> list[Case]:
    """What the reference answers to these requests. Raises RunFailedError."""
    cases = []
    for request in requests:
        answer = process.run({name: array_of(tensor) for name, tensor in request.items()})
        golden = {spec.name: tensor_of(spec.datatype, answer[spec.name]) for spec in outputs}
        cases.append(Case(dict(request), golden))
    return cases


def measure(process: ModelProcess, cases: Sequence[Case], tolerance: Tolerance) -> Parity:
    """How a variant's answers compare with the golden ones. A run that fails does not pass; nothing is raised."""
    comparison = Comparison(tolerance)
    runs_us: list[float] = []
    for number, case in enumerate(cases):
        feeds = {name: array_of(tensor) for name, tensor in case.inputs.items()}
        begin = time.perf_counter()
        try:
            answer = process.run(feeds)
        except ModelRunError as error:
            comparison.refuse(f"case {number}: run_failed: {error.message}")
            continue
        runs_us.append((time.perf_counter() - begin) * 1e6)
        comparison.add(
            number, {name: (want.datatype, answer[name], array_of(want)) for name, want in case.outputs.items()}
        )
    return comparison.parity(len(cases), runs_us)


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
        if not spec.any_rank and not shape_fits(first.shape, spec.shape):
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
