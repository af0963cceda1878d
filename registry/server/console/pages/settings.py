"""Settings: the registry itself, who may do what (tokens), and who is signed in (sessions)."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from functools import partial
from importlib.metadata import version
from typing import Annotated

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import Field, TypeAdapter

from registry.contracts.api.access import LIMITED_BY_DEVICES, LIMITED_BY_MODELS, Role, RoleGrant
from registry.contracts.api.answers import Page, Scope, TokenCreate
from registry.contracts.api.upkeep import CheckState
from registry.contracts.api.uploads import OpenUpload, UploadId
from registry.contracts.wire import Name
from registry.core.access import named
from registry.server.console.filters import command_line
from registry.server.console.forms import Form, FormDep, parsed
from registry.server.console.rendering import done, go, page
from registry.server.console.sections import NavEntry
from registry.server.console.visitors import Administering, Publishing, Reading
from registry.server.diagnosis import diagnose
from registry.server.middleware.auth import ServicesDep
from registry.server.middleware.paging import PagingDep
from registry.server.readiness import WORKS
from registry.services.console_sessions import IDLE, MOST
from registry.services.tokens import check_grants
from registry.services.trust.view import trust_view

router = APIRouter()
SECTION = NavEntry("Settings", "/settings", "settings", router)
ROLES = {
    Role.VIEWER: "Looks at everything but secrets.",
    Role.PUBLISHER: "Publishes versions, moves aliases, yanks, changes models.",
    Role.DEPLOYER: "Registers devices and says what they serve, makes and runs rollouts.",
    Role.APPROVER: "Approves or denies what others want to change.",
    Role.ADMINISTRATOR: "Does everything, and manages tokens.",
}
"""What somebody may be given, in a sentence each. All of them may look at everything."""
LONGEST_DAYS = 3650
CHECK_KIND = {CheckState.OK: "ok", CheckState.WARNING: "warn", CheckState.FAILED: "bad", CheckState.OFF: "idle"}
_TOKEN: TypeAdapter[TokenCreate] = TypeAdapter(TokenCreate)
_DAYS: TypeAdapter[int] = TypeAdapter(Annotated[int, Field(ge=1, le=LONGEST_DAYS)])


@router.get("/settings")
async def overview(request: Request, services: ServicesDep, _who: Reading) -> Response:
    """The registry itself: version, clock, and whether all that it needs works."""
    works = [(what, "" if found == WORKS else found) for what, found in (await services.readiness.look()).items()]
    if (bridge := services.fleet.bridge) is not None:
        works.append(("broker", bridge.problem))
    config = services.config
    facts = {
        "Version": version("modelfleet"),
        "Instance": config.instance or "not named",
        "Database": config.effective_database_url.partition(":")[0].partition("+")[0],
        "Two people for a rollout": "required" if config.rollouts.two_person else "only where a rollout asks for it",
        "Reading": "open to EVERYBODY (access.open_reading)" if config.access.open_reading else "needs a token",
        "Sessions end": f"after {IDLE // timedelta(minutes=1)} min idle, or {MOST // timedelta(hours=1)} h in all",
    }
    return page(request, "settings.html", works=works, facts=facts, started_at=services.started_at)


@router.get("/settings/checks")
async def checks(request: Request, services: ServicesDep, _who: Administering) -> Response:
    """Every check of `registry doctor` that this process can make, made for this page."""
    return page(request, "checks.html", found=await diagnose(services), kinds=CHECK_KIND)


@router.get("/settings/storage")
def storage(request: Request, services: ServicesDep, paging: PagingDep, who: Reading) -> Response:
    """What takes the room, and what collecting garbage would free; uploads that are open, to publishers their own."""
    found: Page[OpenUpload] = Page(items=())
    if who.may(Scope.PUBLISH):
        mine = partial(services.uploads.page, None if who.may(Scope.ADMIN) else who.name)
        found = paging.answer("uploads", "", mine, lambda upload: upload.id)
    disk = services.disk_use.view(services.clock())
    return page(request, "storage.html", disk=disk, uploads=found.items, next=found.next)


@router.post("/settings/storage/uploads/{upload}/cancel")
def cancel_upload(
    request: Request, upload: UploadId, services: ServicesDep, who: Publishing, form: FormDep
) -> Response:
    """An upload is given up: an administrator cancels anybody's, others their own."""
    if not form.ticked("confirmed"):
        return page(
            request,
            "confirm.html",
            title="Cancel an upload",
            back="/settings/storage",
            action=f"/settings/storage/uploads/{upload}/cancel",
            fields=(),
            facts=(("Upload", upload), ("Effect", "Its bytes are dropped, and its room on the disk is free again.")),
            warnings=("Whoever sends it may begin again, until the token is revoked.",),
            command=command_line("registry", "uploads", "cancel", upload),
            button="Cancel the upload",
            danger=True,
            reason=None,
        )
    services.uploads.cancel(upload, None if who.may(Scope.ADMIN) else who.name)
    return done(request, who, "The upload is cancelled.", "/settings/storage")


