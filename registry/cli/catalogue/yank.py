"""`registry yank`: a version that nothing new gets."""

from __future__ import annotations

from typing import Annotated

import typer

from registry.cli.output import time_text
from registry.cli.session import Session, command
from registry.client.errors import UsageFault
from registry.client.versions import split_version
from registry.contracts.api.versions import YankAnswer, YankBody
from registry.contracts.paths import yank_path
from registry.contracts.texts import how_many


@command
def yank(
    session: Session,
    reference: Annotated[str, typer.Argument(metavar="MODEL@VERSION")],
    *,
    reason: Annotated[str, typer.Option("--reason", help="Why, for people; shown wherever the version is.")] = "",
    undo: Annotated[bool, typer.Option("--undo", help="Let it be deployed again.")] = False,
) -> None:
    """Let nothing new get a version: no deployment, rollout or alias. Devices that serve it go on.

    Rollouts of it that run are paused. It does not count as the newest version; `pull` and the hub refuse it unless
    they are told otherwise. --undo ends that, and also the mark of a version that a rollout took back.

    ```
    registry yank lenet@1.2.0 --reason "reads 7 as 1 in bad light"
    registry yank lenet@1.2.0 --undo
    ```
    """
    model, version = split_version(reference)
    if undo == bool(reason.strip()):
        raise UsageFault("Why?" if not undo else "--undo takes no --reason", hint="Give --reason TEXT, or --undo.")
    path = yank_path(model, version)
    if undo:
        answer = session.client.send("DELETE", path).decode(YankAnswer)
        session.out.answer(answer, f"{model}@{version} may be deployed again.")
        return
    answer = session.client.change("PUT", path, YankBody(reason=reason), YankAnswer, repeatable=True)
    session.out.answer(answer, _yanked_text(answer))


def _yanked_text(answer: YankAnswer) -> str:
    view = answer.version
    lines = [f"{view.model}@{view.version} is yanked: nothing new gets it."]
    if answer.replaced is not None:
        was = answer.replaced
        lines.append(f"It was yanked before, by {was.by or 'anonymous'} at {time_text(was.at)}: {was.reason}")
        lines.append(f"The new reason replaces that one, which stays in: registry events --model {view.model}")
    if answer.devices:
        device = how_many(answer.devices, "device")
        lines.append(f"{device} should serve it and will go on; deploy or roll out another version to change that.")
    lines += [f"Rollout {each} offers it to nobody more: roll it back or abort it." for each in answer.rollouts]
    lines += [f"Alias {alias} still points to it, and is refused until it is moved." for alias in view.aliases]
    return "\n".join(lines)
