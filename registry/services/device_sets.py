"""Selectors as SQL, so that 100,000 devices are one query and not 100,000 comparisons."""

from __future__ import annotations

from sqlalchemy import ColumnElement, select, true

from registry.core.selectors import Operator, SelectorError, Term, parse
from registry.db.fleet_rows import DeviceLabelRow, DeviceRow
from registry.errors import InvalidError


def terms_of(selector: str) -> tuple[Term, ...]:
    """What a selector asks; nothing where it is empty. Raises InvalidError when it is none."""
    try:
        return parse(selector).terms if selector.strip() else ()
    except SelectorError as error:
        raise InvalidError(f"{error}.") from error


def matching(selector: str) -> ColumnElement[bool]:
    """A condition on `devices`: what the selector matches. Raises InvalidError when it is none."""
    condition: ColumnElement[bool] = true()
    for term in terms_of(selector):
        condition &= _term(term)
    return condition


def _term(term: Term) -> ColumnElement[bool]:
    label = select(DeviceLabelRow.device_id).where(DeviceLabelRow.key == term.key)
    if term.operator in (Operator.IN, Operator.NOT_IN):
        label = label.where(DeviceLabelRow.value.in_(term.values))
    having = DeviceRow.id.in_(label)
    return ~having if term.operator in (Operator.NOT_IN, Operator.MISSING) else having
