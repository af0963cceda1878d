"""What a proxy, a portal or a middlebox answers in the registry's place is weather; only the registry refuses."""

from __future__ import annotations

import gzip
import threading
import time
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path

import pytest

from agent.adapters.disk.artifact_cache import ArtifactCache
from agent.adapters.disk.checked_files import PartFile
from agent.adapters.network.registry_answers import UnreachableError
from agent.adapters.network.registry_client import RegistryClient
from agent.errors import AgentError, PermanentError
from registry.contracts.api.answers import PROBLEM_TYPE
from registry.contracts.api.devices import DeviceReports
from registry.contracts.catalogue.manifest import FileRef
from registry.contracts.codes import DeploymentCode
from registry.contracts.device.messages import Desired
from registry.contracts.fit.platforms import Platform
from registry.contracts.wire import digest_of
from tests.fakes.registry_simulator import Page, Refuse, RegistrySimulator, Trickle, one_file_manifest
from tests.integration.agent.test_agent_process import AgentProcess, deploy, wait_until
from tests.support.network.broker import free_port

MODEL = bytes(range(256)) * 1000
FOREIGN = {
    "a proxy's 404 page": Page(404),
    "a proxy's 403 page": Page(403),
    "a gateway's 502 page": Page(502),
    "401 of a portal": Page(401, b"Login required", "text/plain"),
    "407 of a proxy": Page(407),
    "a redirect to a portal": Page(302, b"", headers={"Location": "http://portal.example/login"}),
    "a permanent redirect": Page(308, b"", headers={"Location": "https://elsewhere.example/"}),
    "200 with HTML": Page(200),
    "201 with HTML": Page(201),
    "200 with nothing": Page(200, b"", "text/plain"),
    "404 with a JSON body of somebody else": Page(404, b'{"error": "not found"}', "application/json"),
    "404 with a problem document without a code": Page(404, b'{"title": "Not Found", "status": 404}', PROBLEM_TYPE),
    "a problem document with a code of somebody else": Page(
        404, b'{"title": "Not Found", "status": 404, "code": "route_missing"}', PROBLEM_TYPE
    ),
    "a problem document of another status": Page(
        410, b'{"title": "Not Found", "status": 404, "code": "not_found"}', PROBLEM_TYPE
    ),
    "a problem document that was cut": Page(404, b'{"title": "Not Found", "status": 404, "co', PROBLEM_TYPE),
    "our problem document under another content type": Page(
        404, b'{"title": "Not Found", "status": 404, "code": "not_found"}', "text/plain"
    ),
}
EXCHANGES = ("desired", "manifests", "blobs", "facts", "reports")


@pytest.fixture
def registry() -> Iterator[RegistrySimulator]:
    simulator = RegistrySimulator().start()
    simulator.publish(one_file_manifest(MODEL), MODEL)
    simulator.desired = Desired(device="edge-1", generation=1, issued_at=datetime(2026, 1, 1, tzinfo=timezone.utc))
    yield simulator
    simulator.stop()


@pytest.fixture
def client(registry: RegistrySimulator) -> Iterator[RegistryClient]:
    client = RegistryClient(registry.url, "edge-1", token=None, ca_file=None, timeout_s=2)
    yield client
    client.close()


def do(client: RegistryClient, exchange: str, folder: Path) -> object:
    if exchange == "desired":
        return client.desired(None)
    if exchange == "manifests":
        return client.manifest(one_file_manifest(MODEL).canonical_digest())
    if exchange == "facts":
        return client.put_facts(Platform(os="linux", arch="x86_64"))
    if exchange == "reports":
        return client.post_reports(DeviceReports())
    cache = ArtifactCache(folder, limit=1 << 40, reserve=0)
    cache.open()
    with cache.part(FileRef(path="m", digest=digest_of(MODEL), size=len(MODEL))) as part:
        part.resume(threading.Event())
        client.download(part, threading.Event())
        part.check()
    return None


@pytest.mark.parametrize("exchange", EXCHANGES)
@pytest.mark.parametrize("page", FOREIGN.values(), ids=FOREIGN.keys())
def test_an_answer_of_somebody_else_is_an_outage_in_every_exchange(
    registry: RegistrySimulator, client: RegistryClient, tmp_path: Path, exchange: str, page: Page
) -> None:
    registry.fault(exchange, page)
    with pytest.raises(UnreachableError) as weather:
        do(client, exchange, tmp_path)
    assert weather.value.code == DeploymentCode.REGISTRY_UNREACHABLE
    do(client, exchange, tmp_path)


