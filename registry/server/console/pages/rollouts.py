"""Rollouts: all of them, one as it runs, its plan, its history, and what became of each of its devices."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from registry.contracts.rollout.states import ActionState, RolloutState
from registry.contracts.rollout.views import RolloutView
from registry.contracts.wire import Name
from registry.core.rollouts.columns import BACK, COLUMNS
from registry.server.composition import Services
from registry.server.console import rollout_figures
from registry.server.console.filters import segment
from registry.server.console.pages import rollout_commands, rollout_new
from registry.server.console.rendering import go, page
from registry.server.console.sections import NavEntry
from registry.server.console.visitors import PART, Reading
from registry.server.middleware.auth import ServicesDep
from registry.server.middleware.paging import NEWEST, PagingDep

router = APIRouter()
SECTION = NavEntry("Rollouts", "/rollouts", "rollouts", rollout_new.router, groups=(router, rollout_commands.router))
MOST = 25
"""Rollouts of one page: each is counted."""
HISTORY = 12
"""Transitions that a rollout's page shows."""
_COLUMNS = {"committed": "COMMITTED", "failed": "FAILED", "silent": "UNKNOWN", "under-way": "UNDER WAY",
            "waiting": "WAITING",
            "apart": "APART", "back": BACK}  # fmt: skip


@router.get("/rollouts")
def rollouts(  # noqa: PLR0917 - called by the framework, by name
    request: Request,
    services: ServicesDep,
    paging: PagingDep,
    _who: Reading,
    model: Annotated[str, Query(max_length=128)] = "",
    state: Annotated[str, Query(max_length=32)] = "",
    open: bool = False,  # noqa: A002 - so it is named in the address
) -> Response:
    """The list, newest first."""
    wanted = RolloutState(state) if state in tuple(RolloutState) else None
    paging = type(paging)(min(paging.limit, MOST), paging.cursor)
    listed = partial(services.fleet.rollouts.page, model.strip() or None, wanted, still_open=open)
    found = paging.newest("rollouts", listed)
    return page(
        request, "rollouts.html", live=True, rollouts=found.items, next=found.next, model=model, state=state,
        open=open, states=list(RolloutState), counts=services.fleet.figures.summary(services.clock()).rollouts,
        figures=rollout_figures,
    )  # fmt: skip


@router.get("/rollouts/{rollout}")
def rollout(request: Request, rollout: Name, services: ServicesDep, _who: Reading) -> Response:
    """One, live."""
    view = services.fleet.rollouts.get(rollout, services.clock())
    history = [entry for _, entry in services.fleet.rollouts.history(rollout, NEWEST, HISTORY)]
    return page(
        request, "rollout.html", live=True, rollout=view, label=name_of(view), history=history,
        current=rollout_figures.current_wave(view), figures=rollout_figures, columns=_COLUMNS,
        answers=_answers(services, view) if request.query_params.get(PART, "answers") == "answers" else None,
    )  # fmt: skip


def _answers(services: Services, view: RolloutView) -> dict[str, Any] | None:
    now = services.clock()
    span = rollout_figures.span_of(view, now)
    if span is None:
        return None
    return rollout_figures.answer_plots(services.fleet.over_time.view(span, view.spec.model, now), view)


def name_of(view: RolloutView) -> str:
    """What to call it: its name, else its id."""
    return view.spec.name or view.id


@router.get("/rollouts/{rollout}/plan")
def plan(request: Request, rollout: Name, services: ServicesDep, _who: Reading) -> Response:
    """Who gets what, and who nothing."""
    view = services.fleet.rollouts.get(rollout, services.clock())
    found = services.fleet.rollouts.plan(rollout, services.clock())
    return page(request, "rollout-plan.html", rollout=view, label=name_of(view), plan=found)


@router.get("/rollouts/{rollout}/history")
def history(request: Request, rollout: Name, services: ServicesDep, paging: PagingDep, _who: Reading) -> Response:
    """Every transition, newest first."""
    view = services.fleet.rollouts.get(rollout, services.clock())
    found = paging.newest(f"rollout-history/{rollout}", partial(services.fleet.rollouts.history, rollout))
    return page(
        request, "rollout-history.html", rollout=view, label=name_of(view), history=found.items, next=found.next,
        figures=rollout_figures,
    )  # fmt: skip


@router.get("/rollouts/{rollout}/devices")
def devices(  # noqa: PLR0917 - called by the framework, by name
    request: Request,
    rollout: Name,
    services: ServicesDep,
    paging: PagingDep,
    _who: Reading,
    state: Annotated[str, Query(max_length=32)] = "",
    wave: Annotated[str, Query(max_length=4, pattern=r"^\d*$")] = "",
    code: Annotated[str | None, Query(max_length=64)] = None,
    back: Annotated[str, Query(max_length=5)] = "",
    trouble: bool = False,
) -> Response:
    """Its devices by name, each with why it is where it is."""
    view = services.fleet.rollouts.get(rollout, services.clock())
    column = {"back": "COMMITTED"}.get(state) or _COLUMNS.get(state, "")
    states = COLUMNS.get(column, frozenset())
    single = state if state in tuple(ActionState) else None
    told = {"true": True, "false": False}.get(back)
    if column == "COMMITTED":  # of devices that go back it says that they are back
        told = state == "back"
    listed = partial(
        services.fleet.rollouts.devices, rollout, single, int(wave) if wave else None, now=services.clock(),
        back=told, trouble=trouble, states=states, code=code,
    )  # fmt: skip
    found = paging.answer(f"rollout-devices/{rollout}", "", listed, lambda action: action.device)
    return page(
        request, "rollout-devices.html", live=True, rollout=view, label=name_of(view), devices=found.items,
        next=found.next, state=state, wave=wave, code=code, back=back, trouble=trouble, columns=_COLUMNS,
        states=list(ActionState), figures=rollout_figures,
    )  # fmt: skip


@router.get("/rollouts/{rollout}/device")
def find_device(rollout: Name, name: Annotated[str, Query(max_length=128)], _who: Reading) -> Response:
    """To the page of the device of this name."""
    return go(f"/rollouts/{segment(rollout)}/devices/{segment(name.strip() or '-')}")


@router.get("/rollouts/{rollout}/devices/{device}")
def device(request: Request, rollout: Name, device: Name, services: ServicesDep, _who: Reading) -> Response:
    """One of its devices: why it is where it is, and each step that it took."""
    view = services.fleet.rollouts.get(rollout, services.clock())
    action = services.fleet.rollouts.device(rollout, device, services.clock())
    return page(
        request, "rollout-device.html", live=True, rollout=view, label=name_of(view), action=action,
        figures=rollout_figures,
    )  # fmt: skip
