"""The fleet: all devices as a list, with counters and filters that stand in the address."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from registry.contracts.api.devices import DeviceQuery
from registry.contracts.api.fleet import ConnectionState, DeviceSort, FleetSummary, SlotState
from registry.contracts.paths import CONSOLE
from registry.server.console import device_texts
from registry.server.console.filters import query
from registry.server.console.rendering import page
from registry.server.console.sections import NavEntry
from registry.server.console.visitors import Reading
from registry.server.device_pages import device_page
from registry.server.middleware.auth import ServicesDep
from registry.server.middleware.paging import PagingDep

router = APIRouter()
SECTION = NavEntry("Fleet", "/fleet", "fleet", router)
SORTS = {
    DeviceSort.NAME: "Name",
    DeviceSort.LAST_SEEN: "Longest silent",
    DeviceSort.LAST_SEEN_BACKWARDS: "Last heard",
    DeviceSort.CHANGED_BACKWARDS: "Last changed",
    DeviceSort.CHANGED: "Longest unchanged",
    DeviceSort.NAME_BACKWARDS: "Name, from the end",
}


@router.get("/fleet")
def fleet(
    request: Request, services: ServicesDep, paging: PagingDep, _who: Reading, wanted: Annotated[DeviceQuery, Query()]
) -> Response:
    """The counters, the filters and one page of devices."""
    found = device_page(services, paging, wanted.model_copy(update={"brief": True}))
    figures = services.fleet.figures.summary(services.clock())
    chips = tuple(_chips(wanted))
    return page(
        request,
        "fleet.html",
        live=True,
        devices=found.items,
        next=found.next,
        wanted=wanted,
        filtered=bool(chips),
        chips=chips,
        figures=figures,
        rows=(_connection_counters(figures, wanted), _state_counters(figures, wanted)),
        sorts=SORTS,
        versions=_versions(figures),
        texts=device_texts,
        keys=tuple(services.fleet.labels.offered()) if chips and not found.items else (),
    )


def filters_of(wanted: DeviceQuery) -> dict[str, object]:
    """The parameters of the address, without the place in the list."""
    given = wanted.model_dump(mode="json", exclude_defaults=True, exclude={"brief"})
    return {key: str(value).lower() if isinstance(value, bool) else value for key, value in given.items()}


Counter = tuple[str, str, int, str, bool]
"""Kind, word, number, address, whether it is chosen."""


def _with_states(wanted: DeviceQuery, states: list[str]) -> str:
    return CONSOLE + "/fleet" + query(filters_of(wanted), state=states, behind=None, failing=None, online=None)


def _connection_counters(figures: FleetSummary, wanted: DeviceQuery) -> Iterator[Counter]:
    chosen = set(wanted.state)
    others = [state for state in wanted.state if state not in set(ConnectionState)]
    plain = not wanted.state and wanted.behind is None and not wanted.failing and wanted.online is None
    yield "idle", "All", figures.devices, _with_states(wanted, []), plain
    for state, (kind, word) in device_texts.CONNECTIONS.items():
        number = figures.connection.get(state, 0)
        if number or state in (ConnectionState.ONLINE, ConnectionState.LATE, ConnectionState.SILENT):
            yield kind, word, number, _with_states(wanted, [*others, state.value]), state in chosen


def _state_counters(figures: FleetSummary, wanted: DeviceQuery) -> Iterator[Counter]:
    asked = filters_of(wanted)

    def states(*of: SlotState) -> tuple[int, str, bool]:
        names = [state.value for state in of]
        kept = [state for state in wanted.state if state in set(ConnectionState)]
        number = sum(figures.serving.get(state, 0) for state in of)
        chosen = set(names) <= set(wanted.state)
        return number, CONSOLE + "/fleet" + query(asked, state=[*kept, *names], behind=None, failing=None), chosen

    yield "ok", "Serving", *states(SlotState.SERVING)
    behind = CONSOLE + "/fleet" + query(asked, behind="true", failing=None, state=None)
    yield "busy", "Behind", figures.behind, behind, wanted.behind is True
    yield "busy", "Changing", *states(*device_texts.CHANGING)
    failing = CONSOLE + "/fleet" + query(asked, failing="any", behind=None, state=None)
    yield "bad", "Failing", sum(figures.failing.values()), failing, wanted.failing == "any"
    yield "warn", "Rolling back", *states(SlotState.ROLLING_BACK)
    yield "warn", "Went back", *states(SlotState.WENT_BACK)
    yield "bad", "Down", *states(SlotState.DOWN)


def _chips(wanted: DeviceQuery) -> Iterator[tuple[str, str]]:
    """What each filter says, and the address without it."""
    asked = filters_of(wanted)
    words = {
        **{state.value: word for state, (_, word) in device_texts.CONNECTIONS.items()},
        **{state.value: word for state, (_, word) in device_texts.SLOTS.items()},
    }
    for state in wanted.state:
        yield words.get(state, state), query(asked, state=[each for each in wanted.state if each != state])
    for text in wanted.label:
        yield text, query(asked, label=[each for each in wanted.label if each != text])
    singles = {
        "name": f"name has {wanted.name}",
        "serves": f"serves {wanted.serves}",
        "failing": "failing" if wanted.failing == "any" else f"fails with {wanted.failing}",
        "behind": "behind" if wanted.behind else "not behind",
        "selector": wanted.selector,
        "online": "online" if wanted.online else "not online",
    }
    for name, text in singles.items():
        if name in asked:
            yield text, query(asked, **{name: None})


def _versions(figures: FleetSummary) -> list[str]:
    """What serves somewhere, for the field's suggestions."""
    serving = {f"{row.model}@{row.version}" for row in figures.versions if row.version}
    return sorted({row.model for row in figures.versions if row.version} | serving)[:200]
