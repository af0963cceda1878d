"""Pages of devices and of their counts for whoever shows them: what a query asks for, and its page with the cursor of
the next."""

from __future__ import annotations

import json
from datetime import datetime

from pydantic import TypeAdapter, ValidationError

from registry.contracts.api.answers import Page
from registry.contracts.api.devices import CountView, DeviceQuery, DeviceView
from registry.contracts.api.fleet import ConnectionState, DeviceSort, SlotState
from registry.contracts.wire import Name, VersionName
from registry.errors import InvalidError
from registry.server.composition import Services
from registry.server.middleware.paging import CURSOR_REFUSED, Paging, is_text
from registry.services.fleet.listing import Asked, DeviceFilter, Key

_NAME: TypeAdapter[str] = TypeAdapter(Name)
_VERSION: TypeAdapter[str] = TypeAdapter(VersionName)
_KEYS = {sort: [str] if sort.value.endswith("name") else [datetime, int] for sort in DeviceSort}


def device_page(services: Services, paging: Paging, wanted: DeviceQuery) -> Page[DeviceView]:
    """The page; it may be short or empty and have a next one. Raises InvalidError, BusyError."""
    which, sort = device_filter(wanted), wanted.sort

    def fetch(after: Key | None, limit: int) -> tuple[list[DeviceView], Key | None]:
        if after is not None and [type(part) for part in after] != _KEYS[sort]:
            raise InvalidError(CURSOR_REFUSED)
        return services.fleet.devices.page(Asked(which, sort, after, limit), services.clock(), brief=wanted.brief)

    return paging.keyed(f"devices {sort.value}", fetch)


def device_filter(wanted: DeviceQuery) -> DeviceFilter:
    """What a query asks for. Raises InvalidError."""
    model, _, version = wanted.serves.partition("@")
    if wanted.serves and not (_fits(_NAME, model) and (not version or _fits(_VERSION, version))):
        raise InvalidError(f"`serves` is MODEL or MODEL@VERSION, not {wanted.serves[:100]!r}.")
    states = tuple(_state(state) for state in wanted.state)
    return DeviceFilter(
        states=states,
        model=model,
        version=version,
        failing=wanted.failing,
        behind=wanted.behind,
        selector=wanted.selector,
        labels=dict(_label(text) for text in wanted.label),
        online=wanted.online,
        name=wanted.name.lower(),
    )


def _state(text: str) -> ConnectionState | SlotState:
    for kind in (ConnectionState, SlotState):
        if text in tuple(kind):
            return kind(text)
    known = ", ".join((*ConnectionState, *SlotState))
    raise InvalidError(f"There is no state {text[:64]!r}; there are: {known}.")


def _fits(kind: TypeAdapter[str], text: str) -> bool:
    try:
        kind.validate_python(text)
    except ValidationError:
        return False
    return True


def _label(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or len(text) > 512:
        raise InvalidError(f"A label filter is `key=value`, not {text[:100]!r}.")
    return key, value


def count_page(services: Services, paging: Paging, device: str | None, model: str | None) -> Page[CountView]:
    """One page of the list. Raises InvalidError for a cursor that is none."""

    def after(start: str, count: int) -> list[CountView]:
        return services.fleet.health.counts(device, model, _key(start), count)

    return paging.answer("counts", '["","",""]', after, lambda c: json.dumps([c.device, c.model, c.version]))


def _key(cursor: str) -> tuple[str, str, str]:
    try:
        device, model, version = json.loads(cursor)
    except (ValueError, TypeError, RecursionError):
        device = model = version = None
    if not all(isinstance(part, str) and is_text(part) for part in (device, model, version)):
        raise InvalidError(CURSOR_REFUSED)
    return device, model, version
