"""What many queries have in common."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

from sqlalchemy import ColumnElement
from sqlalchemy.orm import InstrumentedAttribute

from registry.errors import NotFoundError

T = TypeVar("T")
IN_LIST = 500
"""Values in one IN list: databases bound them, and long ones are slow to parse."""


def found(row: T | None, message: str) -> T:
    """What was looked for. Raises NotFoundError with the message where there is none."""
    if row is None:
        raise NotFoundError(message)
    return row


def given(*filters: tuple[InstrumentedAttribute[Any], Any]) -> list[ColumnElement[bool]]:
    """Conditions: each column has its value, where a value is given."""
    return [column == value for column, value in filters if value is not None]


def batches(items: Sequence[T], size: int = IN_LIST) -> Iterator[Sequence[T]]:
    """The items in their order, up to `size` at a time."""
    return (items[start : start + size] for start in range(0, len(items), size))
