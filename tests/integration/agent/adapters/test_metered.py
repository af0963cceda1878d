"""What NetworkManager says of the network, as busctl prints it."""

from __future__ import annotations

import pytest

from agent.adapters.facts.vendor_tool import ToolError
from agent.adapters.local_policy import Metered
from tests.support.clients.serving import until


@pytest.mark.parametrize(
    ("printed", "costs"),
    [("u 1\n", True), ("u 3\n", True), ("u 2\n", False), ("u 4\n", False), ("u 0\n", False), ("", False)],
)
def test_what_the_network_manager_knows_is_taken_over(printed: str, costs: bool) -> None:
    asked: list[str] = []

    def ask() -> str:
        asked.append(printed)
        return printed

    metered = Metered("auto", ask)
    metered()
    until(lambda: asked)
    until(lambda: metered() is costs)


def test_where_it_cannot_be_asked_the_network_costs_nothing() -> None:
    def away() -> str:
        raise ToolError("busctl does not start")

    assert not Metered("auto", away)()


def test_a_setting_needs_no_question() -> None:
    def never() -> str:
        raise AssertionError

    assert Metered("yes", never)()
    assert not Metered("no", never)()
