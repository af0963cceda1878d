"""Agent, CLI and Python client behind the proxies of other people, and with addresses of any form."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agent.adapters.disk.artifact_cache import ArtifactCache
from agent.adapters.network.registry_answers import UnreachableError
from agent.adapters.network.registry_client import RegistryClient
from registry.cli.output import ExitCode, exit_code_of
from registry.client import api
from registry.client.address import Address
from registry.client.api import ApiClient
from registry.client.errors import ClientError
from registry.contracts.backoff import Backoff
from registry.contracts.catalogue.manifest import FileRef, Manifest
from registry.contracts.paths import manifest_path
from registry.contracts.wire import digest_of
from registry.hub.source import HubError, list_models
from tests.fakes.odd_server import OddServer
from tests.fakes.registry_simulator import RegistrySimulator, one_file_manifest
from tests.support.network.certificates import Authority
from tests.support.network.http_proxy import HttpProxy

MODEL = bytes(range(256)) * 20_000  # 5 MB: several reads, records and buffers
VARIABLES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")
Start = Callable[..., RegistrySimulator]


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setattr(api, "RETRIES", Backoff(0.001, 0.001, limit=4))
    return monkeypatch


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "authority")


@pytest.fixture
def start() -> Iterator[Start]:
    started: list[RegistrySimulator] = []

    def start(tls: ssl.SSLContext | None = None) -> RegistrySimulator:
        started.append(RegistrySimulator(tls=tls).start())
        started[-1].publish(one_file_manifest(MODEL), MODEL)
        return started[-1]

    yield start
    for each in started:
        each.stop()


def pull(client: RegistryClient, folder: Path) -> bytes:
    """Manifest and blob, through the agent's own client."""
    manifest = Manifest.model_validate_json(client.manifest(one_file_manifest(MODEL).canonical_digest()))
    cache = ArtifactCache(folder, limit=1 << 40, reserve=0)
    cache.open()
    with cache.part(FileRef(path="m", digest=digest_of(MODEL), size=len(MODEL))) as part:
        part.resume(threading.Event())
        client.download(part, threading.Event())
        part.check()
        assert manifest.model == "lenet"
        return part.path.read_bytes()


@pytest.mark.parametrize("registry_tls", [False, True], ids=["http registry", "https registry"])
@pytest.mark.parametrize("proxy_tls", [False, True], ids=["plain proxy", "proxy over TLS"])
@pytest.mark.parametrize("name", ["registry.test", "fd00::1"])
def test_a_model_comes_whole_through_every_kind_of_proxy(
    environment: pytest.MonkeyPatch,
    authority: Authority,
    start: Start,
    *,
    registry_tls: bool,
    proxy_tls: bool,
    name: str,
    tmp_path: Path,
) -> None:
    registry = start(authority.certificate_for(name) if registry_tls else None)
    with HttpProxy(authority.certificate_for("127.0.0.1") if proxy_tls else None, leads_to={name: "127.0.0.1"}) as via:
        environment.setenv("ALL_PROXY", via.url)
        host = f"[{name}]" if ":" in name else name
        url = f"{'https' if registry_tls else 'http'}://{host}:{registry.port}"
        client = RegistryClient(url, "edge-1", token="t", ca_file=str(authority.file), timeout_s=10)
        assert pull(client, tmp_path / "cache") == MODEL
        client.close()
        assert via.seen
        assert all(host in line for line in via.seen)
        environment.setenv("SSL_CERT_FILE", str(authority.file))
        with_cli = ApiClient(Address(url, "t"))
        assert with_cli.call("GET", manifest_path(one_file_manifest(MODEL).canonical_digest())).status == 200
        with_cli.close()


def test_a_proxy_is_reached_at_an_ipv6_address(environment: pytest.MonkeyPatch, start: Start, tmp_path: Path) -> None:
    registry = start()
    try:
        via = HttpProxy(host="::1", leads_to={"registry.test": "127.0.0.1"})
    except OSError as error:
        pytest.skip(f"this host has no IPv6: {error}")
    with via:
        environment.setenv("http_proxy", via.url)
        url = f"http://registry.test:{registry.port}"
        client = RegistryClient(url, "edge-1", token=None, ca_file=None, timeout_s=10)
        assert pull(client, tmp_path / "cache") == MODEL
        client.close()


