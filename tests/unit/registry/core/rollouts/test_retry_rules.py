"""Which failures are tried again, and after what pause."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from registry.contracts.rollout.spec import Fleet, RetryRule, RolloutSpec
from registry.core.rollouts.retries import codes_of, in_words, pause_s

RULES = (
    RetryRule(codes=("insufficient_disk", "silent"), times=3, pause_s=60, factor=2, max_pause_s=200),
    RetryRule(codes=("silent", "load_failed"), times=1, pause_s=5),
)


@pytest.mark.parametrize(
    ("code", "tries", "pause"),
    [
        ("insufficient_disk", 0, 60),
        ("insufficient_disk", 1, 120),
        ("insufficient_disk", 2, 200),
        ("insufficient_disk", 3, None),
        ("silent", 0, 60),  # the first rule that names it
        ("load_failed", 0, 5),
        ("load_failed", 1, None),
        ("golden_mismatch", 0, None),
        ("", 0, None),
    ],
)
def test_a_failure_is_tried_again_as_the_first_rule_with_its_code_says(
    code: str, tries: int, pause: float | None
) -> None:
    assert pause_s(RULES, code, tries) == pause


def test_without_rules_nothing_is_tried_again() -> None:
    spec = RolloutSpec(model="m", version="1", fleet=Fleet(selector="*"))
    assert spec.retries == ()
    assert codes_of(spec.retries) == frozenset()
    assert pause_s(spec.retries, "load_failed", 0) is None


def test_each_rule_is_told_in_a_sentence() -> None:
    first, second = in_words(RULES)
    assert "insufficient_disk, silent, up to 3 times, 60 s" in first
    assert second.endswith("after the first failure.")


@pytest.mark.parametrize(
    "rule",
    [{"codes": ["no_such_code"]}, {"codes": []}, {"codes": ["silent"], "times": 0}, {"codes": ["silent"], "factor": 0}],
)
def test_a_rule_that_cannot_be_followed_is_refused(rule: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        RetryRule.model_validate(rule)
