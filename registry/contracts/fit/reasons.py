"""Why a variant does not fit a host, or may surprise on it: what `fitting` gives. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from registry.contracts.codes import ResolutionCode as Code
from registry.contracts.enums import StrEnum
from registry.contracts.wire import Wire


class FitOutcome(StrEnum):
    """Of one predicate, or of a variant (the worst of its predicates)."""

    PASS = "pass"  # noqa: S105 - a verdict, not a password
    """It fits."""
    FAIL = "fail"
    """It does not fit."""
    UNKNOWN = "unknown"
    """A fact that decides is not known; it is not chosen."""


class Reason(Wire):
    """One predicate that did not pass: what is needed, what the host has."""

    code: Code
    """Which predicate."""
    outcome: FitOutcome
    """`pass` in a warning: it runs, and this may surprise."""
    need: str
    """What the variant needs."""
    have: str
    """What the host has."""
    remedy: str = ""
    """What would have to change: on the host, or another variant."""


Reasons = Iterator[Reason]


def fail(code: Code, need: str, have: str, remedy: str = "") -> Reason:
    """It does not fit."""
    return Reason(code=code, outcome=FitOutcome.FAIL, need=str(need), have=str(have), remedy=remedy)


def warning(code: Code, need: str, have: str, remedy: str) -> Reason:
    """It fits, and may surprise."""
    return Reason(code=code, outcome=FitOutcome.PASS, need=need, have=have, remedy=remedy)


def unknown(fact: str) -> Reason:
    """The host says nothing of what decides: not eligible."""
    return Reason(
        code=Code.FACT_UNKNOWN,
        outcome=FitOutcome.UNKNOWN,
        need=fact,
        have="not reported by this agent",
        remedy="upgrade the agent, and see `agent platform` on the device",
    )
