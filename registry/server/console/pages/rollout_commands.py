"""What people may say to a rollout: each command asks first, says what follows from it, and names the revision that
was seen, so that nobody acts on a rollout that somebody else moved meanwhile."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from pydantic import TypeAdapter

from registry.contracts.rollout.spec import Hold
from registry.contracts.rollout.states import Command
from registry.contracts.rollout.views import Approval, CommandBody, RolloutView
from registry.contracts.texts import how_many
from registry.contracts.wire import Name
from registry.core.rollouts.columns import COLUMNS, counted
from registry.errors import InvalidError
from registry.server.console import rollout_figures
from registry.server.console.filters import command_line, segment
from registry.server.console.forms import Form, FormDep, parsed
from registry.server.console.rendering import done, page
from registry.server.console.visitors import Approving, Deploying
from registry.server.middleware.auth import ServicesDep

router = APIRouter()
_COMMAND: TypeAdapter[CommandBody] = TypeAdapter(CommandBody)
_APPROVAL: TypeAdapter[Approval] = TypeAdapter(Approval)


@dataclass(frozen=True)
class Ask:
    """How a command is asked for."""

    title: str
    """With the rollout's name."""
    what: str
    """What follows from it."""
    button: str
    said: str
    """When it was done."""
    danger: bool = False


ASKS: dict[Command, Ask] = {
    Command.SUBMIT: Ask("Start {}?", "Its plan is frozen. Then it runs, or waits for approval or its start time.",
                        "Start", "Started {}."),
    Command.PAUSE: Ask("Pause {}?", "No other device is offered the version.", "Pause", "Paused {}."),
    Command.RESUME: Ask("Resume {}?", "It goes on. The failures so far are accepted, and the gate counts from zero.",
                        "Resume", "Resumed {}."),
    Command.ABORT: Ask("Abort {}?", "It ends. Devices that have not switched keep what they serve; devices that have "
                       "switched keep the new version.", "Abort", "Aborted {}.", danger=True),
    Command.ROLLBACK: Ask("Roll back {}?", "Every device returns to its own last good version, from its own disk.",
                          "Roll back", "{} goes back.", danger=True),
    Command.RETRY: Ask("Retry {}?", "The version is offered again to the devices that failed or fell silent, in a new "
                       "generation of this rollout. The history stays.", "Retry", "{} tries again."),
    Command.DELETE: Ask("Delete {}?", "It is removed with its history. The devices keep what they serve.",
                        "Delete", "Deleted {}.", danger=True),
}  # fmt: skip
"""Approve and deny have a page of their own, with the plan."""
CLI_NAMES = {Command.SUBMIT: "start"}


@router.get("/rollouts/{rollout}/commands/{command}")
def ask(
    request: Request,
    rollout: Name,
    command: Command,
    services: ServicesDep,
    _who: Deploying,
    device: Annotated[str, Query(max_length=128)] = "",
) -> Response:
    """What would happen, and to whom."""
    if command not in ASKS:
        raise InvalidError("Approve and deny on the page of the plan.")
    view = services.fleet.rollouts.get(rollout, services.clock())
    name, ask = view.spec.name or view.id, ASKS[command]
    hidden = (("command", command.value), ("revision", str(view.revision)), ("key", secrets.token_hex(16)))
    words = ["registry", "rollout", CLI_NAMES.get(command, command.value), name]
    words += [] if command is not Command.RETRY else ["--device", device] if device else ["--failed"]
    return page(
        request, "rollout-command.html", active="/rollouts", title=ask.title.format(name),
        command_word=command.value, devices=device,
        back=f"/rollouts/{segment(view.id)}", action=f"/rollouts/{segment(view.id)}/commands", fields=hidden,
        facts=_facts(view, ask), warnings=_warnings(view, command), command=command_line(*words), button=ask.button,
        danger=ask.danger, reason="" if command is Command.DELETE else "optional",
    )  # fmt: skip