@pytest.mark.parametrize("no_proxy", ["localhost,fd00::/8", "::1/128,,[[,*.x", "fe80::%eth0/10,10.0.0.0/99, ;"])
def test_no_entry_of_no_proxy_keeps_anybody_from_the_registry(
    environment: pytest.MonkeyPatch, start: Start, tmp_path: Path, no_proxy: str
) -> None:
    registry = start()
    environment.setenv("NO_PROXY", no_proxy)
    environment.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    client = RegistryClient(registry.url, "edge-1", token=None, ca_file=None, timeout_s=10)
    assert pull(client, tmp_path / "cache") == MODEL
    client.close()
    ApiClient(Address(registry.url, None)).close()


@pytest.mark.parametrize(
    "proxy",
    [
        "socks5h://127.0.0.1:1080",
        "socks5://127.0.0.1",
        "socks4://x",
        "http://",
        "http://[::1",
        "http://p:port",
        "ftp://x",
    ],
)
def test_a_proxy_that_cannot_be_used_is_said_by_its_variable_and_kills_nobody(
    environment: pytest.MonkeyPatch, proxy: str
) -> None:
    environment.setenv("ALL_PROXY", proxy)
    environment.setenv("MODELFLEET_REGISTRY", "http://registry.test")
    client = RegistryClient("http://registry.test", "edge-1", token=None, ca_file=None, timeout_s=2)
    with pytest.raises(UnreachableError, match="ALL_PROXY"):
        client.desired(None)
    environment.delenv("ALL_PROXY")
    with pytest.raises(UnreachableError, match=r"registry\.test"):  # the same client, once the proxy is gone
        client.desired(None)
    environment.setenv("ALL_PROXY", proxy)
    with pytest.raises(ClientError, match="ALL_PROXY") as said:
        ApiClient(Address("http://registry.test", None))
    assert (said.value.code, exit_code_of(said.value)) == ("bad_proxy", ExitCode.USAGE)
    with pytest.raises(HubError, match="ALL_PROXY") as told:
        list_models()
    assert told.value.code == "bad_proxy"


@pytest.mark.parametrize("proxy", ["nonsense.invalid", "http://127.0.0.1:1"])
def test_a_proxy_that_is_not_there_is_named_with_its_variable(environment: pytest.MonkeyPatch, proxy: str) -> None:
    environment.setenv("HTTP_PROXY", proxy)
    client = RegistryClient("http://registry.test", "edge-1", token=None, ca_file=None, timeout_s=5)
    with pytest.raises(UnreachableError, match="HTTP_PROXY"):
        client.desired(None)
    with pytest.raises(ClientError, match=r"the proxy .* that HTTP_PROXY names"):
        ApiClient(Address("http://registry.test", None)).call("GET", "/v1/models")


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_proxy_that_asks_for_a_password_is_an_outage(environment: pytest.MonkeyPatch, scheme: str) -> None:
    with OddServer(407, b"<html>Who are you?</html>", "text/html") as proxy:
        environment.setenv("ALL_PROXY", proxy.url)
        client = RegistryClient(f"{scheme}://registry.test", "edge-1", token=None, ca_file=None, timeout_s=5)
        with pytest.raises(UnreachableError, match="407"):
            client.desired(None)
        client.close()


@pytest.mark.parametrize("host", ["a" * 70, "x..y", "registry.invalid", "[fe80::1%25lo]", "[::1]"])
def test_an_address_that_cannot_be_reached_is_an_outage_whatever_its_form(host: str) -> None:
    client = RegistryClient(f"http://{host}:9", "edge-1", token=None, ca_file=None, timeout_s=2)
    with pytest.raises(UnreachableError):
        client.desired(None)
    with pytest.raises(ClientError) as said:
        ApiClient(Address(f"http://{host}:9", None)).call("GET", "/v1/models")
    assert said.value.code in ("unreachable", "invalid")
