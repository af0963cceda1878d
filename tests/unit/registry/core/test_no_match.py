"""Where a selector matches nothing, the labels that there are come with it, the nearest first, and never too many."""

from __future__ import annotations

import pytest

from registry.core.labels import SHOWN, nearest, no_match_text
from registry.core.selectors import parse

KEYS = {"site": ["paris", "lyon"], "ring": ["1", "2"], "kind": ["kiosk"]}


@pytest.mark.parametrize(
    ("selector", "said"),
    [
        ("sit=paris", "No device has a label sit; keys are: site, ring, kind."),
        ("site=pariss", "site is never pariss; its values are: paris, lyon."),
        ("site in (rome,nice)", "site is never rome or nice; its values are: lyon, paris."),
        ("sit=paris,ring=3", "No device has a label sit; keys are: site, ring, kind. ring is never 3; "),
        ("site=paris,ring=2", "No device has all of it together; labels are: site=paris, site=lyon, ring=1, "),
        ("!site", "No device has all of it together; labels are: site=paris"),
        ("*", "There are no devices"),
    ],
)
def test_each_condition_that_nobody_meets_is_told_with_what_there_is(selector: str, said: str) -> None:
    assert no_match_text(parse(selector), KEYS).startswith(said)


def test_where_no_device_has_labels() -> None:
    assert no_match_text(parse("site=paris"), {}) == "No device has labels."


def test_few_are_named_and_the_rest_is_counted() -> None:
    text = no_match_text(parse("site=rome"), {"site": [f"s{n}" for n in range(20)]}, {"site": 5})
    assert text.count(",") == SHOWN - 1
    assert text.endswith("and 17 more.")


def test_the_nearest_comes_first() -> None:
    assert nearest("Pariss", ["lyon", "paris", "nice"])[0] == "paris"
