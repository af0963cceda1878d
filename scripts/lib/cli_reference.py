"""docs/cli.md, made from the commands themselves. `scripts/docs` writes it; a test says when it is stale."""

from __future__ import annotations

import re
from typing import Any

from typer.main import get_group

from registry.cli.main import PANELS, app
from registry.cli.output import MEANING
from registry.cli.session import COMMON_PANEL

_INTRODUCTION = """\
# The `registry` command

`registry COMMAND --help` says the same in the terminal; `registry --install-completion` completes in the shell.

Answers for people are tables on stdout; progress, notes, warnings and errors go to stderr. With `--json` stdout is
one JSON document and an error is one JSON object `{"error": {"code", "message", "hint", "errors", "exit_code"}}` on
stderr.
"""

_ADDRESS = """\
The registry's address is `--registry`, else `MODELFLEET_REGISTRY`, else that of the registry that runs on this host as
a systemd service (its unit, `modelfleet-registry.service`, and the settings that the unit names), else
`http://127.0.0.1:8470`. The token is `--token` or `--token-file`, else `MODELFLEET_TOKEN`; a registry on this host's
loopback is also opened with the administrator's token in its data folder (`$MODELFLEET_REGISTRY_DATA_DIR`, else
`$XDG_DATA_HOME/modelfleet/registry`, else `~/.local/share/modelfleet/registry`, else the service's; file `admin.token`)
when the user may read it. Who may not is told which login or group may. That token is never sent to another host.
"""


def render() -> str:
    """The whole page, Markdown; the same for the same commands, whatever the terminal and the environment."""
    root = get_group(app)
    context: Any = None
    parts = [_INTRODUCTION, _panels(), _exit_codes(), _common(root)]
    for name in root.list_commands(context):
        parts.extend(_command(f"registry {name}", root.get_command(context, name), level=2))
    return "\n".join(parts)


def _panels() -> str:
    rows = "\n".join(
        f"| {panel} | {', '.join(f'[`{name}`](#registry-{name})' for name in commands)} |"
        for panel, commands in PANELS.items()
    )
    return f"## Commands\n\n| | |\n|---|---|\n{rows}\n"


def _exit_codes() -> str:
    rows = "\n".join(f"| {int(code)} | {meaning} |" for code, meaning in MEANING.items())
    return f"## Exit codes\n\n| code | meaning |\n|---|---|\n{rows}\n"


def _common(root: Any) -> str:
    options = [p for p in root.params if getattr(p, "rich_help_panel", None) == COMMON_PANEL]
    return f"## {COMMON_PANEL}\n\nBefore the command's name or after it.\n\n{_table(options)}\n{_ADDRESS}"


def _command(title: str, command: Any, level: int) -> list[str]:
    own = [p for p in command.params if _is_own(p)]
    arguments = " ".join(_usage(p) for p in own if p.param_type_name == "argument")
    children: dict[str, Any] = getattr(command, "commands", {})
    usage = f"{title} COMMAND" if children else f"{title} [OPTIONS] {arguments}".rstrip()
    parts = [f"{'#' * level} `{title}`\n\n```\n{usage}\n```\n\n{_text(command.help)}\n"]
    told = [p for p in own if p.param_type_name == "option" or p.help]
    if told:
        parts.append(_table(told))
    for name, child in children.items():
        parts.extend(_command(f"{title} {name}", child, level + 1))
    return parts


def _is_own(parameter: Any) -> bool:
    return getattr(parameter, "rich_help_panel", None) != COMMON_PANEL and parameter.name != "help"


def _usage(argument: Any) -> str:
    name = argument.metavar or argument.name.upper()
    return str(name) if argument.required else f"[{name}]"


def _table(parameters: list[Any]) -> str:
    rows = "\n".join(f"| {_names(p)} | {_cell(_about(p))} |" for p in parameters)
    return f"| | |\n|---|---|\n{rows}\n"


def _names(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        return f"`{_cell(parameter.metavar or parameter.name.upper())}`"
    names = ", ".join(f"`{name}`" for name in parameter.opts)
    metavar = f" {_cell(parameter.metavar)}" if parameter.metavar else ""
    return names + metavar


def _about(parameter: Any) -> str:
    text = getattr(parameter, "help", None) or ""
    kind = getattr(parameter, "type_descriptor", None) or parameter.type  # typer since 0.29, before
    choices = getattr(kind, "choices", None)
    if choices:
        text += f" One of {', '.join(f'`{_value(choice)}`' for choice in choices)}."
    if parameter.required and parameter.param_type_name == "option":
        text += " Required."
    default = parameter.default
    if isinstance(default, (str, int, float)) and not isinstance(default, bool):
        text += f" Default: {_value(default)}."
    return text.strip()


def _value(value: Any) -> str:
    return str(getattr(value, "value", value))


def _cell(text: str) -> str:
    return re.sub(r"\s+", " ", text).replace("|", "\\|")


def _text(help_text: str | None) -> str:
    return (help_text or "").strip()
