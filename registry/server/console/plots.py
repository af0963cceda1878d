"""Plots: what a page gives to `static/plots.js`, and the same as a table. A value that nobody measured is None."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from registry.contracts.api.over_time import RolloutMark

COLOURS = 8
NOT_MEASURED = "not measured"
MARK_WORDS = {"went_back": "rolls back"}
"""What rollouts did, where it is not the state's own word."""


@dataclass(frozen=True)
class Line:
    """One line of a plot."""

    name: str
    values: Sequence[float | None]
    colour: int
    """1 to COLOURS; 0: grey."""


@dataclass(frozen=True)
class Plot:
    """Lines over one time axis."""

    name: str
    """Unique on its page."""
    title: str
    unit: str
    starts: Sequence[datetime]
    lines: Sequence[Line]
    marks: Sequence[tuple[datetime, str]] = ()
    """Moments, and what happened."""
    step_s: float = 0.0
    """Seconds from one value to the next, where they come regularly."""

    @property
    def measured(self) -> bool:
        """Has it a value?"""
        return any(value is not None for line in self.lines for value in line.values)

    @property
    def data(self) -> dict[str, Any]:
        """For the script."""
        return {
            "time": True,
            "step": self.step_s,
            "x": [round(start.timestamp()) for start in self.starts],
            "series": [
                {"label": line.name, "colour": line.colour, "values": [_rounded(value) for value in line.values]}
                for line in self.lines
            ],
            "marks": [{"at": at.timestamp(), "text": text} for at, text in self.marks],
        }

    @property
    def rows(self) -> list[tuple[datetime, list[str]]]:
        """The table: the newest first, without times of which no line has a value."""
        rows = zip(self.starts, zip(*(line.values for line in self.lines), strict=True), strict=True)
        return [
            (start, [number_text(value) for value in values])
            for start, values in reversed(list(rows))
            if any(value is not None for value in values)
        ]


def colour(number: int) -> int:
    """Of the line of this number, from 0."""
    return number % COLOURS + 1


def marks_of(rollouts: Sequence[RolloutMark], *, with_model: bool) -> list[tuple[datetime, str]]:
    """What stands at the time axis."""
    return [
        (mark.at, f"{mark.model + ' ' if with_model else ''}{mark.version} {mark_word(mark.what)}") for mark in rollouts
    ]


def mark_word(what: str) -> str:
    """`1.1.0 started`."""
    return MARK_WORDS.get(what, what.replace("_", " "))


def number_text(value: float | None) -> str:
    """Three digits, or that it is not measured."""
    if value is None:
        return NOT_MEASURED
    return f"{value:,.0f}" if value == int(value) or abs(value) >= 1000 else f"{value:.3g}"


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.4g}")
