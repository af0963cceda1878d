"""What the commands of `agent` share: options, settings, output."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from agent.config.settings import AgentConfig, ConfigError, config_file, load_config
from registry.contracts.texts import visible

ConfigOption = Annotated[
    Path | None, typer.Option("--config", "-c", help="Settings file (TOML).", show_default=False, dir_okay=False)
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


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
