"""Selectors of devices by label."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.contracts.rollout.spec import MAX_SELECTOR_CHARS
from registry.core.selectors import Operator, Selector, SelectorError, Term, parse

LABELS = {"site": "paris", "ring": "stable", "gpu": "t4"}


@pytest.mark.parametrize(
    ("text", "selected"),
    [
        ("*", True),
        ("site=paris", True),
        ("site==paris", True),
        ("site=paris,ring!=canary", True),
        ("site=paris,ring=canary", False),
        ("gpu", True),
        ("!gpu", False),
        ("!npu", True),
        ("npu", False),
        ("site in (paris, lyon)", True),
        ("site notin (paris,lyon)", False),
        ("npu notin (310)", True),
        ("npu!=310", True),
        ("npu=310", False),
        (" site = paris , gpu ", True),
        ("in=x", False),
    ],
)
def test_a_device_is_selected_by_its_labels(text: str, selected: bool) -> None:
    assert parse(text).matches(LABELS) is selected


@pytest.mark.parametrize(
    ("text", "position", "why"),
    [
        ("", 0, "key is missing"),
        ("site=", 5, "value is missing"),
        ("site=paris ring=a", 11, "one too many"),
        ("site in paris", 8, "( is missing"),
        ("site in (paris", 14, ") is missing"),
        ("site in ()", 9, "value is missing"),
        ("=paris", 0, "key is missing"),
        ("a,,b", 2, "key is missing"),
        ("site=pa;ris", 7, "does not belong"),
        ("*,a", 1, "one too many"),
        ("a" * 65, 0, "at most 64"),
        (",".join(["a"] * 33), 64, "more than 32"),
        ("a in (" + ",".join(["b"] * 65) + ")", 134, "more than 64"),
        ("a" * (MAX_SELECTOR_CHARS + 1), MAX_SELECTOR_CHARS, "longer than"),
    ],
)
def test_what_is_no_selector_is_refused_with_where_and_why(text: str, position: int, why: str) -> None:
    with pytest.raises(SelectorError) as refused:
        parse(text)
    assert refused.value.position == position
    assert why in str(refused.value)


_WORDS = st.from_regex(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,10}[A-Za-z0-9])?", fullmatch=True)
_VALUES = st.lists(_WORDS, min_size=1, max_size=4).map(tuple)
_TERMS = st.one_of(
    st.builds(Term, _WORDS, st.sampled_from([Operator.IN, Operator.NOT_IN]), _VALUES),
    st.builds(Term, _WORDS, st.sampled_from([Operator.EXISTS, Operator.MISSING])),
)


@given(st.lists(_TERMS, max_size=8).map(tuple))
def test_a_selector_reads_what_it_prints(terms: tuple[Term, ...]) -> None:
    assert parse(str(Selector(terms))) == Selector(terms)


def place_of_fault(text: str) -> int:
    try:
        parse(text)
    except SelectorError as refused:
        return refused.position
    return 0


@given(st.text(max_size=60))
def test_any_text_is_a_selector_or_refused_with_its_place(text: str) -> None:
    assert 0 <= place_of_fault(text) <= len(text)
