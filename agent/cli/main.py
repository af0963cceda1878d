"""The command `agent`: run, doctor, platform, status, lease, reset, config.

Exit codes: 0 all well; 1 something is wrong, and said; 2 wrong usage or settings.
Heavy imports stand inside the commands: `--help` answers at once.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shlex
import shutil
import sys
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from agent.adapters.local_policy import Leases
from agent.config.settings import AgentConfig, ConfigError, config_file, example_toml, load_config
from agent.core.local_policy import Lease
from agent.errors import AgentError, PermanentError
from registry import tracing
from registry.contracts.texts import visible
from registry.log_format import set_up_logs

if TYPE_CHECKING:
    from agent.app.doctor import Check

ConfigOption = Annotated[
    Path | None, typer.Option("--config", "-c", help="Settings file (TOML).", show_default=False, dir_okay=False)
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def settings_of(option: Path | None) -> AgentConfig:
    """The settings in effect; ends the command with 2 where they are wrong."""
    try:
        return load_config(config_file(option))
    except ConfigError as error:
        fail(error.message, 2)


def fail(message: str, code: int = 1) -> NoReturn:
    """Says what is wrong and ends the command."""
    say(f"agent: {message}", err=True)
    raise typer.Exit(code)


def say(text: str, mark: str = "", *, err: bool = False) -> None:
    """A line for people. What it holds may come from elsewhere, and does not steer the terminal; the mark may."""
    typer.echo(mark + visible(text), err=err)


def print_json(value: Any) -> None:
    """For programs."""
    typer.echo(json.dumps(value, indent=2, default=str))


app = typer.Typer(
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="""Run models on this host. The registry says which; the agent downloads them and answers requests over MQTT.

    Settings come from a TOML file (--config, MODELFLEET_AGENT_CONFIG or /etc/modelfleet/agent.toml) and from
    MODELFLEET_AGENT_... variables, which take precedence. `agent config` prints a file with every setting explained.

    To start, run `agent doctor`, which says what this host can run and what is missing, and then `agent run`.""",
)


def begin_tracing(settings: AgentConfig) -> None:
    """Traces as the settings say. Raises AgentError where the packages for it are missing."""
    from agent.adapters.facts.hardware import agent_version  # noqa: PLC0415 - see above

    try:
        tracing.set_up("modelfleet-agent", agent_version(), {"service.instance.id": settings.device})
    except tracing.TracingError as error:
        raise PermanentError("bad_config", str(error)) from error


@app.command()
def run(config: ConfigOption = None) -> None:
    """Run the agent until SIGTERM or Ctrl-C.

    It starts with the models that it served last, even if registry and broker are unreachable.
    """
    settings = settings_of(config)
    set_up_logs(settings.log_level, settings.log_format, device=settings.device)
    for chatty in ("httpx", "httpcore", "apscheduler"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    from agent.app.agent import Agent  # noqa: PLC0415 - see above

    code = 0
    try:
        if settings.tracing:
            begin_tracing(settings)
        Agent(settings).run()
    except AgentError as error:
        if settings.log_format == "json":
            logging.getLogger("agent").error("%s: %s", error.code, error.message)  # noqa: TRY400 - the text says all
        else:
            say(f"agent: {error.code}: {error.message}", err=True)
        code = 1
    tracing.shut_down()
    logging.shutdown()
    sys.stdout.flush()
    # A thread may still wait for a network or a load, for minutes; all that must survive is on disk.
    os._exit(code)


@app.command()
def doctor(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Check this host: its facts, its backends, the broker and the registry.

    Exit code 1: the agent could not work here.
    """
    settings = settings_of(config)
    from agent.app.doctor import examine  # noqa: PLC0415 - see above

    checks = examine(settings)
    if as_json:
        print_json([check.__dict__ for check in checks])
    else:
        for check in checks:
            _print_check(check)
    raise typer.Exit(0 if all(check.ok or not check.needed for check in checks) else 1)


