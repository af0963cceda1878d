"""The cases of the `onnx` package, their first axis made free: what is proven of them, ONNX Runtime confirms.

All of them, with the counts that docs/batching.md states: MODELFLEET_BACKEND_CASES=all pytest -s <this file>
"""

from __future__ import annotations

import os
import sys
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx.backend.test.case.node import collect_testcases

from registry.inspection.independence.walk import examine
from tests.support.models import independence

EVERY = 1 if os.environ.get("MODELFLEET_BACKEND_CASES") == "all" else 12
"""In the suite, one case in twelve."""
DATA = Path(onnx.__file__).parent / "backend/test/data"


def models() -> Iterator[tuple[str, onnx.ModelProto, list[Any]]]:
    """Name, model and the inputs of its first data set."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cases = collect_testcases(None)  # type: ignore[arg-type]  # None: of every operator
    for case in cases[::EVERY]:
        model = onnx.ModelProto()
        model.CopyFrom(case.model)
        yield case.name, model, list(case.data_sets[0][0]) if case.data_sets else []
    for path in sorted(DATA.glob("*/*/model.onnx"))[::EVERY]:
        yield path.parent.name, onnx.load(path), []


def with_free_axis(model: onnx.ModelProto) -> list[str]:
    """Frees the first axis of every input and output, where they share its size; the inputs' names, or none."""
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in constants]
    values = [*inputs, *model.graph.output]
    if not inputs or any(
        value.type.WhichOneof("value") != "tensor_type" or not value.type.tensor_type.shape.dim for value in values
    ):
        return []
    firsts = [value.type.tensor_type.shape.dim[0] for value in values]
    if len({first.dim_value for first in firsts}) != 1:
        return []
    for first in firsts:
        first.dim_param = "N"
    return [value.name for value in inputs]


def items_of(names: list[str], data: list[Any]) -> list[dict[str, Any]]:
    """The rows of the case's own data; none where it has none for each input."""
    arrays = [np.asarray(each) for each in data]
    if len(arrays) != len(names) or any(array.ndim == 0 or array.dtype == object for array in arrays):
        return []
    rows = min(len(array) for array in arrays)
    return [{name: array[at : at + 1] for name, array in zip(names, arrays, strict=True)} for at in range(rows)]


def test_what_is_proven_of_the_backend_cases_holds() -> None:
    seen: Counter[str] = Counter()
    refusals: Counter[str] = Counter()
    faults = []
    for name, model, data in models():
        seen["cases"] += 1
        inputs = with_free_axis(model)
        if not inputs:
            continue
        seen["with a free first axis"] += 1
        found = examine(model)
        if not found.independent:
            refusals[found.why.partition("(")[2] or found.why] += 1
            continue
        seen["proven"] += 1
        try:
            runs = independence.session(model)
        except Exception:  # noqa: BLE001 - an operator that ONNX Runtime has not
            continue
        seen["proven and run"] += 1
        for items in (items_of(inputs, data), _random(runs)):
            fault = independence.disagreement(runs, items) if items else ""
            faults += [f"{name}: {fault}"] if fault else []
    sys.stdout.write("\n".join([str(dict(seen)), *(f"{count:4} {why}" for why, count in refusals.most_common())]))
    assert faults == []
    assert seen["proven and run"] > seen["with a free first axis"] / 2


def _random(runs: Any) -> list[dict[str, Any]]:
    try:
        return independence.random_items(runs, np.random.default_rng(2))
    except (TypeError, ValueError):
        return []
