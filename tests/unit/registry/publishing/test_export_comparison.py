"""An exported model is refused where it answers otherwise than the model itself, also where all answers are small."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import DTypeLike

from registry.publishing.sources.export_child import ExportRefusal, distance


@pytest.mark.parametrize("kind", ["<f2", "<f4", "<f8"])
@pytest.mark.parametrize("size", [1e-3, 1.0, 1e3])
def test_rounding_is_no_difference(kind: DTypeLike, size: float) -> None:
    wanted = (np.linspace(0.1, 1, 50) * size).astype(kind)
    assert distance(wanted, np.nextafter(wanted, wanted * 2)) < size * 1e-3


@pytest.mark.parametrize("kind", ["<f4", "<f8"])
def test_small_values_in_another_order_are_another_answer(kind: DTypeLike) -> None:
    """Each of 100,000 shares is below what larger values may be off."""
    wanted = np.random.default_rng(0).dirichlet(np.ones(100_000)).astype(kind)
    with pytest.raises(ExportRefusal, match="from the model itself"):
        distance(wanted, wanted[::-1])


def test_what_is_nothing_but_rounding_is_zero() -> None:
    assert distance(np.zeros(3, np.float32), np.full(3, 1e-9, np.float32)) == pytest.approx(1e-9)


def test_whole_numbers_are_equal_or_other_ones() -> None:
    numbers = np.array([30_000, 5], np.int64)
    assert distance(numbers, numbers.copy()) == 0
    with pytest.raises(ExportRefusal, match="up to 1 from"):
        distance(numbers, numbers + np.array([1, 0]))


def test_an_output_without_elements_has_no_difference() -> None:
    assert distance(np.zeros((0, 4), np.float32), np.zeros((0, 4), np.float32)) == 0
