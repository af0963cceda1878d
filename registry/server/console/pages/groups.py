"""Groups: named sets of devices, which rollouts can name."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import TypeAdapter

from registry.contracts.rollout.spec import GroupBody
from registry.contracts.wire import Name
from registry.server.console.filters import command_line, segment
from registry.server.console.forms import FormDep, parsed
from registry.server.console.rendering import done, page
from registry.server.console.visitors import Deploying, Reading
from registry.server.middleware.auth import ServicesDep
from registry.server.middleware.paging import PagingDep

router = APIRouter()
_NAME: TypeAdapter[str] = TypeAdapter(Name)
_BODY: TypeAdapter[GroupBody] = TypeAdapter(GroupBody)


@router.get("/groups")
def groups(request: Request, services: ServicesDep, paging: PagingDep, _who: Reading) -> Response:
    """All of them, each with how many devices are in it now."""
    found = paging.answer("groups", "", services.fleet.groups.page, lambda group: group.name)
    return page(request, "groups.html", groups=found.items, next=found.next, active="/fleet")


@router.get("/groups/{group}")
def group(request: Request, group: Name, services: ServicesDep, _who: Reading) -> Response:
    """One, and its form."""
    view = services.fleet.groups.get(group)
    words = ["--selector", view.selector] if view.selector else []
    words += [word for device in view.devices for word in ("-d", device)]
    words += ["--note", view.note] if view.note else []
    command = command_line("registry", "group", "set", group, words)
    return page(request, "group.html", group=view, command=command, active="/fleet")


@router.post("/groups")
def set_group(request: Request, services: ServicesDep, who: Deploying, form: FormDep) -> Response:
    """Make a group or change it."""
    name = parsed(_NAME, form.text("name"), "The name")
    devices = form.text("devices").replace(",", " ").split()
    given = {"selector": form.text("selector"), "devices": devices, "note": form.text("note")}
    body = parsed(_BODY, given, "The group")
    view = services.fleet.groups.put(name, body, services.clock())
    return done(request, who, f"Group {name} is set: {view.count:,} devices are in it now.", f"/groups/{segment(name)}")


@router.post("/groups/{group}/remove")
def remove_group(request: Request, group: Name, services: ServicesDep, who: Deploying, form: FormDep) -> Response:
    """Forget it; its devices stay."""
    if form.ticked("confirmed"):
        services.fleet.groups.delete(group)
        return done(request, who, f"Group {group} is removed; its devices stay.", "/groups")
    view = services.fleet.groups.get(group)
    return page(
        request,
        "confirm.html",
        title=f"Remove group {group}",
        back=f"/groups/{segment(group)}",
        action=f"/groups/{segment(group)}/remove",
        fields=(),
        facts=(
            ("Devices in it now", f"{view.count:,}"),
            ("Effect", "The name is forgotten; the devices stay as they are."),
        ),
        warnings=(),
        command=command_line("registry", "group", "remove", group),
        button="Remove",
        danger=True,
        reason=None,
        active="/fleet",
    )
