"""A picture fits an input with a batch dimension anywhere, or with none."""

from __future__ import annotations

import pytest

from registry.contracts.catalogue.manifest import ImageInput
from registry.contracts.catalogue.picture_inputs import item_shape, request_shape


@pytest.mark.parametrize(
    ("declared", "expected"),
    [
        ((-1, 3, 4, 5), (1, 3, 4, 5)),
        ((1, 3, 4, 5), (1, 3, 4, 5)),
        ((3, 4, 5), (3, 4, 5)),
        ((-1, -1, -1), (3, 4, 5)),
        ((-1, -1, -1, -1), (1, 3, 4, 5)),
        ((3, 4, 5, -1), (3, 4, 5, 1)),
        ((3, 1, 4, 5), (3, 1, 4, 5)),
        ((1, -1, 3, 4, 5), (1, 1, 3, 4, 5)),
        ((2, 3, 4, 5), None),
        ((4, 5, 3), None),
        ((3, 4), None),
        ((), None),
    ],
)
def test_dimensions_of_one_may_stand_anywhere(declared: tuple[int, ...], expected: tuple[int, ...] | None) -> None:
    item = item_shape(ImageInput.model_validate({"input": "x", "height": 4, "width": 5}))
    assert request_shape(item, declared) == expected
