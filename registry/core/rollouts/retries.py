"""Which failed devices a rollout tries again by itself, and when. Pure.

A device that is to be tried again counts as planned, not as failed: gates judge it by its last try. Its wave waits for
it, within the wave's own deadline. While a rollout is paused nothing is tried again.
"""

from __future__ import annotations

from collections.abc import Sequence

from registry.contracts.backoff import Backoff
from registry.contracts.rollout.spec import RetryRule
from registry.contracts.rollout.states import ActionState

STATES = frozenset({ActionState.FAILED, ActionState.ROLLED_BACK, ActionState.REJECTED, ActionState.TIMED_OUT})
"""Ends after which the device may be told again: it serves what it served, or is silent."""


def codes_of(rules: Sequence[RetryRule]) -> frozenset[str]:
    """All codes that a rule names."""
    return frozenset(code for rule in rules for code in rule.codes)


def rule_for(rules: Sequence[RetryRule], code: str) -> RetryRule | None:
    """The first rule that names the code."""
    return next((rule for rule in rules if code in rule.codes), None)


def pause_s(rules: Sequence[RetryRule], code: str, tries: int) -> float | None:
    """Seconds from a failure to the next try; None: it is not tried again.

    Args:
        code: Of the failure; `silent` for a device that was timed out.
        tries: Tries by this policy so far, whatever their codes.
    """
    rule = rule_for(rules, code)
    if rule is None or tries >= rule.times:
        return None
    return Backoff(rule.pause_s, rule.max_pause_s, factor=rule.factor).delay(tries + 1)


def in_words(rules: Sequence[RetryRule]) -> list[str]:
    """A sentence for each rule, as plans show them."""
    return [
        f"Tried again by itself: {', '.join(rule.codes)}, up to {rule.times} times, "
        f"{rule.pause_s:g} s after the first failure"
        + (f", then {rule.factor:g} times as long each, {rule.max_pause_s:g} s at most." if rule.times > 1 else ".")
        for rule in rules
    ]