@app.command()
def platform(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Print the facts of this host, by which the registry chooses variants: value, source, age.

    Below each "no" are the reason and the remedy. Hosts with the same digest form a class and get the same variant.
    """
    settings = settings_of(config)
    from agent.app.agent import probe, utc_now  # noqa: PLC0415 - see above
    from agent.app.doctor import fact_documents, fact_lines  # noqa: PLC0415 - see above

    facts = probe(settings, fresh=True)
    digest, now = facts.facts_digest(), utc_now()
    if as_json:
        print_json({**facts.to_json(), "facts_digest": digest, "facts": fact_documents(facts, now)})
        return
    for line in fact_lines(facts, now):
        say(line)
    say(f"facts {digest}")


@app.command()
def status(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Show what this agent serves. Exit code 1: it does not run, or a model failed."""
    settings = settings_of(config)
    from agent.app.status import is_running, read_status, status_lines  # noqa: PLC0415 - see above

    running, kept = is_running(settings.data_dir), read_status(settings.data_dir)
    models: dict[str, Any] = (kept or {}).get("reported", {}).get("models", {})
    if as_json:
        print_json({"device": settings.device, "running": running, "status": kept})
    else:
        for line in status_lines(settings, running, kept):
            say(line)
    failed = any(model.get("state") == "failed" for model in models.values())
    raise typer.Exit(0 if running and not failed else 1)


@app.command()
def reset(
    config: ConfigOption = None, yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False
) -> None:
    """Delete all local state: journal, cached models, signed metadata, and unsent results and events.

    The agent must be stopped. At its next start it gets its desired state from the registry.
    """
    settings = settings_of(config)
    from agent.app.status import locked  # noqa: PLC0415 - see above

    if not settings.data_dir.is_dir():
        say(f"nothing to delete: {settings.data_dir} does not exist")
        return
    if not yes:
        typer.confirm(f"Drop everything below {settings.data_dir}?", abort=True)
    try:
        with locked(settings.data_dir):
            for name in ("journal.", "outbox.", "status.json", "probe.json"):
                for path in settings.data_dir.glob(f"{name}*"):
                    path.unlink(missing_ok=True)
            if (settings.data_dir / "cache").is_dir():
                shutil.rmtree(settings.data_dir / "cache")
            if (settings.data_dir / "trust").is_dir():
                shutil.rmtree(settings.data_dir / "trust")
    except (AgentError, OSError) as error:
        fail(str(error), 1)
    say(f"dropped the state in {settings.data_dir}")


@app.command("config")
def show_config(
    config: ConfigOption = None,
    check: Annotated[bool, typer.Option("--check", help="Check the settings in effect instead.")] = False,
) -> None:
    """Print a settings file with every key, its meaning, bounds and default; or check the one in use."""
    if check:
        settings = settings_of(config)
        typer.echo(settings.model_dump_json(indent=2))
        return
    typer.echo(example_toml(), nl=False)


leases = typer.Typer(
    no_args_is_help=True,
    help="""Keep models from being switched for a while, for example during a measurement.

    A lease always has an end, so a program that does not give it back blocks nothing for ever. All leases together
    delay a deployment by at most policy.max_defer_s. Downloads continue. The registry shows the reason.""",
)
app.add_typer(leases, name="lease")


@leases.command("take")
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
    held = _leases(config)
    if not held.folder.parent.is_dir():
        fail(f"no agent ever ran with its data in {held.folder.parent}: no agent would see the lease. Check --config")
    try:
        lease = held.add(now + _duration(duration), reason, model, now)
    except AgentError as error:
        fail(f"{error.code}: {error.message}")
    if as_json:
        print_json(_as_json(lease))
    else:
        until = lease.until.isoformat(timespec="seconds")
        where = f" --config {shlex.quote(str(config))}" if config is not None else ""
        say(f"{lease.id} until {until}; give it back: agent lease give-back {lease.id}{where}")


@leases.command("give-back")
def give_back(lease: Annotated[str, typer.Argument(metavar="ID")], config: ConfigOption = None) -> None:
    """Give a lease back before its end."""
    try:
        _leases(config).give_back(lease)
    except AgentError as error:
        fail(f"{error.code}: {error.message}")


@leases.command("list")
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


def _print_check(check: Check) -> None:
    mark = typer.style("ok  ", fg="green") if check.ok else typer.style("no  ", fg="red" if check.needed else "yellow")
    source = f"  ({check.source})" if check.source else ""
    say(f"{check.name:22} {check.text}{source}", mark)
    if check.advice and not check.ok:
        say(f"{'':26} {check.advice}")


def main() -> None:
    """The entry point."""
    app()
