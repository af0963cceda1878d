"""What people do with models: settings, aliases, yanking, deleting."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import TypeAdapter

from registry.contracts.api.versions import AliasMove, ModelSettings, YankBody
from registry.contracts.texts import how_many
from registry.contracts.wire import Name, VersionName
from registry.errors import InvalidError
from registry.server.console.filters import command_line, segment
from registry.server.console.forms import FormDep, parsed
from registry.server.console.model_figures import Served, served
from registry.server.console.rendering import done, page
from registry.server.console.visitors import Publishing
from registry.server.middleware.auth import ServicesDep

router = APIRouter()
_SETTINGS: TypeAdapter[ModelSettings] = TypeAdapter(ModelSettings)
_YANK: TypeAdapter[YankBody] = TypeAdapter(YankBody)
_MOVE: TypeAdapter[AliasMove] = TypeAdapter(AliasMove)
_NAME: TypeAdapter[Name] = TypeAdapter(Name)
_DELETES = "The model is removed with all its versions and aliases. It is refused while a device serves one, or should."
_YANKS = (
    "Nothing new gets it: no deployment, no rollout, no alias. Rollouts of it that run pause. Devices that have it go "
    "on. It can be undone."
)
_ENDS = (
    "The version is removed for ever; its files go with the next garbage collection, unless another version has them. "
    "It is refused while a device uses it, or may return to it."
)


def _model(name: str) -> str:
    return f"/models/{segment(name)}"


def _version(model: str, version: str) -> str:
    return f"{_model(model)}/versions/{segment(version)}"


@router.post("/models/{model}/settings")
def change(request: Request, model: Name, services: ServicesDep, who: Publishing, form: FormDep) -> Response:
    """Record the results of its requests, or not, and how long they are kept."""
    said = {"record_results": form.ticked("record_results"), "result_retention_hours": form.text("hours")}
    view = services.models.change(model, parsed(_SETTINGS, said, "The settings"))
    kept = how_many(view.result_retention_hours, "hour")
    told = f"Results are recorded and kept for {kept}." if view.record_results else "Results are not recorded."
    return done(request, who, told, _model(model))


@router.get("/models/{model}/delete")
def ask_delete(request: Request, model: Name, services: ServicesDep, _who: Publishing) -> Response:
    """Asks."""
    view = services.models.get(model)
    return page(
        request, "confirm.html", active="/models", title=f"Delete {model}?", back=_model(model),
        action=f"{_model(model)}/delete", fields=(), warnings=(),
        facts=[("What happens", _DELETES), ("Versions", f"{view.versions:,}")],
        command=command_line("registry", "delete", model), button="Delete", danger=True, reason="",
    )  # fmt: skip


@router.post("/models/{model}/delete")
def delete(request: Request, model: Name, services: ServicesDep, who: Publishing, form: FormDep) -> Response:
    """With all its versions."""
    _require_confirmed(form.ticked("confirmed"))
    services.models.delete(model, who.name, services.clock())
    return done(request, who, f"Deleted {model} with its versions.", "/models")


def _require_confirmed(confirmed: bool) -> None:
    if not confirmed:
        raise InvalidError("Nothing was done: the form was not confirmed.")


@router.post("/models/{model}/aliases")
def move_alias(request: Request, model: Name, services: ServicesDep, who: Publishing, form: FormDep) -> Response:
    """Point an alias to a version, or make it; only if nobody moved it since the page was read."""
    alias = parsed(_NAME, form.text("alias"), "The alias")
    body = parsed(_MOVE, {"version": form.text("version")}, "The version")
    revision = form.text("revision")
    if revision and not (revision.isdecimal() and len(revision) < 19):
        raise InvalidError("The revision is a number.")
    seen = int(revision) if revision else None
    services.aliases.move(model, alias, body.version, seen=seen, by=who.name, now=services.clock())
    return done(request, who, f"{alias} is {body.version} now.", _model(model))


@router.get("/models/{model}/aliases/{alias}/remove")
def ask_remove_alias(request: Request, model: Name, alias: Name, services: ServicesDep, _who: Publishing) -> Response:
    """Asks."""
    view = services.aliases.get(model, alias)
    path = f"{_model(model)}/aliases/{segment(alias)}"
    return page(
        request, "confirm.html", active="/models", title=f"Remove the alias {alias}?", back=_model(model),
        action=f"{path}/remove", fields=[("revision", str(view.revision))], warnings=(),
        facts=[("What happens", "The name no longer leads to a version. Its history stays, and devices go on."),
               ("Points to", str(view.version))],
        command=command_line("registry", "alias", "remove", model, alias), button="Remove", danger=True, reason="",
    )  # fmt: skip


@router.post("/models/{model}/aliases/{alias}/remove")
def remove_alias(  # noqa: PLR0917 - called by the framework, by name
    request: Request, model: Name, alias: Name, services: ServicesDep, who: Publishing, form: FormDep
) -> Response:
    """End it; its history stays."""
    _require_confirmed(form.ticked("confirmed"))
    revision = form.text("revision")
    seen = int(revision) if revision.isdecimal() and len(revision) < 19 else None
    services.aliases.remove(model, alias, seen=seen, by=who.name, now=services.clock())
    return done(request, who, f"Removed the alias {alias}.", _model(model))


@router.get("/models/{model}/versions/{version}/yank")
def ask_yank(request: Request, model: Name, version: VersionName, services: ServicesDep, _who: Publishing) -> Response:
    """Asks for the reason, and says who has it."""
    view = services.versions.get(model, version)
    path = _version(model, view.version)
    devices = served(services.fleet.figures.summary(services.clock()), model).get(view.version, Served())
    warnings = [f"{how_many(devices.serves, 'device')} serve it, and go on."] if devices.serves else []
    warnings += [f"The alias {name} points to it." for name in view.aliases]
    if view.yanked is not None:
        was = f"It is yanked already, by {view.yanked.by}: {view.yanked.reason}"
        warnings.append(f"{was}. A new reason replaces this one.")
    return page(
        request, "confirm.html", active="/models", title=f"Yank {model}@{view.version}?", back=path,
        action=f"{path}/yank", fields=(), warnings=warnings,
        facts=[("What happens", _YANKS)],
        command=command_line("registry", "yank", f"{model}@{view.version}", "--reason", "WHY"), button="Yank",
        danger=True, reason="required",
    )  # fmt: skip


@router.post("/models/{model}/versions/{version}/yank")
def yank(  # noqa: PLR0917 - called by the framework, by name
    request: Request, model: Name, version: VersionName, services: ServicesDep, who: Publishing, form: FormDep
) -> Response:
    """Let nothing new get it."""
    body = parsed(_YANK, {"reason": form.text("reason")}, "The reason")
    answer = services.yanking.yank(model, version, body.reason.strip(), who.name, services.clock())
    told = f"Yanked {model}@{version}. {how_many(answer.devices, 'device')} should serve it, and go on."
    if answer.replaced is not None:
        told += f" The reason before, of {answer.replaced.by}, stays in the events: {answer.replaced.reason}."
    if answer.rollouts:
        told += f" Rollouts that offer it to nobody more: {', '.join(answer.rollouts)}."
    return done(request, who, told, _version(model, version))


@router.get("/models/{model}/versions/{version}/unyank")
def ask_undo(request: Request, model: Name, version: VersionName, services: ServicesDep, _who: Publishing) -> Response:
    """Asks."""
    view = services.versions.get(model, version)
    path = _version(model, view.version)
    back = view.taken_back
    facts = [("What happens", "It may be deployed again, and counts as the newest again if it is.")]
    facts += [("Yanked", f"by {view.yanked.by}: {view.yanked.reason}")] if view.yanked else []
    facts += [("Taken back", f"by rollout {back.rollout}: {back.text or back.code}")] if back else []
    return page(
        request, "confirm.html", active="/models", title=f"Let {model}@{view.version} be deployed again?", back=path,
        action=f"{path}/unyank", fields=(), warnings=(), facts=facts,
        command=command_line("registry", "yank", f"{model}@{view.version}", "--undo"), button="Undo", danger=False,
        reason="",
    )  # fmt: skip


@router.post("/models/{model}/versions/{version}/unyank")
def undo(  # noqa: PLR0917 - called by the framework, by name
    request: Request, model: Name, version: VersionName, services: ServicesDep, who: Publishing, form: FormDep
) -> Response:
    """It may be deployed again."""
    _require_confirmed(form.ticked("confirmed"))
    services.yanking.undo(model, version, who.name, services.clock())
    return done(request, who, f"{model}@{version} may be deployed again.", _version(model, version))


@router.get("/models/{model}/versions/{version}/delete")
def ask_delete_version(
    request: Request, model: Name, version: VersionName, services: ServicesDep, _who: Publishing
) -> Response:
    """Asks."""
    view = services.versions.get(model, version)
    path = _version(model, view.version)
    warnings = [f"The alias {name} points to it: remove it, or move it, first." for name in view.aliases]
    return page(
        request, "confirm.html", active="/models", title=f"Delete {model}@{view.version}?", back=path,
        action=f"{path}/delete", fields=(), warnings=warnings,
        facts=[("What happens", _ENDS)],
        command=command_line("registry", "delete", f"{model}@{view.version}"), button="Delete", danger=True, reason="",
    )  # fmt: skip


@router.post("/models/{model}/versions/{version}/delete")
def delete_version(  # noqa: PLR0917 - called by the framework, by name
    request: Request, model: Name, version: VersionName, services: ServicesDep, who: Publishing, form: FormDep
) -> Response:
    """For ever."""
    _require_confirmed(form.ticked("confirmed"))
    services.versions.delete(model, version, services.clock())
    return done(request, who, f"Deleted {model}@{version}.", _model(model))
