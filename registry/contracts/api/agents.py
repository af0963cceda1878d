"""What the registry says of itself to whoever sets up an agent, and the agent's settings that follow from it. Pure."""

from __future__ import annotations

import json
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import Field

from registry.contracts.topics import DEFAULT_PREFIX
from registry.contracts.wire import Wire, canonical_json

CA_FILE = "broker-ca.pem"
"""The file beside agent.toml with the authorities of the broker's certificate."""
MAX_CA_CHARACTERS = 64 << 10
TRUST_FILE = "trust.json"
"""The file beside agent.toml with the roots of signed metadata."""


class BrokerConnection(Wire):
    """The fleet's broker, as devices reach it."""

    host: str = ""
    """Name or address. Empty: the host of the registry's address."""
    port: Annotated[int, Field(ge=1, le=65535)] = 1883
    """The TCP port."""
    prefix: str = DEFAULT_PREFIX
    """The levels before all topics of this fleet."""
    tls: bool = False
    """It is spoken to through TLS."""
    authorities: Annotated[str, Field(max_length=MAX_CA_CHARACTERS)] = ""
    """Certificates (PEM) of the authorities that its certificate is from. Empty: those of the device's system."""
    login: bool = False
    """The registry itself shows it a password or a certificate, so devices presumably have to."""


class AgentConnection(Wire):
    """How agents reach the registry and its broker. It holds no secret."""

    registry_url: str = ""
    """Base address of the registry. Empty: its settings do not name one; it is the address that was asked."""
    broker: BrokerConnection | None = None
    """None: the registry has no broker."""
    trust: dict[str, Any] | None = None
    """The content of `trust.json`: the roots by which the device checks what it installs and what it is told. None:
    this registry signs nothing."""
    notes: tuple[str, ...] = ()
    """For people: what could not be found out, one sentence each."""


def trust_json(connection: AgentConnection) -> str:
    """The content of TRUST_FILE; empty: the registry signs nothing."""
    return canonical_json(connection.trust).decode() + "\n" if connection.trust is not None else ""


def token_file(device: str) -> str:
    """The file beside agent.toml with the device's credential."""
    return f"{device}.token"


def agent_toml(device: str, connection: AgentConnection, asked_at: str) -> str:
    """The settings with which a device's agent starts; its credential and authorities are in files beside them.

    Args:
        device: Its name.
        connection: What the registry says.
        asked_at: The registry's address as this program uses it.
    """
    url = connection.registry_url or asked_at
    notes = "".join(f"# {note}\n" for note in connection.notes)
    head = f"# agent.toml on {device}. A relative path is looked up from the folder of this file.\n{notes}"
    lines = [f"device = {_text(device)}", "", "[registry]", f"url = {_text(url)}"]
    lines += [f"token_file = {_text(token_file(device))}", "", "[mqtt]", *_broker(device, connection.broker, url)]
    if connection.trust is not None:
        lines += ["", "[trust]", f"root = {_text(TRUST_FILE)}"]
    return head + "\n".join(lines) + "\n"


def _broker(device: str, broker: BrokerConnection | None, url: str) -> list[str]:
    if broker is None:
        return ["# The registry has no broker, so the agent polls it over HTTP and answers no requests."]
    lines = [f"host = {_text(broker.host or urlsplit(url).hostname or '127.0.0.1')}", f"port = {broker.port}"]
    if broker.prefix != DEFAULT_PREFIX:
        lines.append(f"prefix = {_text(broker.prefix)}")
    if broker.tls:
        lines.append("tls = true")
    if broker.tls and broker.authorities:
        lines.append(f"ca_file = {_text(CA_FILE)}")
    if broker.login:
        lines.append("# The registry shows the broker a credential of its own. Where devices have to:")
        lines += [f"# username = {_text(device)}", '# password_file = "mqtt-password"']
    return lines


def _text(value: str) -> str:
    """A TOML basic string. JSON's escapes are TOML's, as long as there is no surrogate."""
    return json.dumps(value, ensure_ascii=False)
