"""What the registry says of itself to whoever sets up an agent: its settings, no secret, and what it could not read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from registry.config import RegistryConfig
from registry.contracts.api.agents import AgentConnection, BrokerConnection, agent_toml
from registry.server.agent_connection import agent_connection

ASKED = "https://models.example:9000"


def connection(**settings: Any) -> AgentConnection:
    return agent_connection(RegistryConfig(**settings))


def toml(**settings: Any) -> str:
    return agent_toml("edge-1", connection(**settings), ASKED)


def test_without_settings_the_addresses_are_those_of_whoever_asks() -> None:
    text = toml(mqtt={"host": "127.0.0.1", "port": 1884})
    assert f'url = "{ASKED}"' in text
    assert 'host = "models.example"\nport = 1884\n' in text
    assert "tls" not in text
    assert "prefix" not in text


def test_a_broker_of_another_host_is_named_as_the_registry_names_it() -> None:
    text = toml(mqtt={"host": "broker", "tls": True, "prefix": "site/a"})
    assert 'host = "broker"\nport = 8883\nprefix = "site/a"\ntls = true\n' in text


def test_public_addresses_win() -> None:
    public = {"url": "https://r.example/", "broker_host": "b.example", "broker_tls": True}
    text = toml(mqtt={"host": "127.0.0.1"}, public=public)
    assert 'url = "https://r.example"' in text
    assert 'host = "b.example"\nport = 8883\ntls = true\n' in text


def test_a_registry_without_a_broker_says_so() -> None:
    assert connection().broker is None
    assert "has no broker" in toml()


def test_secrets_and_keys_are_no_part_of_it(tmp_path: Path) -> None:
    certificate = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----"
    file = tmp_path / "all.pem"
    file.write_text(f"-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n{certificate}\n")
    mqtt = {"host": "broker", "tls": True, "ca_file": file, "username": "registry", "password": "s3cret"}
    said = connection(mqtt=mqtt)
    assert said.broker == BrokerConnection(
        host="broker", port=8883, tls=True, authorities=f"{certificate}\n", login=True
    )
    text = toml(mqtt=mqtt)
    assert 'ca_file = "broker-ca.pem"' in text
    assert '# username = "edge-1"' in text
    assert "s3cret" not in text


@pytest.mark.parametrize(("content", "why"), [(None, "cannot read"), ("no certificate", "holds no certificate")])
def test_authorities_that_cannot_be_read_are_said_to_be_missing(tmp_path: Path, content: str | None, why: str) -> None:
    file = tmp_path / "ca.pem"
    if content is not None:
        file.write_text(content)
    text = toml(mqtt={"host": "broker", "tls": True, "ca_file": file})
    assert f"# The broker's authorities are missing here: {'the registry ' if content is None else ''}" in text
    assert why in text
    assert "ca_file" not in text
