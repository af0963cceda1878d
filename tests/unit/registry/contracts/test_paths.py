"""Paths of the HTTP API from the names that stand in them."""

from __future__ import annotations

import pytest

from registry.contracts.paths import alias_path, models_path, version_path


def test_a_path_has_the_names_in_their_order() -> None:
    assert models_path() == "/v1/models"
    assert version_path("lenet5", "1.0.0+a") == "/v1/models/lenet5/versions/1.0.0+a"


def test_a_name_cannot_leave_its_level() -> None:
    assert alias_path("a/../b", "c d?#") == "/v1/models/a%2F..%2Fb/aliases/c%20d%3F%23"


@pytest.mark.parametrize("names", [(), ("lenet5",), ("lenet5", "1.0.0", "cpu")])
def test_a_path_takes_as_many_names_as_it_has(names: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="zip"):
        version_path(*names)
