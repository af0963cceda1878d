"""The facts of this host for people and programs: value, source, age, and the reason for every "no"."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from registry.contracts.fit.platforms import FactRow, Platform

MIB, GIB = 1 << 20, 1 << 30
HEADINGS = ("FACT", "VALUE", "SOURCE", "AGE")


def fact_documents(facts: Platform, now: datetime) -> list[dict[str, Any]]:
    """One object a fact, for `--json`; `age_s` is None where the time is not known."""
    return [
        {
            "name": row.name,
            "value": row.value,
            "source": row.evidence.source,
            "observed_at": row.evidence.observed_at.isoformat() if row.evidence.observed_at else None,
            "age_s": age_s(row, now),
            "reason": row.evidence.reason,
            "failed": row.evidence.failed,
        }
        for row in facts.rows()
    ]


def fact_lines(facts: Platform, now: datetime) -> list[str]:
    """A table; below a fact that is missing, why."""
    rows = list(facts.rows())
    cells = [HEADINGS, *((row.name, value_text(row), row.evidence.source, age_text(row, now)) for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(HEADINGS))]
    lines = [_line(cells[0], widths)]
    for row, line in zip(rows, cells[1:], strict=True):
        lines.append(_line(line, widths))
        if row.evidence.failed:
            of = "not known" if row.value is None else f"of {age_text(row, now)} ago"
            lines.append(f"{'':{widths[0]}}  {of}, the last look failed: {row.evidence.reason}")
        elif row.evidence.reason and (row.value is None or "." not in row.name):
            lines.append(f"{'':{widths[0]}}  {row.evidence.reason}")
    return lines


def age_s(row: FactRow, now: datetime) -> float | None:
    """Seconds since it was found out."""
    at = row.evidence.observed_at
    return None if at is None else max(0.0, round((now - at).total_seconds(), 1))


def age_text(row: FactRow, now: datetime) -> str:
    """For people: 3 s, 12 min, 5 h, 2 d."""
    age = age_s(row, now)
    if age is None:
        return "?"
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if age >= size:
            return f"{age / size:.0f} {unit}"
    return f"{age:.0f} s"


def value_text(row: FactRow) -> str:
    """For people: sizes with a unit, "no" for what is not there."""
    value = row.value
    if value is None and row.evidence.failed:
        return "unknown"
    if value is None or value is False:
        return "no"
    if value is True:
        return "yes"
    if row.name.endswith("_bytes"):
        return f"{value / GIB:.1f} GiB" if value >= GIB else f"{value / MIB:.0f} MiB"
    return f"{value} of them" if row.name == "cpu_features" else str(value)


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join(f"{cell:{width}}" for cell, width in zip(cells, widths, strict=True)).rstrip()
