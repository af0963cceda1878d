"""Pages of devices: which filters there are, and how a page is found by index whatever the size of the fleet.

A page is looked for along an index in the order of the list: that of the most selective filter, where it has one in
that order, else that of the list. Every other filter is asked of the rows on the way, of at most BUDGET of them: a page
may thus be shorter than asked for, or empty, and still have a next one. Where a filter has few devices (FEW), these are
fetched and sorted instead.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, and_, func, inspect, not_, select, text, true, tuple_
from sqlalchemy.orm import Session

from registry.contracts.api.fleet import ConnectionState, DeviceSort, SlotState
from registry.core.selectors import Operator, Term
from registry.db.fleet_rows import DeviceLabelRow, DeviceRow, DeviceStateRow
from registry.db.index_rows import DeviceIndexRow, DeviceSlotRow
from registry.services.device_sets import matching, terms_of
from registry.services.fleet.device_index import require_index
from registry.services.fleet.presence import is_online

STEP = 200
"""Rows of an index that the first query of a page looks at; each further one looks at WIDER times as many."""
WIDER = 4
BUDGET = 20_000
"""Rows of an index that one page looks at, about."""
FEW = 2000
"""Devices of a filter that are fetched and sorted."""
ANY = "any"
Key = tuple[Any, ...]
"""Of one device in the order of the list: its name; or a time and its id."""
_I: Any = inspect(DeviceIndexRow).local_table.c
_S: Any = inspect(DeviceSlotRow).local_table.c
_L: Any = inspect(DeviceLabelRow).local_table.c


@dataclass(frozen=True)
class DeviceFilter:
    """Which devices; everything given must hold."""

    states: tuple[ConnectionState | SlotState, ...] = ()
    """In one of these connection states, and in one of these states of what they serve."""
    model: str = ""
    """They serve this model,"""
    version: str = ""
    """in this version."""
    failing: str = ""
    """They fail with this code; ANY: with any."""
    behind: bool | None = None
    selector: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    online: bool | None = None
    name: str = ""
    """Part of the name; with `*` at its end, its beginning."""

    @property
    def connections(self) -> list[str]:
        """The connection states among `states`."""
        return [state.value for state in self.states if isinstance(state, ConnectionState)]

    @property
    def slot_states(self) -> list[str]:
        """The others."""
        return [state.value for state in self.states if isinstance(state, SlotState)]


@dataclass(frozen=True)
class _Order:
    """An order of the list: the columns of its key in some table."""

    sort: DeviceSort

    @property
    def backwards(self) -> bool:
        return self.sort.value.startswith("-")

    @property
    def by_name(self) -> bool:
        return self.sort in (DeviceSort.NAME, DeviceSort.NAME_BACKWARDS)

    def columns(self, table: Any) -> list[Any]:
        column = self.sort.value.lstrip("-")
        return [table.name] if self.by_name else [getattr(table, _COLUMN[column]), table.device_id]

    def sorted(self, query: Any, columns: Sequence[Any]) -> Any:
        return query.order_by(*(column.desc() if self.backwards else column for column in columns))

    def after(self, columns: Sequence[Any], key: Key | None) -> ColumnElement[bool]:
        if key is None:
            return true()
        if len(columns) == 1:
            return columns[0] < key[0] if self.backwards else columns[0] > key[0]  # type: ignore[no-any-return]
        pair = tuple_(*columns)
        return pair < key if self.backwards else pair > key


_COLUMN = {"last_seen": "seen_at", "changed": "changed_at"}


@dataclass(frozen=True)
class _Source:
    """Devices along one index."""

    table: Any
    where: ColumnElement[bool]


Conditions = Mapping[str, ColumnElement[bool]]
"""On `device_index`, by the part of the filter that they are."""


@dataclass(frozen=True)
class Asked:
    """One page."""

    wanted: DeviceFilter
    """Which devices."""
    sort: DeviceSort
    """In which order."""
    after: Key | None
    """What an earlier page answered; None: from the beginning."""
    limit: int
    """How many at most."""


def find_page(session: Session, asked: Asked, now: datetime) -> tuple[list[int], Key | None]:
    """The ids of the page's devices in the order of the list, and the key after which the next page begins.

    Args:
        asked: Which page.
        now: The registry's clock.

    Raises:
        InvalidError: the selector is none.
        BusyError: the index is not made yet.
    """
    require_index(session)
    order, wanted = _Order(asked.sort), asked.wanted
    conditions = _conditions(session, wanted, now)
    few = _few(session, wanted, order)
    covered, sources = ("", few) if few is not None else _sources(wanted, order)
    conditions.pop(covered, None)
    name = wanted.name if covered != "name" else ""
    scan = _Scan(session, order, conditions, name, asked.limit + 1, bounded=few is None)
    rows: dict[Key, int] = {}
    edges: list[Key] = []
    for source in sources:
        some, edge = scan.along(source, asked.after)
        rows.update(some)
        edges += [edge] if edge is not None else []
    back = order.backwards
    nearest = (max if back else min)(edges, default=None)
    found = sorted(rows.items(), reverse=back)
    if nearest is not None:
        found = [row for row in found if (row[0] >= nearest if back else row[0] <= nearest)]
    page = found[: asked.limit]
    return [device_id for _, device_id in page], page[-1][0] if len(found) > asked.limit else nearest


def matching_filter(session: Session, wanted: DeviceFilter, now: datetime) -> ColumnElement[bool]:
    """A condition on `devices`: those for which a filter holds, wherever they are in a list.

    Raises:
        InvalidError: the selector is none.
        BusyError: the index is not made yet, and more than labels is asked for.
    """
    if wanted == DeviceFilter(selector=wanted.selector):
        return matching(wanted.selector)
    require_index(session)
    found = select(DeviceIndexRow.device_id).where(*_conditions(session, wanted, now).values())
    if wanted.name:
        found = found.where(_named(DeviceIndexRow.name, wanted.name))
    return DeviceRow.id.in_(found)


@dataclass(frozen=True)
class _Scan:
    """Looks for devices along indexes."""

    session: Session
    order: _Order
    conditions: Conditions
    name: str
    """As in the filter, where it is still to be asked."""
    need: int
    """So many are enough."""
    bounded: bool
    """Look at BUDGET rows at most."""

    def along(self, source: _Source, after: Key | None) -> tuple[list[tuple[Key, int]], Key | None]:
        """Devices after a key, and the last key up to which these are all there are; None: there are no more."""
        columns = self.order.columns(source.table)
        found: list[tuple[Key, int]] = []
        step = looked = max(STEP, self.need)
        while True:
            named = source.table.name.label("of_device")
            query = select(source.table.device_id, *columns, named)
            query = query.where(source.where, self.order.after(columns, after))
            filters = bool(self.conditions or self.name)
            if self.bounded:
                query = self.order.sorted(query, columns).limit(step if filters else self.need)
            inner = query.subquery()
            first = list(inner.c)[1]
            key = [first] if self.order.by_name else [first, inner.c.device_id]
            rows = self.session.execute(self._asked(inner, key).limit(self.need - len(found)))
            found += [(tuple(own), device_id) for device_id, *own in rows]
            if len(found) >= self.need:
                return found, found[-1][0]
            if not self.bounded or not filters:
                return found, None
            if (self.session.scalar(select(func.count()).select_from(inner)) or 0) < step:
                return found, None
            last = (column if self.order.backwards else column.desc() for column in key)
            after = tuple(self.session.execute(select(*key).order_by(*last).limit(1)).one())
            if looked >= BUDGET:
                return found, after
            step = min(step * WIDER, BUDGET - looked)
            looked += step

    def _asked(self, inner: Any, key: Sequence[Any]) -> Any:
        query = select(inner.c.device_id, *key).select_from(inner)
        if self.name:
            query = query.where(_named(inner.c.of_device, self.name))
        if self.conditions:
            query = query.join(DeviceIndexRow, DeviceIndexRow.device_id == inner.c.device_id)
        return self.order.sorted(query.where(*self.conditions.values()), key)


def _sources(wanted: DeviceFilter, order: _Order) -> tuple[str, list[_Source]]:
    """Along which indexes, and which part of the filter is done with that."""
    if not order.by_name:
        return "", [_Source(_I, true())]
    if wanted.model:
        return "model", [_Source(_S, _serves(_S, wanted))]
    if wanted.failing:
        return "failing", [_Source(_I, _failing(wanted.failing))]
    if wanted.behind:
        return "behind", [_Source(_I, _BEHIND)]
    if states := wanted.slot_states:
        return "state", [_Source(_I, _I.state == state) for state in states]
    if states := wanted.connections:
        return "connection", [_Source(_I, _I.connection == state) for state in states]
    if _is_beginning(wanted.name):
        return "name", [_Source(_I, _named(_I.name, wanted.name))]
    return "", [_Source(_I, true())]


def _few(session: Session, wanted: DeviceFilter, order: _Order) -> list[_Source] | None:
    """The devices of one filter that has few; None: there is none such."""
    tried: list[tuple[Any, ColumnElement[bool], Sequence[Any]]] = []
    if not order.by_name:
        if wanted.model:
            tried.append((_S, _serves(_S, wanted), [_S.model, _S.version, _S.name]))
        if wanted.failing:
            named = [_I.name] if wanted.failing == ANY else [_I.code, _I.name]
            tried.append((_I, _failing(wanted.failing), named))
        if wanted.behind:
            tried.append((_I, _BEHIND, [_I.name]))
        if wanted.slot_states:
            tried.append((_I, _I.state.in_(wanted.slot_states), [_I.state, _I.name]))
        if wanted.connections:
            tried.append((_I, _I.connection.in_(wanted.connections), [_I.connection, _I.name]))
        if _is_beginning(wanted.name):
            tried.append((_I, _named(_I.name, wanted.name), [_I.name]))
    having = [term for term in _terms(wanted) if term.operator is Operator.IN]
    by_label = [_L.key, _L.value, _L.device_id]
    tried += [(_L, and_(_L.key == term.key, _L.value.in_(term.values)), by_label) for term in having]
    for table, where, along in tried:
        # In the order of the filter's index, so that PostgreSQL reads FEW of its rows and does not pass over the table
        # because it takes them for common.
        some = select(table.device_id).where(where).order_by(*along).limit(FEW + 1).subquery()
        if (session.scalar(select(func.count()).select_from(some)) or 0) <= FEW:
            ids = select(table.device_id).where(where).scalar_subquery()
            return [_Source(_I, _I.device_id.in_(ids))]
    return None


def _terms(wanted: DeviceFilter) -> list[Term]:
    """All that is asked of labels. Raises InvalidError."""
    given = [Term(key, Operator.IN, (value,)) for key, value in wanted.labels.items()]
    return given + list(terms_of(wanted.selector))


def _has(term: Term) -> ColumnElement[bool]:
    """Asked of one device by its labels' key: a set of all devices that have a label would grow with the fleet."""
    label = select(DeviceLabelRow.device_id).where(
        DeviceLabelRow.device_id == DeviceIndexRow.device_id, DeviceLabelRow.key == term.key
    )
    if term.operator in (Operator.IN, Operator.NOT_IN):
        label = label.where(DeviceLabelRow.value.in_(term.values))
    return ~label.exists() if term.operator in (Operator.NOT_IN, Operator.MISSING) else label.exists()


