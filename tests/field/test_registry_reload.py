"""SIGHUP never kills a registry; what was replaced on the disk is taken; IPv6 addresses are taken as written."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from pathlib import Path

import httpx
import pytest

from registry.certificates import expires_at
from registry.config import load_config
from registry.server.mqtt.session import at
from scripts.demo.processes import BIN
from tests.support.network.broker import Mosquitto, free_port
from tests.support.network.certificates import Authority
from tests.support.programs.fleet_registry import FleetRegistry, eventually
from tests.support.programs.registry_process import RegistryProcess

OLD, NEW = "old-" + "o" * 40, "new-" + "n" * 40


def opens(process: RegistryProcess, token: str) -> bool:
    with process.client(token) as client:
        return client.get("/v1/tokens").status_code == 200


def test_sighup_reads_log_level_and_token_again_and_kills_nobody(tmp_path: Path) -> None:
    token, settings = tmp_path / "admin", tmp_path / "registry.toml"
    token.write_text(OLD)
    settings.write_text(f'admin_token_file = "{token}"\n')
    process = RegistryProcess(tmp_path, {"MODELFLEET_REGISTRY_CONFIG": str(settings)}).start()
    try:
        assert opens(process, OLD)
        fresh = tmp_path / "fresh"
        fresh.write_text(NEW)
        fresh.rename(token)
        settings.write_text(f'admin_token_file = "{token}"\nlog_level = "debug"\ninstance = "other"\n')
        for _ in range(5):
            os.kill(process.pid, signal.SIGHUP)
        eventually(lambda: opens(process, NEW))
        assert not opens(process, OLD)
        log = eventually(lambda: (text := (tmp_path / "registry.log").read_text()).count("SIGHUP") and text)
        assert "taken only at a start: instance" in log
        settings.write_text("admin_token = 3 = broken")
        os.kill(process.pid, signal.SIGHUP)
        eventually(lambda: "those of before stay" in (tmp_path / "registry.log").read_text())
        assert opens(process, NEW)
        assert NEW not in (tmp_path / "registry.log").read_text()
    finally:
        process.stop()


@pytest.fixture
def authorities(tmp_path: Path) -> tuple[Authority, Authority]:
    return Authority(tmp_path / "first"), Authority(tmp_path / "second")


def test_an_authority_and_a_password_that_are_replaced_are_taken_without_a_restart(
    tmp_path: Path, authorities: tuple[Authority, Authority]
) -> None:
    certificate, key, passwords = tmp_path / "broker.pem", tmp_path / "broker.key", tmp_path / "passwords"
    trusted, secret = tmp_path / "trusted.pem", tmp_path / "secret"
    port = free_port()

    def set_up(authority: Authority, password: str) -> None:
        authority.issue("127.0.0.1", certificate, key)
        passwords.write_text("")
        subprocess.run(["mosquitto_passwd", "-b", str(passwords), "registry", password], check=True)
        passwords.chmod(0o644)

    def trust(authority: Authority, password: str) -> None:
        trusted.write_bytes(authority.file.read_bytes())
        secret.write_text(password)

    set_up(authorities[0], "one")
    trust(authorities[0], "one")
    tls = f"listener {port} 127.0.0.1\ncertfile {certificate}\nkeyfile {key}\npassword_file {passwords}\n"
    broker = Mosquitto(tmp_path, extra=tls).start()
    environment = {
        "MODELFLEET_REGISTRY_MQTT__TLS": "true",
        "MODELFLEET_REGISTRY_MQTT__CA_FILE": str(trusted),
        "MODELFLEET_REGISTRY_MQTT__USERNAME": "registry",
        "MODELFLEET_REGISTRY_MQTT__PASSWORD_FILE": str(secret),
    }
    try:
        with FleetRegistry(tmp_path, port, **environment) as registry:
            eventually(lambda: registry.mqtt() == "connected")
            told = registry.http.get("/metrics").text
            for name, file in (("broker", certificate), ("broker_authority", trusted)):
                line = f'modelfleet_certificate_expiry_timestamp_seconds{{certificate="{name}"}} '
                (value,) = (each.removeprefix(line) for each in told.splitlines() if each.startswith(line))
                assert float(value) == expires_at(file)
            broker.stop()
            set_up(authorities[1], "two")
            trust(authorities[1], "two")
            broker.start()
            os.kill(registry.process.pid, signal.SIGHUP)
            eventually(lambda: registry.mqtt() == "connected")
    finally:
        broker.stop()


@pytest.fixture
def _ipv6() -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError as error:
        pytest.skip(f"this host has no IPv6: {error}")


@pytest.mark.usefixtures("_ipv6")
@pytest.mark.parametrize("host", ["::1", "[::1]", "::"])
def test_registry_broker_and_commands_meet_at_ipv6_addresses(host: str, tmp_path: Path) -> None:
    port, broker_port = free_port(), free_port()
    broker = Mosquitto(tmp_path, extra=f"listener {broker_port} ::1\nallow_anonymous true\n").start()
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MODELFLEET_")}
    environment |= {
        "MODELFLEET_REGISTRY_DATA_DIR": str(tmp_path / "data"),
        "MODELFLEET_REGISTRY_HOST": host,
        "MODELFLEET_REGISTRY_PORT": str(port),
        "MODELFLEET_REGISTRY_ADMIN_TOKEN": NEW,
        "MODELFLEET_REGISTRY_MQTT__HOST": "[::1]",
        "MODELFLEET_REGISTRY_MQTT__PORT": str(broker_port),
    }
    log = tmp_path / "registry.log"
    with log.open("wb") as out:
        server = subprocess.Popen([str(BIN / "registry"), "serve"], env=environment, stdout=out, stderr=out)
    try:
        bare = host.strip("[]")
        eventually(lambda: f"listening on http://[{bare}]:{port}," in log.read_text())
        eventually(lambda: httpx.get(f"http://[::1]:{port}/readyz").json()["mqtt"] == "connected")
        if bare == "::":
            assert httpx.get(f"http://127.0.0.1:{port}/healthz").status_code == 200
        asked = [str(BIN / "registry"), "--registry", f"http://[::1]:{port}", "devices", "--json"]
        environment["MODELFLEET_TOKEN"] = NEW
        done = subprocess.run(asked, env=environment, capture_output=True, text=True, timeout=60, check=False)
        assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr
    finally:
        server.terminate()
        server.wait(20)
        broker.stop()


@pytest.mark.parametrize("host", ["[::1", "[::1]:8470", "[name]"])
def test_what_is_no_address_is_refused_with_the_settings(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELFLEET_REGISTRY_MQTT__HOST", host)
    with pytest.raises(ValueError, match="mqtt"):
        load_config()


def test_an_address_is_shown_with_brackets_where_it_needs_them() -> None:
    assert at("fd00::1", 1883) == "[fd00::1]:1883"
    assert at("broker", 1883) == "broker:1883"
