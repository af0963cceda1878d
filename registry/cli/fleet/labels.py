"""`registry devices label`: labels of one device, of several, or of all that a selector matches."""

from __future__ import annotations

from typing import Annotated

import typer

from registry.cli.fleet.selection import count_text
from registry.cli.session import Session, command, confirm
from registry.client.errors import UsageFault
from registry.contracts.api.labels import LabelsAnswer, LabelsBody
from registry.contracts.paths import labels_path

FORM = "KEY=VALUE sets a label, KEY- removes one"


@command
def label(
    session: Session,
    words: Annotated[list[str], typer.Argument(metavar="[DEVICE]... KEY=VALUE|KEY-...", help=f"{FORM}.")],
    *,
    selector: Annotated[
        str, typer.Option("--selector", "-l", help="Instead of names: devices by label, site=paris,!old; '*' is all.")
    ] = "",
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Set and remove labels of devices; the others stay. With --selector it shows which devices change, and asks.

    ```
    registry devices label edge-1 site=paris ring=canary old-
    registry devices label --selector site=paris,!ring ring=2
    ```
    """
    body = _body(words, selector)
    asked = session.client.change("POST", labels_path(), body.model_copy(update={"preview": True}), LabelsAnswer)
    what = ", ".join([*(f"{key}={value}" for key, value in body.put.items()), *(f"{key}-" for key in body.remove)])
    if selector and asked.changed:
        left = asked.changed - len(asked.first)
        named = ", ".join(asked.first) + (f" and {left:,} more" if left else "")
        session.out.note(f"{count_text(asked.devices, 'device')} match; {asked.changed:,} would change: {named}")
        confirm(session, f"Change {count_text(asked.changed, 'device')}: {what}?", yes=yes)
    if not asked.changed:
        whole = f"{count_text(asked.devices, 'device')} had that already: {what}."
        session.out.answer(asked, whole)
        return
    done = session.client.change("POST", labels_path(), body, LabelsAnswer, repeatable=True)
    session.out.answer(done, f"Changed {count_text(done.changed, 'device')} of {done.devices:,}: {what}.")


def _body(words: list[str], selector: str) -> LabelsBody:
    put: dict[str, str] = {}
    remove: list[str] = []
    names: list[str] = []
    for word in words:
        key, equals, value = word.partition("=")
        if equals and key:
            if put.get(key, value) != value:
                raise UsageFault(f"Label {key!r} is given twice")
            put[key] = value
        elif word.endswith("-") and len(word) > 1:
            remove.append(word[:-1])
        elif equals or put or remove:
            raise UsageFault(f"{word!r} is no change of a label", hint=f"{FORM}; devices stand before them.")
        else:
            names.append(word)
    if selector and names:
        raise UsageFault(f"Give names or --selector, not both: {names[0]}")
    if not selector and not names:
        raise UsageFault("Which devices?", hint="Name them before the labels, or give --selector.")
    if not put and not remove:
        raise UsageFault("Which labels?", hint=f"{FORM}.")
    return LabelsBody(selector=selector, devices=tuple(names), put=put, remove=tuple(remove))