_FAILS = text("device_index.code <> ''")
_BEHIND: Any = _I.behind == true()


def _serves(table: Any, wanted: DeviceFilter) -> ColumnElement[bool]:
    version = table.version == wanted.version if wanted.version else table.version != ""
    return and_(table.model == wanted.model, version)


def _failing(which: str) -> ColumnElement[bool]:
    return and_(_FAILS, *([] if which == ANY else [_I.code == which]))


def _is_beginning(name: str) -> bool:
    return name.endswith("*") and len(name) > 1


def _named(column: Any, name: str) -> ColumnElement[bool]:
    """Names are ASCII, and compared byte by byte."""
    if _is_beginning(name):
        start = name.rstrip("*")
        return and_(column >= start, column < start + "\x7f")
    contains: ColumnElement[bool] = column.contains(name.strip("*"), autoescape=True)
    return contains


def _conditions(session: Session, wanted: DeviceFilter, now: datetime) -> dict[str, ColumnElement[bool]]:
    """All of the filter, as asked of one device."""
    device = DeviceIndexRow.device_id
    parts: dict[str, ColumnElement[bool]] = {}
    if wanted.connections:
        parts["connection"] = DeviceIndexRow.connection.in_(wanted.connections)
    if wanted.slot_states:
        parts["state"] = DeviceIndexRow.state.in_(wanted.slot_states)
    if wanted.failing:
        parts["failing"] = _failing(wanted.failing)
    if wanted.behind is not None:
        parts["behind"] = DeviceIndexRow.behind == wanted.behind
    if wanted.model:
        slots = select(DeviceSlotRow.device_id).where(DeviceSlotRow.device_id == device)
        parts["model"] = slots.where(_serves(DeviceSlotRow, wanted)).exists()
    if terms := _terms(wanted):
        parts["labels"] = and_(*map(_has, terms))
    if wanted.online is not None:
        there = is_online(session, now)
        # Asked of one device at a time: as EXISTS, PostgreSQL would read all states before it looks at the first.
        said = select(there).where(DeviceStateRow.device_id == device).correlate(DeviceIndexRow).scalar_subquery()
        parts["online"] = said if wanted.online else not_(said)
    return parts
