"""Golden vectors on this machine: makes them with one variant, measures the others by them."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import numpy as np

from registry.contracts.catalogue.manifest import ImageInput, Parity, TensorSpec, Tolerance
from registry.contracts.comparison.golden_file import Case
from registry.contracts.comparison.parity import Comparison
from registry.contracts.tensor_file import Tensor
from registry.contracts.tensors import NUMPY_NAME, Datatype
from registry.running.process import Array, ModelProcess, ModelRunError

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
    if image is not None and image.input == spec.name and len(shape) == 4:
        first = 2 if image.layout == "NCHW" else 1
        shape = (*shape[:first], image.height, image.width, *shape[first + 2 :])
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
