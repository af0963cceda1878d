"""The example file: every setting with its meaning, bounds and default, printed from the settings themselves.

All keys are commented out, so the file changes nothing; with the marks removed it is still a valid file.
"""

from __future__ import annotations

import json

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from agent.config.section import Section
from agent.config.settings import PREFIX, AgentConfig

_HEAD = f"""\
# The agent's settings, each at its default. Printed by `agent config`.
# A variable of the environment wins over this file: {PREFIX}MQTT__HOST=broker for mqtt.host.
"""

_SAMPLE = {
    "device": "edge-1",
    "data_dir": "/var/lib/modelfleet-agent",
    "url": "http://127.0.0.1:8470",
    "token": "paste-it-here",
    "token_file": "/etc/modelfleet/token",
    "ca_file": "/etc/modelfleet/ca.pem",
    "cert_file": "/etc/modelfleet/device.pem",
    "key_file": "/etc/modelfleet/device.key",
    "client_id": "modelfleet-edge-1",
    "username": "edge-1",
    "password": "paste-it-here",
    "password_file": "/etc/modelfleet/mqtt-password",
    "interpreter": "/usr/local/Ascend/python/bin/python3",
    "cores": 2,
    "profile": "throughput",
    "prometheus": "127.0.0.1:9464",
    "timezone": "Europe/Paris",
}
"""What the example shows where the default depends on the host, or there is none."""


def example_toml() -> str:
    """The whole file."""
    fields = AgentConfig.model_fields
    blocks = [_HEAD, *(_block(name, field) for name, field in fields.items() if _section(field) is None)]
    for name, field in fields.items():
        section = _section(field)
        if section is not None:
            blocks.append(f"# {section.__doc__}\n[{name}]\n")
            blocks += [_block(key, inner) for key, inner in section.model_fields.items()]
    return "\n".join(blocks)


def _section(field: FieldInfo) -> type[Section] | None:
    kind = field.annotation
    return kind if isinstance(kind, type) and issubclass(kind, Section) else None


def _block(name: str, field: FieldInfo) -> str:
    bounds = [getattr(rule, end) for end in ("ge", "le") for rule in field.metadata if hasattr(rule, end)]
    span = f" {bounds[0]} to {bounds[1]}." if len(bounds) == 2 else ""
    unset = field.default is None or field.default is PydanticUndefined
    note = " Not set by default." if field.default is None and "default" not in (field.description or "") else ""
    text = "{}" if unset and name not in _SAMPLE else json.dumps(_SAMPLE[name] if unset else field.default)
    return f"## {field.description}{span}{note}\n#{name} = {text}\n"
