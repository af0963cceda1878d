"""Which model a topic is for, and what stays of a model that was withdrawn."""

from __future__ import annotations

from agent.dataplane.router import MAX_KEPT_COUNTS, Router
from registry.contracts.topics import Topics


def test_the_totals_of_a_model_go_on_when_it_is_assigned_again() -> None:
    router = Router(Topics(), "cam")
    router.assign("lenet").stats.requests = 7
    router.withdraw("lenet")
    assert router.assign("lenet").stats.requests == 7
    assert router.assign("other").stats.requests == 0


def test_totals_of_withdrawn_models_have_a_bound() -> None:
    router = Router(Topics(), "cam")
    for number in range(MAX_KEPT_COUNTS + 1):
        router.assign(f"m{number}").stats.requests = 1
        router.withdraw(f"m{number}")
    assert router.assign("m0").stats.requests == 0
    assert router.assign("m1").stats.requests == 1
