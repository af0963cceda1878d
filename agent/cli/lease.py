"""The commands `agent lease …`: a local program asks that no model be switched for a while."""

from __future__ import annotations

import re
import shlex
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Annotated

import typer

from agent.adapters.disk.leases import Leases
from agent.cli.common import ConfigOption, JsonOption, fail, print_json, say, settings_of
from agent.core.local_policy import Lease
from agent.errors import AgentError

app = typer.Typer(
    no_args_is_help=True,
    help="""Keep models from being switched for a while, for example during a measurement.

    A lease always has an end, so a program that does not give it back blocks nothing for ever. All leases together
    delay a deployment by at most policy.max_defer_s. Downloads continue. The registry shows the reason.""",
)
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


@app.command("take")
def take(
    duration: Annotated[str, typer.Argument(metavar="DURATION", help="How long: 90s, 30m, 2h, 1d.")],
    reason: Annotated[str, typer.Option("--reason", "-r", help="The reason; operators see it.")] = "",
    model: Annotated[str | None, typer.Option("--model", "-m", help="Only this model. Default: all.")] = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Take a lease and print its id.

    Example: agent lease take 30m --reason "counting visitors" --model lenet
    """
    now = _now()
    leases = _leases(config)
    if not leases.folder.parent.is_dir():
        fail(f"no agent ever ran with its data in {leases.folder.parent}: no agent would see the lease. Check --config")
    try:
        lease = leases.add(now + _duration(duration), reason, model, now)
    except AgentError as error:
        fail(f"{error.code}: {error.message}")
    if as_json:
        print_json(_as_json(lease))
    else:
        until = lease.until.isoformat(timespec="seconds")
        where = f" --config {shlex.quote(str(config))}" if config is not None else ""
        say(f"{lease.id} until {until}; give it back: agent lease give-back {lease.id}{where}")


@app.command("give-back")
def give_back(lease: Annotated[str, typer.Argument(metavar="ID")], config: ConfigOption = None) -> None:
    """Give a lease back before its end."""
    try:
        _leases(config).give_back(lease)
    except AgentError as error:
        fail(f"{error.code}: {error.message}")


@app.command("list")
def show(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """List the current leases."""
    living = _leases(config).living(_now())
    if as_json:
        print_json([_as_json(lease) for lease in living])
        return
    for lease in living:
        until = lease.until.isoformat(timespec="seconds")
        say(f"{lease.id}  until {until}  {lease.model or 'every model':20} {lease.reason}")
    if not living:
        say("no leases")


def _leases(config: Path | None) -> Leases:
    return Leases(settings_of(config).data_dir / "leases")


def _now() -> datetime:
    return datetime.fromtimestamp(time.time(), tz=timezone.utc)


def _duration(text: str) -> timedelta:
    found = re.fullmatch(r"(\d{1,6})([smhd])", text.strip().lower())
    if found is None:
        raise typer.BadParameter(f"{text!r}: write it like 90s, 30m, 2h or 1d", param_hint="DURATION")
    return timedelta(seconds=int(found[1]) * _UNITS[found[2]])


def _as_json(lease: Lease) -> dict[str, str | None]:
    return {"id": lease.id, "until": lease.until.isoformat(), "reason": lease.reason, "model": lease.model}
