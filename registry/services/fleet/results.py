"""Recorded results: kept only for models whose settings say so, bounded in size, age and number."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from datetime import datetime
from math import isfinite, isnan
from typing import Any

from pydantic_core import from_json
from sqlalchemy import select
from sqlalchemy.orm import Session

from registry.contracts.api.devices import ResultView
from registry.contracts.tensors import CONTENT_JSON
from registry.contracts.wire import Name
from registry.core.intake import Recorded, Result
from registry.db.catalog_rows import ModelRow
from registry.db.fleet_rows import DeviceRow, ResultRow
from registry.services.queries import UseCases, given


def record(session: Session, results: Sequence[tuple[int, datetime, Recorded]]) -> int:
    """Store results (device id, when, what) of recorded models within the caller's transaction; how many were."""
    if not results:
        return 0
    names = {recorded.model for _, _, recorded in results}
    query = select(ModelRow.name).where(ModelRow.name.in_(names), ModelRow.record_results.is_(True))
    recorded_models = set(session.scalars(query))
    rows = [_row(device_id, at, r) for device_id, at, r in results if r.model in recorded_models]
    session.add_all(rows)
    return len(rows)


def _row(device_id: int, at: datetime, recorded: Recorded) -> ResultRow:
    result: Result = recorded.result
    return ResultRow(
        device_id=device_id,
        model=recorded.model,
        version=result.version,
        at=at,
        request_id=result.request_id,
        code=result.code,
        content_type=result.content_type,
        body=result.body,
        size=result.size,
        header_length=result.header_length,
        note=result.note,
        rollout=result.rollout or None,
    )


class Results(UseCases):
    """Reads recorded results."""

    def page(self, device: Name | None, model: Name | None, before: int, limit: int) -> list[ResultView]:
        """Up to `limit` results below the id `before`, newest first."""
        query = select(DeviceRow.name, ResultRow).join(ResultRow, ResultRow.device_id == DeviceRow.id)
        query = query.where(ResultRow.id < before, *given((DeviceRow.name, device), (ResultRow.model, model)))
        with self._database.read() as session:
            rows = session.execute(query.order_by(ResultRow.id.desc()).limit(limit)).all()
        return [_view(name, row) for name, row in rows]


def _view(device: str, row: ResultRow) -> ResultView:
    return ResultView(
        id=row.id,
        device=device,
        model=row.model,
        version=row.version,
        at=row.at,
        request_id=row.request_id,
        code=row.code,
        content_type=row.content_type,
        body=_body(row),
        size=row.size,
        header_length=row.header_length,
        note=row.note,
        rollout=row.rollout,
    )


def _body(row: ResultRow) -> Any:
    """JSON as JSON; what is not JSON after all, as base64 like a binary result."""
    if row.body is None:
        return None
    if row.content_type != CONTENT_JSON or row.header_length is not None:
        return _base64(row.body)
    try:
        return _in_json(from_json(row.body))  # refuses nesting deeper than it can write again
    except ValueError:
        return _base64(row.body)


def _in_json(value: Any) -> Any:
    """The value with `"NaN"`, `"Infinity"` and `"-Infinity"` for the tokens that devices write and JSON has not."""
    if isinstance(value, float) and not isfinite(value):
        return "NaN" if isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, list):
        return [_in_json(item) for item in value]
    if isinstance(value, dict):
        return {name: _in_json(item) for name, item in value.items()}
    return value


def _base64(body: bytes) -> str:
    return base64.b64encode(body).decode()
