"""One caller has its part, and the others theirs."""

from __future__ import annotations

import pytest

from registry.core.shares import Budgets, Holdings, Lack, part_of


def test_one_caller_gets_its_part_and_leaves_the_rest() -> None:
    held = Holdings(8, part_of(8, 0.25))
    assert [held.take("greedy") for _ in range(4)] == [None, None, Lack.OWN, Lack.OWN]
    assert [held.take(str(name)) for name in range(6)] == [None] * 6
    assert held.take("late") is Lack.ALL
    held.give("greedy")
    assert held.take("late") is None
    assert held.most() == ("greedy", 1) or held.most() is not None


def test_amounts_are_bounded_together() -> None:
    held = Holdings(100, 40)
    assert held.take("a", 40) is None
    assert held.take("a", 1) is Lack.OWN
    assert held.take("b", 40) is None
    assert held.take("c", 30) is Lack.ALL
    assert held.take("c", 20) is None
    held.give("a", 40)
    assert held.held == {"b": 40, "c": 20}
    assert held.all == 60


def test_a_part_is_never_nothing() -> None:
    assert part_of(1, 0.25) == 1
    assert part_of(256, 0.25) == 64
    assert part_of(10, 1.0) == 10


def test_a_budget_is_a_burst_and_then_a_rate() -> None:
    budget = Budgets(rate=10, burst=100)
    assert sum(budget.spend("device", 1, 0.0) == 0 for _ in range(500)) == 100
    assert budget.spend("device", 1, 0.0) == pytest.approx(0.1)
    assert budget.spend("other", 100, 0.0) == 0
    assert sum(budget.spend("device", 1, 5.0) == 0 for _ in range(500)) == 50
    assert sum(budget.spend("device", 1, 1000.0) == 0 for _ in range(500)) == 100


def test_what_is_more_than_a_burst_is_given_to_whoever_spent_nothing() -> None:
    budget = Budgets(rate=10, burst=100)
    assert budget.spend("device", 300, 0.0) == 0
    assert budget.spend("device", 1, 0.0) == pytest.approx(20.1)
    assert budget.spend("device", 1, 20.2) == 0


def test_who_has_spent_nothing_for_long_takes_no_memory() -> None:
    budget = Budgets(rate=10, burst=100)
    for name in range(1000):
        budget.spend(name, 1, 0.0)
    budget.spend("late", 1, 1000.0)
    assert len(budget._spent) == 1
