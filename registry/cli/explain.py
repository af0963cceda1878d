"""`registry explain`: which variant of a version a device would run, and why not the others."""

from __future__ import annotations

from typing import Annotated

import typer

from registry.cli.failures import CliError, ExitCode
from registry.cli.models import fetch_manifest, find_version
from registry.cli.session import Session, command, split_reference
from registry.contracts.api import DeviceView
from registry.contracts.paths import device_path
from registry.contracts.resolution import Outcome, Resolution, Verdict, resolve


@command
def explain(
    session: Session,
    device: Annotated[str, typer.Argument(metavar="DEVICE")],
    reference: Annotated[str, typer.Argument(metavar="MODEL[@REF]")],
) -> None:
    """Say which variant a device would run and why the others do not fit, with stable codes.

    It is computed here with the function that registry and agent use, from the facts that the device reported.
    Exit code 1 when no variant fits.

    ```
    registry explain edge-1 lenet@1.0.0
    registry explain edge-1 lenet@stable --json
    ```
    """
    model, version = split_reference(reference)
    view = session.client.get(device_path(device), DeviceView)
    found = find_version(session.client, model, version)
    if view.facts is None:
        raise CliError(
            f"{device} has not told what it is yet, so nothing can be said", hint="Start its agent: agent run"
        )
    resolution = resolve(fetch_manifest(session.client, found), view.facts)
    if session.out.as_json:
        session.out.document({"device": device, "model": model, "version": found.version, "resolution": resolution})
    else:
        _tell(session, f"{model}@{found.version}", device, resolution)
    if resolution.chosen is None:
        raise typer.Exit(ExitCode.FAILURE)


def _tell(session: Session, what: str, device: str, resolution: Resolution) -> None:
    if resolution.chosen is None:
        session.out.say(f"{device} can run no variant of {what}.\n")
    else:
        idle = ", although it has an accelerator: none of its variants fits that" if resolution.degraded else ""
        session.out.say(f"{device} would run variant {resolution.chosen} of {what}{idle}.\n")
    session.out.table(
        ("VARIANT", "VERDICT", "CODE", "NEEDS", "HOST HAS"),
        (row for verdict in resolution.verdicts for row in _rows(verdict, chosen=resolution.chosen)),
        empty="The version has no variants.",
    )


def _rows(verdict: Verdict, chosen: str | None) -> list[tuple[object, ...]]:
    if verdict.outcome is Outcome.PASS:
        word = "chosen" if verdict.variant == chosen else "fits, ranked lower"
        return [(verdict.variant, word, "", "", verdict.backend)]
    word = "rejected" if verdict.outcome is Outcome.FAIL else "unknown"
    return [(verdict.variant, word, reason.code, reason.need, reason.have) for reason in verdict.reasons]
