"""A validation set through one variant on this machine."""

from __future__ import annotations

import mmap
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np

from registry.contracts.catalogue.manifest import Classification, Variant
from registry.contracts.evaluation.datasets import read_dataset
from registry.contracts.evaluation.scoring import Scoring, items_at
from registry.contracts.tensor_file import TensorFileError, TensorSpan
from registry.contracts.tensors import NUMPY_NAME
from registry.errors import InvalidError
from registry.running.process import Array, ModelProcess

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
