"""How a client reaches its broker: TLS with a certificate of its own, passwords, websockets, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from registry.client.devices import Client, NotConnectedError
from tests.fakes.workers import FakeWorker
from tests.support.clients.serving import Serving
from tests.support.network.broker import Mosquitto, free_port
from tests.support.network.certificates import Authority

X = np.array([[1, 2, 3, 4]], np.float32)


class Secure:
    """A broker with an open listener for the device, and others for clients."""

    def __init__(self, folder: Path) -> None:
        self.authority = Authority(folder / "authority")
        server = folder / "broker.pem"
        self.authority.issue("localhost", server, server)
        self.certificate, self.key = folder / "client.pem", folder / "client.key"
        self.authority.issue("a-client", self.certificate, self.key)
        self.tls, self.websockets = free_port(), free_port()
        tls = f"certfile {server}\nkeyfile {server}\ncafile {self.authority.file}\nrequire_certificate true"
        self.broker = Mosquitto(
            folder,
            extra=f"listener {self.tls} 127.0.0.1\nallow_anonymous true\n{tls}\n"
            f"listener {self.websockets} 127.0.0.1\nprotocol websockets\nallow_anonymous true",
        ).start()
        self.device = Serving(self.broker.port, folder)
        self.device.serve(FakeWorker())
        self.device.start()

    def asks(self, client: Client) -> bool:
        answers = client.infer_many(({"x": X + n} for n in range(50)), device=self.device.name, model="double")
        return all((answer["y"] == (X + n) * 2).all() for n, answer in enumerate(answers))


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secure]:
    made = Secure(tmp_path_factory.mktemp("secure"))
    yield made
    made.device.stop()
    made.broker.stop()


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
def test_tls_with_a_certificate_of_the_clients_own(secure: Secure, protocol: str) -> None:
    with Client(
        f"mqtts://localhost:{secure.tls}", prefix=secure.device.topics.prefix, protocol=protocol,
        ca_file=secure.authority.file, identity=(secure.certificate, secure.key),
    ) as fleet:  # fmt: skip
        assert secure.asks(fleet)
        x = np.arange(1 << 17, dtype=np.float32).reshape(-1, 4)
        np.testing.assert_array_equal(fleet.infer(secure.device.name, "double", {"x": x})["y"], x * 2)


def test_a_broker_whose_certificate_is_not_trusted_is_refused(secure: Secure) -> None:
    with pytest.raises(NotConnectedError) as refused:
        Client(f"mqtts://localhost:{secure.tls}", identity=(secure.certificate, secure.key))
    assert "certificate" in str(refused.value).lower()


def test_websockets_work_through_the_public_interface_of_paho(secure: Secure) -> None:
    with Client(f"ws://localhost:{secure.websockets}", prefix=secure.device.topics.prefix) as fleet:
        assert secure.asks(fleet)
        assert fleet.statistics().slow_reason == "over websockets"


def test_a_refusal_by_the_broker_says_why(tmp_path: Path) -> None:
    broker = Mosquitto(tmp_path, extra="").start()
    port = free_port()
    (tmp_path / "closed").mkdir()
    (tmp_path / "passwords").write_text("")
    closed = Mosquitto(
        tmp_path / "closed",
        extra=f"listener {port} 127.0.0.1\nallow_anonymous false\npassword_file {tmp_path / 'passwords'}",
    ).start()
    try:
        with pytest.raises(NotConnectedError) as refused:
            Client(f"mqtt://somebody:wrong@127.0.0.1:{port}")
        assert refused.value.code == "connection_refused"
        assert "wrong" not in str(refused.value)
    finally:
        closed.stop()
        broker.stop()


def test_without_the_fast_path_answers_are_the_same(
    broker: Mosquitto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("registry.client.devices.connection._fault", lambda: "an unknown paho")
    device = Serving(broker.port, tmp_path)
    device.serve(FakeWorker())
    device.start()
    for protocol in ("5", "3.1.1"):
        with Client(f"mqtt://127.0.0.1:{broker.port}", prefix=device.topics.prefix, protocol=protocol) as fleet:
            answers = list(fleet.infer_many(({"x": X + n} for n in range(100)), device=device.name, model="double"))
            for number, answer in enumerate(answers):
                np.testing.assert_array_equal(answer["y"], (X + number) * 2)  # type: ignore[index]
            assert fleet.statistics().slow_reason == "an unknown paho"
    device.stop()
