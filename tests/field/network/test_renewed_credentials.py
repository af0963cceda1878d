"""Tokens, passwords, certificates and authorities that are replaced on the disk are taken without a restart."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from agent.adapters.network.registry_answers import UnreachableError
from agent.adapters.network.registry_client import RegistryClient
from agent.config.settings import SecretFile
from registry.certificates import TlsFiles
from registry.contracts.codes import DeploymentCode
from tests.fakes.registry_simulator import RegistrySimulator, one_file_manifest
from tests.fakes.workers import FakeWorker
from tests.integration.agent.test_agent_process import AgentProcess, deploy, wait_until
from tests.support.clients.asking import Asker, binary_request
from tests.support.clients.serving import Serving, until
from tests.support.network.broker import Mosquitto, free_port
from tests.support.network.certificates import Authority

X = np.array([1, 2, 3, 4], np.float32)
MODEL = b"model" * 1000
Replace = Callable[[Path, str], None]


def in_place(file: Path, text: str) -> None:
    file.write_text(text)


def by_rename(file: Path, text: str) -> None:
    fresh = file.with_name("fresh")
    fresh.write_text(text)
    fresh.rename(file)


def by_link(file: Path, text: str) -> None:
    """As Kubernetes does: the file is a link through a folder that is a link, and that one is swapped."""
    folder = file.parent
    data = folder / f"..data-{len(list(folder.iterdir()))}"
    data.mkdir()
    (data / file.name).write_text(text)
    link = folder / "..data_tmp"
    link.symlink_to(data)
    link.rename(folder / "..data")
    if not file.is_symlink():
        file.unlink(missing_ok=True)
        file.symlink_to(Path("..data") / file.name)


WAYS = [in_place, by_rename, by_link]


@pytest.mark.parametrize("replace", WAYS)
def test_the_next_exchange_has_the_token_that_the_file_holds_then(tmp_path: Path, replace: Replace) -> None:
    registry = RegistrySimulator(token="second").start()
    manifest = registry.publish(one_file_manifest(MODEL), MODEL)
    token = tmp_path / "token"
    replace(token, "first\n")
    client = RegistryClient(registry.url, "edge-1", token=SecretFile(token), ca_file=None, timeout_s=5)
    with pytest.raises(UnreachableError) as refused:
        client.manifest(manifest)
    assert refused.value.code == DeploymentCode.CREDENTIAL_REFUSED
    replace(token, "second\n")
    assert client.manifest(manifest)
    token.unlink()  # while it is being replaced
    assert client.manifest(manifest)
    client.close()
    registry.stop()


def test_a_token_that_is_not_there_yet_or_is_no_token_is_an_outage(tmp_path: Path) -> None:
    registry = RegistrySimulator(token="good").start()
    manifest = registry.publish(one_file_manifest(MODEL), MODEL)
    token = tmp_path / "token"
    client = RegistryClient(registry.url, "edge-1", token=SecretFile(token), ca_file=None, timeout_s=5)
    for text in (None, "", "two words", "line\nline", "ümlaut", "x" * 5000):
        if text is not None:
            token.write_text(text)
        with pytest.raises(UnreachableError):
            client.manifest(manifest)
    token.write_text("good")
    assert client.manifest(manifest)
    client.close()
    registry.stop()


@pytest.mark.parametrize("replace", WAYS)
def test_the_next_exchange_trusts_the_authority_that_the_file_holds_then(tmp_path: Path, replace: Replace) -> None:
    old, new = Authority(tmp_path / "old"), Authority(tmp_path / "new")
    registry = RegistrySimulator(tls=new.certificate_for("127.0.0.1")).start()
    manifest = registry.publish(one_file_manifest(MODEL), MODEL)
    folder = tmp_path / "secret"
    folder.mkdir()
    ca_file = folder / "ca.pem"
    replace(ca_file, old.file.read_text())
    client = RegistryClient(registry.url, "edge-1", token=None, ca_file=str(ca_file), timeout_s=5)
    with pytest.raises(UnreachableError, match="CERTIFICATE_VERIFY_FAILED"):
        client.manifest(manifest)
    replace(ca_file, new.file.read_text())
    assert client.manifest(manifest)
    ca_file.write_text("half of")
    assert client.manifest(manifest)
    client.close()
    registry.stop()


@pytest.fixture
def brokers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Mosquitto]]:
    started: list[Mosquitto] = []

    def start(extra: str) -> Mosquitto:
        started.append(Mosquitto(tmp_path_factory.mktemp("broker"), extra=extra).start())
        return started[-1]

    yield start
    for each in started:
        each.stop()


@pytest.mark.parametrize("replace", WAYS)
def test_a_renewed_certificate_and_authority_are_taken_at_the_next_connection(
    tmp_path: Path, brokers: Callable[[str], Mosquitto], replace: Replace
) -> None:
    old, new = Authority(tmp_path / "old"), Authority(tmp_path / "new")
    server, device_files = tmp_path / "server.pem", tmp_path / "device"
    device_files.mkdir()
    new.issue("localhost", server, server)
    port = free_port()
    certificates = f"certfile {server}\nkeyfile {server}\ncafile {new.file}\nrequire_certificate true"
    broker = brokers(f"listener {port} 127.0.0.1\nallow_anonymous true\n{certificates}")
    tls = TlsFiles(device_files / "ca.pem", device_files / "cert.pem", device_files / "key.pem")

    def write(authority: Authority) -> None:
        authority.issue("edge-1", tmp_path / "cert", tmp_path / "key")
        assert tls.cert_file is not None
        assert tls.key_file is not None
        assert tls.ca_file is not None
        replace(tls.ca_file, authority.file.read_text())
        replace(tls.cert_file, (tmp_path / "cert").read_text())
        replace(tls.key_file, (tmp_path / "key").read_text())

    if replace is by_link:  # one folder at a time: the three files in it

        def write(authority: Authority) -> None:
            data = device_files / f"..data-{authority.file.parent.name}"
            data.mkdir()
            authority.issue("edge-1", data / "cert.pem", data / "key.pem")
            shutil.copy(authority.file, data / "ca.pem")
            link = device_files / "..tmp"
            link.symlink_to(data)
            link.rename(device_files / "..data")
            for name in ("ca.pem", "cert.pem", "key.pem"):
                if not (device_files / name).is_symlink():
                    (device_files / name).symlink_to(Path("..data") / name)

    write(old)
    device = Serving(port, tmp_path, tls=tls, host="localhost")
    device.serve(FakeWorker())
    device.plane.start()
    until(lambda: ("SSLCertVerificationError",) in device.plane.snapshot().figures["mqtt_disconnects"])
    write(new)
    device.connected()
    client = Asker(broker.port, device.infer())
    payload, length = binary_request(X)
    np.testing.assert_array_equal(client.one(payload, header_length=length).tensor(), X * 2)
    client.close()
    device.stop()


def test_an_agent_that_is_hung_up_takes_the_new_password_and_goes_on_serving(
    tmp_path: Path, brokers: Callable[[str], Mosquitto]
) -> None:
    passwords = tmp_path / "passwords"
    for user, password in (("old", "one"), ("edge-1", "two")):
        create = [] if passwords.exists() else ["-c"]
        command = ["mosquitto_passwd", "-b", *create, str(passwords), user, password]
        if shutil.which("mosquitto_passwd") is None:
            pytest.skip("mosquitto_passwd is not there")
        subprocess.run(command, check=True, capture_output=True)
    os.chmod(passwords, 0o644)
    port = free_port()
    brokers(f"listener {port} 127.0.0.1\nallow_anonymous false\npassword_file {passwords}")
    secret = tmp_path / "password"
    secret.write_text("wrong")
    registry = RegistrySimulator().start()
    deploy(registry)
    agent = AgentProcess(tmp_path / "data", registry.url, port)
    agent.settings["MODELFLEET_AGENT_MQTT__USERNAME"] = "edge-1"
    agent.settings["MODELFLEET_AGENT_MQTT__PASSWORD_FILE"] = str(secret)
    agent.start()
    try:
        wait_until(agent.serves)
        pid = agent.pid
        by_rename(secret, "two")
        os.kill(pid, signal.SIGHUP)
        wait_until(lambda: '"connected": true' in (tmp_path / "data" / "status.json").read_text())
        assert agent.serves()
        os.kill(pid, signal.SIGHUP)
        assert agent.end(signal.SIGTERM) == 0
    finally:
        agent.stop()
        registry.stop()
