"""Every operator of the allow-list: a model that is proven, which ONNX Runtime confirms, and one that is refused."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from registry.inspection.independence.nodes import ML, NEWEST_ML_OPSET, NEWEST_OPSET, RULES
from registry.inspection.independence.walk import examine
from tests.support.models import independence
from tests.unit.registry.inspection.independence.cases import CASES

UNRUN = {"BitwiseNot"}


def key(name: str) -> tuple[str, str]:
    return (ML, name[3:]) if name.startswith("ml.") else ("", name)


def test_every_operator_of_the_list_has_a_case() -> None:
    assert {key(name) for name in CASES} | {(ML, "TreeEnsemble")} == set(RULES)


@pytest.mark.parametrize("name", CASES)
def test_one_use_is_proven_and_holds_in_onnx_runtime(name: str) -> None:
    model = CASES[name][0]()
    found = examine(model)
    assert found.independent, found.why
    runs = independence.session(model)
    items = independence.random_items(runs, np.random.default_rng(1))
    assert independence.disagreement(runs, items) == ""


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_an_item_of_nan_or_infinity_changes_no_other(name: str, value: float) -> None:
    runs = independence.session(CASES[name][0]())
    items = independence.random_items(runs, np.random.default_rng(2), count=5)
    for item in items[::2]:
        for array in item.values():
            if array.dtype.kind == "f":
                array[...] = value
    orders = [[0, 1], [1, 0], [0, 1, 2, 3, 4], [3, 4, 2, 1]]
    assert independence.disagreement(runs, items, orders) == ""


@pytest.mark.parametrize("name", CASES)
def test_another_use_is_refused_with_its_reason(name: str) -> None:
    found = examine(CASES[name][1]())
    assert not found.independent
    assert found.why


def test_the_newest_version_of_every_operator_was_read() -> None:
    """A newer `onnx` with another version of an operator is to be read before it is allowed."""
    schemas: dict[tuple[str, str], int] = {}
    for schema in onnx.defs.get_all_schemas_with_history():
        where = schema.domain, schema.name
        schemas[where] = max(schemas.get(where, 0), schema.since_version)
    assert {where: entry.last for where, entry in RULES.items()} == {where: schemas[where] for where in RULES}
    assert onnx.defs.onnx_opset_version() <= NEWEST_OPSET
    assert max(version for (domain, _), version in schemas.items() if domain == ML) <= NEWEST_ML_OPSET
