"""Requests are counted once, for the right version, whatever is repeated, lost or restarted."""

from __future__ import annotations

from registry.contracts.device.messages import ModelHealth
from registry.core.retention import MAX_CODES, OTHER, Increase, Totals, add_errors, advance, bounded_errors


def test_the_first_report_of_a_session_counts_whole() -> None:
    increases, totals = advance({}, {"lenet": ModelHealth(version="1.0.0", requests=7, errors={"overloaded": 2})})
    assert increases == (Increase("lenet", "1.0.0", 7, {"overloaded": 2}),)
    assert totals == {"lenet": Totals(7, {"overloaded": 2})}


def test_answers_with_a_nan_are_counted_where_an_agent_tells_them() -> None:
    first, totals = advance({}, {"m": ModelHealth(version="1", requests=7, not_finite=3)})
    then, totals = advance(totals, {"m": ModelHealth(version="1", requests=9, not_finite=4)})
    anew, _ = advance(totals, {"m": ModelHealth(version="1", requests=2, not_finite=1)})
    assert [increase.not_finite for increase in (*first, *then, *anew)] == [3, 1, 1]
    (silent,), _ = advance({}, {"m": ModelHealth(version="1", requests=7)})
    assert silent.not_finite is None


def test_a_later_report_counts_what_is_new() -> None:
    seen = {"lenet": Totals(7, {"overloaded": 2})}
    health = ModelHealth(version="1.0.0", requests=10, errors={"overloaded": 2, "wrong_shape": 1})
    assert advance(seen, {"lenet": health})[0] == (Increase("lenet", "1.0.0", 3, {"wrong_shape": 1}),)


def test_the_same_totals_again_count_nothing() -> None:
    seen = {"lenet": Totals(7, {"overloaded": 2})}
    health = ModelHealth(version="1.0.0", requests=7, errors={"overloaded": 2})
    assert advance(seen, {"lenet": health}) == ((), seen)


def test_a_lost_report_is_made_good_by_the_next() -> None:
    _, totals = advance({}, {"m": ModelHealth(version="1", requests=5)})
    (increase,), _ = advance(totals, {"m": ModelHealth(version="1", requests=25)})
    assert increase.requests == 20


def test_after_a_switch_what_is_new_belongs_to_the_new_version() -> None:
    seen = {"m": Totals(100)}
    assert advance(seen, {"m": ModelHealth(version="2", requests=104)})[0] == (Increase("m", "2", 4, {}),)


def test_totals_without_a_version_wait_for_one() -> None:
    increases, totals = advance({}, {"m": ModelHealth(requests=3, errors={"model_not_ready": 3})})
    assert increases == ()
    (increase,), _ = advance(totals, {"m": ModelHealth(version="1", requests=5, errors={"model_not_ready": 3})})
    assert increase == Increase("m", "1", 5, {"model_not_ready": 3})


def test_totals_that_fell_are_of_a_new_slot() -> None:
    seen = {"m": Totals(100, {"overloaded": 5})}
    health = ModelHealth(version="1", requests=2, errors={"overloaded": 1})
    assert advance(seen, {"m": health})[0] == (Increase("m", "1", 2, {"overloaded": 1}),)


def test_a_model_that_is_not_in_the_report_keeps_its_totals() -> None:
    seen = {"gone": Totals(9)}
    assert advance(seen, {})[1] == seen


def test_error_tables_stay_bounded_and_lose_no_count() -> None:
    many = {f"code-{number}": number + 1 for number in range(200)}
    kept = bounded_errors(many)
    assert len(kept) == MAX_CODES
    assert sum(kept.values()) == sum(many.values())
    again = add_errors(kept, {"new": 1, OTHER: 4})
    assert len(again) == MAX_CODES
    assert sum(again.values()) == sum(many.values()) + 5
