"""Labels of devices: which there are, and changing them on many devices in one transaction."""

from __future__ import annotations

from collections import defaultdict
from datetime import datetime

from sqlalchemy import delete, func, insert, select
from sqlalchemy.orm import Session

from registry.contracts.api.answers import Scope
from registry.contracts.api.labels import (
    MAX_KEYS,
    MAX_NAMED,
    MAX_VALUES,
    LabelKeyView,
    LabelsAnswer,
    LabelsBody,
    LabelsView,
)
from registry.core.labels import no_match_text
from registry.core.selectors import SelectorError, parse
from registry.db.engine import Changed, announce
from registry.db.fleet_rows import DeviceLabelRow, DeviceRow
from registry.db.tally_rows import LabelKeyRow, LabelValueRow
from registry.errors import InvalidError, NotFoundError
from registry.services.access.permits import require_devices
from registry.services.device_sets import matching
from registry.services.fleet.activities import note_labels
from registry.services.fleet.devices import MAX_LABELS
from registry.services.queries import UseCases, batches, in_batches
from registry.services.tallies import tallied

OFFERED_KEYS, OFFERED_VALUES = 24, 8


class Labels(UseCases):
    """The use cases. Thread-safe."""

    def view(self) -> LabelsView:
        """Every key with its values, both bounded."""
        with self._database.read() as session:
            return labels_there(session)

    def offered(self) -> dict[str, tuple[str, ...]]:
        """Keys with values to choose from, each the first ones by name. The work is bounded, whatever the fleet's size:
        one step into an index for each."""
        found: dict[str, tuple[str, ...]] = {}
        keys, values = select(func.min(DeviceLabelRow.key)), select(func.min(DeviceLabelRow.value))
        with self._database.read() as session:
            key = session.scalar(keys)
            while key is not None and len(found) < OFFERED_KEYS:
                there: list[str] = []
                of_key = values.where(DeviceLabelRow.key == key)
                value = session.scalar(of_key)
                while value is not None and len(there) < OFFERED_VALUES:
                    there.append(value)
                    value = session.scalar(of_key.where(DeviceLabelRow.value > value))
                found[key] = tuple(there)
                key = session.scalar(keys.where(DeviceLabelRow.key > key))
        return found

    def meant(self, selector: str, limit: int) -> tuple[str, ...]:
        """Up to `limit` names of devices that the selector matches, by name. Raises as `change`."""
        with self._database.read() as session:
            query = select(DeviceRow.name).where(matching(selector)).order_by(DeviceRow.name).limit(limit)
            found = tuple(session.scalars(query))
            if not found:
                raise NotFoundError(f"No device matches {selector!r}. {why_no_match(session, selector)}")
            return found

    def change(self, body: LabelsBody, by: str, now: datetime) -> LabelsAnswer:
        """Change labels of the devices that are meant, all or none of them.

        Raises:
            InvalidError: neither or both of selector and names, nothing to change, or too many labels on a device.
            NotFoundError: a named device is not there, or the selector matches none; it says which labels there are.
        """
        _check(body)
        if body.preview:
            with self._database.read() as session:
                return _answer(_changing(session, meant := _meant(session, body), body), len(meant))
        with self._database.write() as session:
            meant = _meant(session, body)
            _require_right(session, list(meant))
            changing = _changing(session, meant, body)
            if changing:
                _put(session, list(meant), body)
                _require_right(session, list(meant))  # of what they are now, too: none is moved out of the limits
                what = [f"{key}={value}" for key, value in sorted(body.put.items())]
                what += [f"{key} removed" for key in body.remove]
                note_labels(session, changing, ", ".join(what), by, now, meant=body.selector.strip())
                announce(session, Changed.FLEET)
            return _answer(changing, len(meant))


