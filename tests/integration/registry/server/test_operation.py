"""How an operator sees a registry: health, metrics, systemd, stopping."""

from __future__ import annotations

import json
import signal
import socket
from pathlib import Path

import httpx

from tests.integration.registry.server.test_publishing import problem
from tests.support.programs.registry_process import RegistryProcess, publish


def test_it_says_that_it_lives_is_ready_and_what_it_counts(admin: httpx.Client, anyone: httpx.Client) -> None:
    assert anyone.get("/healthz").json() == {"status": "ok"}
    assert anyone.get("/readyz").json()["status"] == "ready"
    admin.get("/v1/models/nothing-of-that-name")
    text = admin.get("/metrics").text
    assert 'modelfleet_http_requests_total{method="GET",route="/v1/models/{model}",status="404"}' in text
    assert "nothing-of-that-name" not in text
    assert "_created" not in text


def test_every_refusal_is_a_problem(admin: httpx.Client) -> None:
    problem(admin.get("/nowhere"), 404, "not_found")
    problem(admin.put("/v1/models"), 405, "method_not_allowed")
    problem(admin.post("/v1/tokens", content=b"{", headers={"content-type": "application/json"}), 422, "invalid")
    problem(admin.get("/v1/models/UPPER"), 422, "invalid")


def test_systemd_is_told_ready_alive_and_stopping(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(20)
        server = RegistryProcess(tmp_path, {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "100000"})
        server.start()
        try:
            seen = [systemd.recv(100)]
            while seen.count(b"WATCHDOG=1") < 3 or b"READY=1" not in seen:
                seen.append(systemd.recv(100))
        finally:
            server.stop()
        while seen[-1] != b"STOPPING=1":
            seen.append(systemd.recv(100))


def test_what_was_published_is_there_after_sigterm_and_after_sigkill(mortal: RegistryProcess) -> None:
    for version, number in (("1", signal.SIGTERM), ("2", signal.SIGKILL)):
        mortal.start()
        with mortal.client() as client:
            assert publish(client, "lenet", version, b"weights").status_code == 201
        mortal.kill() if number == signal.SIGKILL else mortal.stop()
    mortal.start()
    with mortal.client() as client:
        versions = client.get("/v1/models/lenet/versions").json()["items"]
    assert [version["version"] for version in versions] == ["2", "1"]


def test_its_log_as_json_has_one_object_a_line_with_the_request_and_the_device(tmp_path: Path) -> None:
    settings = {"MODELFLEET_REGISTRY_LOG_FORMAT": "json", "MODELFLEET_REGISTRY_ACCESS_LOG": "true"}
    server = RegistryProcess(tmp_path, settings).start()
    try:
        with server.client() as admin:
            created = admin.put("/v1/devices/edge-1", json={}).json()
        with server.client(created["token"]) as device:
            answer = device.get("/v1/devices/edge-1/desired", headers={"X-Request-Id": "poll-1"})
            assert answer.headers["x-request-id"] == "poll-1"
            assert device.get("/healthz", headers={"X-Request-Id": "no id"}).headers["x-request-id"].isalnum()
    finally:
        server.stop()
    lines = [json.loads(line) for line in (tmp_path / "registry.log").read_text().splitlines()]
    assert any(line["message"].startswith(f"listening on {server.url}") for line in lines)
    assert all({"time", "level", "logger", "message"} <= set(line) for line in lines)
    polls = [line for line in lines if line.get("request") == "poll-1"]
    assert [(line["logger"], line["device"]) for line in polls] == [("uvicorn.access", "edge-1")]