def _facts(view: RolloutView, ask: Ask) -> list[tuple[str, str]]:
    found = counted(view.counts, view.back)
    told = ", ".join(
        f"{found[column]:,} {rollout_figures.COLUMN_NAMES[column]}" for column in rollout_figures.COLUMN_KINDS
        if found[column]
    )  # fmt: skip
    return [
        ("What happens", ask.what),
        ("Version", f"{view.spec.model}@{view.version}"),
        ("To", rollout_figures.fleet_text(view.spec)),
        ("Is now", f"{rollout_figures.state_text(view.state)}: {view.reason.text or view.reason.code}"),
        ("Devices", told or "none yet"),
    ]


def _warnings(view: RolloutView, command: Command) -> list[str]:
    begun = sum(view.counts.get(state, 0) for state in COLUMNS["UNDER WAY"])
    committed = sum(view.counts.get(state, 0) for state in COLUMNS["COMMITTED"])
    if command is Command.PAUSE and begun:
        held = view.spec.hold is Hold.BEFORE_SWITCH
        how = "are held: before the switch, or in probation" if held else "may finish"
        return [f"{how_many(begun, 'device')} under way {how}."]
    if command is Command.ABORT and committed:
        return [f"{how_many(committed, 'device')} keep {view.version}. To take it back, roll back instead."]
    if command is Command.RETRY and view.spec.requires_approval:
        return ["Its plan is made again, and somebody has to approve it."]
    return []


@router.post("/rollouts/{rollout}/commands")
def act(request: Request, rollout: Name, services: ServicesDep, who: Deploying, form: FormDep) -> Response:
    """Do it. Somebody else moved the rollout meanwhile: nothing is changed, and the page says so."""
    command = _command(form)
    said: dict[str, object] = {
        "command": command.value,
        "revision": form.text("revision"),
        "force": command is Command.RESUME and form.ticked("force"),
        "devices": form.text("devices").replace(",", " ").split() if command is Command.RETRY else [],
        "note": form.text("reason"),
    }
    body = parsed(_COMMAND, said, "The command")
    view = services.fleet.rollouts.command(rollout, body, form.text("key") or None, who.name, services.clock())
    told = ASKS[command].said.format(view.spec.name or view.id)
    return done(request, who, told, "/rollouts" if command is Command.DELETE else f"/rollouts/{segment(view.id)}")


def _command(form: Form) -> Command:
    text = form.text("command")
    if text not in tuple(Command) or Command(text) not in ASKS:
        raise InvalidError(f"There is no command {text[:64]!r}.")
    return Command(text)


@router.get("/rollouts/{rollout}/approval")
def ask_approval(request: Request, rollout: Name, services: ServicesDep, who: Approving) -> Response:
    """The plan that waits, to be approved or denied."""
    view = services.fleet.rollouts.get(rollout, services.clock())
    plan = services.fleet.rollouts.plan(rollout, services.clock())
    return page(
        request, "rollout-approval.html", active="/rollouts", rollout=view, label=view.spec.name or view.id, plan=plan,
        key=secrets.token_hex(16), waits=Command.APPROVE in view.legal, own=view.created_by == who.name,
    )  # fmt: skip


@router.post("/rollouts/{rollout}/approval")
def approve(request: Request, rollout: Name, services: ServicesDep, who: Approving, form: FormDep) -> Response:
    """Approve the plan that was read, or deny it."""
    approves = form.text("decision") == "approve"
    if not approves and form.text("decision") != "deny":
        raise InvalidError("Approve or deny?")
    told = {"plan": form.text("plan"), "revision": form.text("revision"), "note": form.text("reason")}
    body = parsed(_APPROVAL, {**told, "approve": approves}, "The approval")
    view = services.fleet.rollouts.approve(rollout, body, form.text("key") or None, who.name, services.clock())
    said = f"{'Approved' if approves else 'Denied'} the plan of {view.spec.name or view.id}."
    return done(request, who, said, f"/rollouts/{segment(view.id)}")