def labels_there(session: Session) -> LabelsView:
    """What labels there are: the commonest keys, each with its commonest values, which indexes have in this order."""
    by_devices = (LabelKeyRow.devices.desc(), LabelKeyRow.key)
    keys = session.scalars(select(LabelKeyRow).order_by(*by_devices).limit(MAX_KEYS)).all()
    views = []
    for each in keys:
        values = select(LabelValueRow.value, LabelValueRow.devices).where(LabelValueRow.key == each.key)
        commonest = values.order_by(LabelValueRow.devices.desc(), LabelValueRow.value).limit(MAX_VALUES)
        found = {value: number for value, number in session.execute(commonest)}  # noqa: C416 - rows are no pairs
        more = max(0, each.different - MAX_VALUES)
        views.append(LabelKeyView(key=each.key, devices=each.devices, values=found, more=more))
    every = len(keys) if len(keys) < MAX_KEYS else session.scalar(select(func.count()).select_from(LabelKeyRow)) or 0
    devices = sum(tallied(session, "hosts").values())
    return LabelsView(devices=devices, keys=tuple(views), more=every - len(keys))


def why_no_match(session: Session, selector: str) -> str:
    """Sentences on a selector that matches no device: the labels that there are, the nearest first."""
    try:
        wanted = parse(selector)
    except SelectorError as error:
        return f"{error}."
    there = labels_there(session)
    keys = {each.key: list(each.values) for each in there.keys}
    return no_match_text(wanted, keys, {each.key: each.more for each in there.keys})


def _check(body: LabelsBody) -> None:
    if bool(body.selector.strip()) == bool(body.devices):
        raise InvalidError("Which devices? Give a selector or names, not both.")
    if not body.put and not body.remove:
        raise InvalidError("Which labels? Give some to put or to remove.")
    if both := sorted(set(body.put) & set(body.remove)):
        raise InvalidError(f"The label {both[0]!r} is to be put and removed.")


def _require_right(session: Session, ids: list[int]) -> None:
    for some in batches(ids):
        require_devices(session, Scope.DEPLOY, None, DeviceRow.id.in_(some))


def _meant(session: Session, body: LabelsBody) -> dict[int, str]:
    """Id to name, by name."""
    columns = select(DeviceRow.id, DeviceRow.name)
    if body.devices:
        found = {row.id: row.name for row in in_batches(session, columns, DeviceRow.name, list(body.devices))}
        if missing := sorted(set(body.devices) - set(found.values())):
            raise NotFoundError(f"There is no device named {missing[0]!r}.")
    else:
        found = {row.id: row.name for row in session.execute(columns.where(matching(body.selector)))}
        if not found:
            raise NotFoundError(f"No device matches {body.selector!r}. {why_no_match(session, body.selector)}")
    return dict(sorted(found.items(), key=lambda item: item[1]))


def _answer(changing: list[str], meant: int) -> LabelsAnswer:
    return LabelsAnswer(devices=meant, changed=len(changing), first=tuple(changing[:MAX_NAMED]))


def _changing(session: Session, meant: dict[int, str], body: LabelsBody) -> list[str]:
    """Those that have not all of it yet, by name. Raises InvalidError: a device would have more than MAX_LABELS."""
    have: dict[int, dict[str, str]] = defaultdict(dict)
    query = select(DeviceLabelRow.device_id, DeviceLabelRow.key, DeviceLabelRow.value)
    for row in in_batches(session, query, DeviceLabelRow.device_id, list(meant)):
        have[row.device_id][row.key] = row.value
    changing = []
    for device, name in meant.items():
        before = have[device]
        after = {key: value for key, value in (before | body.put).items() if key not in body.remove}
        if len(after) > MAX_LABELS:
            raise InvalidError(f"{name} would have {len(after)} labels; {MAX_LABELS} are the most.")
        if after != before:
            changing.append(name)
    return changing


def _put(session: Session, ids: list[int], body: LabelsBody) -> None:
    keys = [*body.put, *body.remove]
    for some in batches(ids):
        session.execute(
            delete(DeviceLabelRow)
            .where(DeviceLabelRow.device_id.in_(some), DeviceLabelRow.key.in_(keys))
            .execution_options(synchronize_session=False)
        )
        rows = [{"device_id": device, "key": key, "value": value} for device in some for key, value in body.put.items()]
        if rows:
            session.execute(insert(DeviceLabelRow), rows)
