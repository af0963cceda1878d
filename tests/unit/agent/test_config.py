"""Settings: file, environment, refusals, and the example file."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from agent.config import settings
from agent.config.settings import ConfigError, SecretFile, config_file, example_toml, load_config
from tests.support.paths import ROOT

EXAMPLE = ROOT / "docs" / "agent.toml"


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELFLEET_AGENT_DEVICE", "edge-1")


def write(folder: Path, text: str) -> Path:
    file = folder / "agent.toml"
    file.write_text(text)
    return file


def test_nothing_has_to_be_set() -> None:
    config = load_config(None)
    assert config.mqtt.host == "127.0.0.1"
    assert config.prometheus is None


def test_a_file_that_the_settings_name_is_beside_them_where_its_path_is_relative(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODELFLEET_AGENT_MQTT__PASSWORD_FILE", "here")
    file = write(
        tmp_path, '[registry]\ntoken_file = "t"\nca_file = "/etc/ca.pem"\n[mqtt]\ntls = true\nca_file = "a/b"\n'
    )
    config = load_config(file)
    assert config.registry.token_file == tmp_path / "t"
    assert config.registry.ca_file == Path("/etc/ca.pem")
    assert config.mqtt.ca_file == tmp_path / "a/b"
    assert config.mqtt.password_file == Path("here")  # of the environment: from where the agent is started


def test_the_environment_wins_over_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELFLEET_AGENT_MQTT__HOST", "broker")
    config = load_config(write(tmp_path, '[mqtt]\nhost = "file"\nport = 1884\n'))
    assert (config.mqtt.host, config.mqtt.port) == ("broker", 1884)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[mqtt]\nhots = 'x'", "mqtt.hots"),
        ("nonsense = 1", "nonsense"),
        ("[limits]\nslots = 0", "limits.slots"),
        ("[mqtt]\nprefix = 'a/#'", "mqtt"),
        ("[mqtt]\nca_file = '/x'", "tls = true"),
        ("[mqtt", "agent.toml"),
    ],
)
def test_a_wrong_setting_is_refused_by_name(tmp_path: Path, text: str, named: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(named)):
        load_config(write(tmp_path, text))


def test_a_variable_that_is_no_setting_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELFLEET_AGENT_MQTTHOST", "x")
    with pytest.raises(ConfigError, match="MODELFLEET_AGENT_MQTTHOST"):
        load_config(None)


def test_a_file_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.toml"):
        load_config(tmp_path / "none.toml")


def test_a_usual_file_that_may_not_be_looked_at_is_an_error_and_not_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "DEFAULT_FILE", Path("/" + "x" * 300))  # the system refuses to look, also for root
    with pytest.raises(ConfigError, match=r"x: .*File name too long"):
        load_config(config_file(None))
    monkeypatch.setattr(settings, "DEFAULT_FILE", Path("/nowhere/agent.toml"))
    assert config_file(None) is None


def test_secrets_come_from_files_and_are_not_shown(tmp_path: Path) -> None:
    secret = tmp_path / "token"
    secret.write_text("s3cret\n")
    assert SecretFile(secret)() == "s3cret"
    config = load_config(write(tmp_path, '[registry]\ntoken = "s3cret"'))
    assert "s3cret" not in repr(config)


def test_the_committed_example_is_current() -> None:
    assert EXAMPLE.read_text() == example_toml(), "run: agent config > docs/agent.toml"


def test_the_example_changes_nothing_and_is_valid_when_uncommented(tmp_path: Path) -> None:
    assert load_config(write(tmp_path, example_toml())) == load_config(None)
    everything = "\n".join(
        line[1:] if line.startswith("#") and not line.startswith(("##", "# ")) else line
        for line in example_toml().replace("tls = false", "tls = true").splitlines()
    )
    config = load_config(write(tmp_path, everything))
    assert config.mqtt.username == "edge-1"


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[entry_points]\nenabled = true", "enabled needs trusted_keys"),
        ('[entry_points]\ntrusted_keys = ["ed25519:AAAA"]', "not a public key"),
        ('[entry_points]\ntrusted_keys = ["ssh-ed25519 AAAA"]', "not a public key"),
    ],
)
def test_entry_points_without_a_key_that_can_be_are_refused(tmp_path: Path, text: str, named: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(named)):
        load_config(write(tmp_path, text))