@router.get("/settings/trust")
def trust(request: Request, services: ServicesDep, _who: Reading) -> Response:
    """Who signs what, and until when."""
    with services.database.read() as session:
        view = trust_view(services.trust, session, services.clock())
    return page(request, "trust.html", view=view)


@router.get("/settings/tokens")
def tokens(request: Request, services: ServicesDep, paging: PagingDep, _who: Administering) -> Response:
    """Who may do what; without secrets, which nobody can read again."""
    found = paging.answer("tokens", "", services.tokens.page, lambda token: token.name)
    return page(request, "tokens.html", tokens=found.items, next=found.next, roles=ROLES)


@router.post("/settings/tokens")
def create_token(request: Request, services: ServicesDep, who: Administering, form: FormDep) -> Response:
    """A new token. Its secret stands in this answer, and nowhere else."""
    grants = grants_of_form(form)
    days = form.text("days")
    ends = services.clock() + timedelta(days=parsed(_DAYS, days, "The number of days")) if days else None
    body = parsed(
        _TOKEN,
        {"name": form.text("name"), "grants": grants, "expires_at": ends, "person": form.text("person") or None},
        "The token",
    )
    check_grants(body.grants)
    options = [*grant_options(body.grants), *_until(days), *(("--person", body.person) if body.person else ())]
    if not form.ticked("confirmed"):
        return page(
            request,
            "confirm.html",
            title=f"Create token {body.name}",
            back="/settings/tokens",
            action="/settings/tokens",
            fields=list(form.hidden("confirmed")),
            facts=(
                ("Holder", body.name),
                ("Belongs to", body.person or "a program"),
                ("Roles", named(body.grants)),
                ("Works until", f"{ends:%Y-%m-%d %H:%M} UTC" if ends is not None else "it is revoked"),
                ("Asked for by", who.name),
            ),
            warnings=("The token is shown once. Whoever has it can do this until it is revoked.",),
            command=command_line("registry", "token", "create", body.name, *options),
            button="Create",
            danger=False,
            reason=None,
        )
    made = services.tokens.create(body, who.name, services.clock())
    return page(
        request, "secret.html", title=f"Token {made.name}", what="token", secret=made.token, back="/settings/tokens"
    )


def _until(days: str) -> tuple[str, ...]:
    return ("--expires", f"{days}d") if days else ()


def grants_of_form(form: Form) -> list[dict[str, object]]:
    """The ticked roles, each with the limits that it can have."""
    models = form.text("models").replace(",", " ").split()
    devices = form.text("devices")
    return [
        {
            "role": role,
            **({"models": models} if models and role in LIMITED_BY_MODELS else {}),
            **({"devices": devices} if devices and role in LIMITED_BY_DEVICES else {}),
        }
        for role in form.texts("role")
    ]


def grant_options(grants: Sequence[RoleGrant]) -> list[str]:
    """The same for a shell; all limits of one form are the same."""
    options = [word for each in grants for word in ("--role", each.role.value)]
    models = next((each.models for each in grants if each.models), ())
    devices = next((each.devices for each in grants if each.devices), "")
    options += [word for pattern in models for word in ("--models", pattern)]
    return [*options, *(("--devices", devices) if devices else ())]


@router.post("/settings/tokens/{name}/revoke")
def revoke_token(request: Request, name: Name, services: ServicesDep, who: Administering, form: FormDep) -> Response:
    """The token works no more, and its sessions end."""
    if not form.ticked("confirmed"):
        own = name == who.name
        return page(
            request,
            "confirm.html",
            title=f"Revoke token {name}",
            back="/settings/tokens",
            action=f"/settings/tokens/{name}/revoke",
            fields=(),
            facts=(("Token", name), ("Effect", "It works no more, at once. Its sessions in the console end.")),
            warnings=("You are signed in with this token: you will be signed out.",) if own else (),
            command=command_line("registry", "token", "revoke", name),
            button="Revoke",
            danger=True,
            reason=None,
        )
    services.tokens.revoke(name, services.clock())
    return done(request, who, f"Token {name} is revoked.", "/settings/tokens")


@router.get("/settings/sessions")
def sessions(request: Request, services: ServicesDep, paging: PagingDep, who: Reading) -> Response:
    """Browsers that are signed in: an administrator sees all, others their own."""
    mine = None if who.may(Scope.ADMIN) and who.session is not None else who.name

    def fetch(before: int, limit: int) -> list[tuple[int, object]]:
        found = services.sessions.page(mine, before, limit, services.clock())
        return [(session.id, session) for session in found]

    found = paging.newest("sessions", fetch)
    return page(request, "sessions.html", open=found.items, next=found.next, everybody=mine is None)


@router.post("/settings/sessions/{number}/end")
def end_session(request: Request, number: int, services: ServicesDep, who: Reading, _form: FormDep) -> Response:
    """Sign a browser out."""
    services.sessions.end(number, None if who.may(Scope.ADMIN) else who.name)
    if who.session is not None and who.session.id == number:
        return go("/sign-in")
    return done(request, who, "The session has ended.", "/settings/sessions")