@pytest.mark.parametrize("exchange", EXCHANGES)
def test_the_registrys_own_refusal_is_a_verdict_in_every_exchange(
    registry: RegistrySimulator, client: RegistryClient, tmp_path: Path, exchange: str
) -> None:
    registry.fault(exchange, Refuse("not_found", "No such thing."))
    with pytest.raises(PermanentError, match=r"404 not_found: No such thing\.") as refused:
        do(client, exchange, tmp_path)
    assert refused.value.code == DeploymentCode.REGISTRY_REFUSED


@pytest.mark.parametrize(
    "body", [b"", b"{", b'{"device": "edge-1", "gener', b"[]", b"null", b'{"portal": true}', b"\xff\xfe" * 20]
)
def test_a_desired_state_that_was_cut_or_recoded_on_the_way_is_an_outage(
    registry: RegistrySimulator, client: RegistryClient, body: bytes
) -> None:
    registry.fault("desired", Page(200, body, "application/json"))
    with pytest.raises(UnreachableError):
        client.desired(None)


def test_not_modified_is_believed_only_after_a_question_with_an_etag(
    registry: RegistrySimulator, client: RegistryClient
) -> None:
    registry.fault("desired", Page(304, b""))
    with pytest.raises(UnreachableError):
        client.desired(None)


def test_a_blob_that_a_middlebox_compresses_still_comes_whole(
    registry: RegistrySimulator, client: RegistryClient, tmp_path: Path
) -> None:
    packed = gzip.compress(MODEL)
    registry.fault("blobs", Page(200, packed, "application/octet-stream", {"Content-Encoding": "gzip"}))
    do(client, "blobs", tmp_path)
    assert len(registry.requests("blobs")) == 1


def test_a_range_that_a_middlebox_compresses_is_not_put_together(
    registry: RegistrySimulator, client: RegistryClient, tmp_path: Path
) -> None:
    (tmp_path / "partial").mkdir()
    with PartFile(tmp_path / "partial", FileRef(path="m", digest=digest_of(MODEL), size=len(MODEL))) as part:
        part.path.write_bytes(MODEL[:1000])
    headers = {"Content-Encoding": "gzip", "Content-Range": f"bytes 1000-{len(MODEL) - 1}/{len(MODEL)}"}
    registry.fault("blobs", Page(206, gzip.compress(MODEL[1000:]), "application/octet-stream", headers))
    with pytest.raises(UnreachableError):
        do(client, "blobs", tmp_path)
    do(client, "blobs", tmp_path)
    assert "range" not in registry.requests("blobs")[-1].headers


@pytest.mark.parametrize("head", [True, False], ids=["head", "body"])
@pytest.mark.parametrize("exchange", ["desired", "manifests"])
def test_an_answer_of_a_few_bytes_a_second_ends_at_the_exchanges_deadline(
    registry: RegistrySimulator, client: RegistryClient, tmp_path: Path, exchange: str, head: bool
) -> None:
    registry.fault(exchange, Trickle(head))
    began = time.monotonic()
    with pytest.raises(AgentError) as slow:
        do(client, exchange, tmp_path)
    assert slow.value.code == DeploymentCode.REGISTRY_UNREACHABLE
    assert time.monotonic() - began < 60  # it would be hours


def test_a_proxys_pages_for_a_while_delay_a_deployment_and_do_not_fail_it(
    registry: RegistrySimulator, tmp_path: Path
) -> None:
    deploy(registry)
    registry.fault("manifests", Page(404))
    registry.fault("blobs", Page(200))
    agent = AgentProcess(tmp_path / "data", registry.url, free_port())
    agent.start()
    try:
        wait_until(agent.serves, 100)
        assert len(registry.requests("blobs")) == 2
    finally:
        agent.stop()


def test_a_token_that_is_replaced_while_a_deployment_waits_for_it_lets_it_go_on(tmp_path: Path) -> None:
    registry = RegistrySimulator(token="new").start()
    deploy(registry)
    token = tmp_path / "token"
    token.write_text("old")
    agent = AgentProcess(tmp_path / "data", registry.url, free_port())
    agent.settings["MODELFLEET_AGENT_REGISTRY__TOKEN_FILE"] = str(token)
    agent.start()
    try:
        wait_until(lambda: registry.requests("desired"))
        token.write_text("new")
        wait_until(agent.serves)
    finally:
        agent.stop()
        registry.stop()
