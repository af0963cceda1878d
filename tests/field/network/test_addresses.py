"""IPv6 addresses, with and without brackets, wherever an address is configured on a device."""

from __future__ import annotations

import socket
import urllib.request
from pathlib import Path

import numpy as np
import pytest

from agent.adapters.network.registry_answers import UnreachableError
from agent.adapters.network.registry_client import RegistryClient
from agent.app.agent import mqtt_settings
from agent.app.metrics import MetricsServer
from agent.config.settings import ConfigError, load_config
from tests.fakes.workers import FakeWorker
from tests.support.clients.asking import Asker, binary_request
from tests.support.clients.serving import Serving
from tests.support.network.broker import Mosquitto, free_port

X = np.array([1, 2, 3, 4], np.float32)


@pytest.fixture(scope="module", autouse=True)
def ipv6() -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError as error:
        pytest.skip(f"this host has no IPv6: {error}")


def config_of(folder: Path, text: str) -> Path:
    file = folder / "agent.toml"
    file.write_text(text)
    return file


@pytest.mark.parametrize("host", ["::1", "[::1]"])
def test_the_broker_is_reached_at_an_ipv6_address(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, host: str
) -> None:
    port = free_port()
    broker = Mosquitto(tmp_path_factory.mktemp("v6"), extra=f"listener {port} ::1\nallow_anonymous true").start()
    config = load_config(config_of(tmp_path, f'device = "edge-1"\n[mqtt]\nhost = "{host}"\nport = {port}\n'))
    settings = mqtt_settings(config, b"")
    device = Serving(settings.broker.port, tmp_path, host=settings.broker.host)
    device.serve(FakeWorker())
    device.start()
    client = Asker(broker.port, device.infer())
    payload, length = binary_request(X)
    np.testing.assert_array_equal(client.one(payload, header_length=length).tensor(), X * 2)
    client.close()
    device.stop()
    broker.stop()


def test_prometheus_is_answered_at_an_ipv6_address(tmp_path: Path, broker: Mosquitto) -> None:
    port = free_port()
    config = load_config(config_of(tmp_path, f'device = "edge-1"\nprometheus = "[::1]:{port}"\n'))
    device = Serving(broker.port, tmp_path).start()
    assert config.prometheus is not None
    server = MetricsServer(config.prometheus, device.plane.snapshot, dict, dict, {})
    server.start()
    with urllib.request.urlopen(f"http://[::1]:{port}/metrics", timeout=10) as answer:
        assert answer.status == 200
    server.stop()
    device.stop()


@pytest.mark.parametrize(
    "url", ["http://[::1", "http://[::1]:99999", "http://x:port", "http://:8470", "https://[zz]:1"]
)
def test_an_address_of_the_registry_that_is_none_is_refused_with_the_settings(tmp_path: Path, url: str) -> None:
    with pytest.raises(ConfigError, match=r"registry\.url"):
        load_config(config_of(tmp_path, f'device = "edge-1"\n[registry]\nurl = "{url}"\n'))


def test_a_registry_at_an_ipv6_address_is_asked_there() -> None:
    server = socket.create_server(("::1", 0), family=socket.AF_INET6)
    client = RegistryClient(f"http://[::1]:{server.getsockname()[1]}", "edge-1", token=None, ca_file=None, timeout_s=1)
    with pytest.raises(UnreachableError, match="ReadTimeout"):
        client.desired(None)
    near, _ = server.accept()
    assert near.recv(4096).startswith(b"GET /v1/devices/edge-1/desired")
    near.close()
    server.close()
    client.close()
