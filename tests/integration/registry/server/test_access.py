"""Who may do what: tokens, scopes, where requests come from; and what the registry refuses to start with."""

from __future__ import annotations

import re
import stat
from pathlib import Path

import httpx
import pytest

from registry.server.app import openapi_document
from tests.integration.registry.server.test_publishing import problem, publish
from tests.support.programs.cli import Cli
from tests.support.programs.registry_process import RegistryProcess, failed_start, put_blob


def token(admin: httpx.Client, name: str, scope: str) -> str:
    return str(admin.post("/v1/tokens", json={"name": name, "scope": scope}).raise_for_status().json()["token"])


HERE = [
    {},
    {"Host": "localhost"},
    {"Host": "127.0.0.1:8470"},
    {"X-Forwarded-For": "127.0.0.1"},
    {"Forwarded": "for=127.0.0.1"},
    {"X-Real-IP": "::1"},
    {"X-Forwarded-Host": "localhost"},
    {"Origin": "http://127.0.0.1"},
]
"""What a request from this host, or through a proxy on it, looks like."""


def operations() -> list[tuple[str, str]]:
    """All of the API and what stands beside it, but what says whether the registry lives and works."""
    paths = openapi_document()["paths"]
    listed = [(method.upper(), path) for path, methods in paths.items() for method in methods]
    return [*listed, ("GET", "/metrics")]


@pytest.mark.parametrize("headers", HERE, ids=lambda headers: next(iter(headers), "bare"))
def test_no_operation_is_open_because_of_where_its_request_comes_from(
    anyone: httpx.Client, headers: dict[str, str]
) -> None:
    for method, template in operations():
        path = re.sub("{[a-z]+}", "x", template.replace("{digest}", "sha256:" + "0" * 64))
        answer = anyone.request(method, path, headers=headers)
        assert answer.status_code == 401, (method, path)
    answer = anyone.post("/v1/uploads", json={"digest": "sha256:" + "0" * 64, "size": 1}, headers=headers)
    problem(answer, 401, "unauthorized")
    assert answer.headers["www-authenticate"] == "Bearer"
    assert anyone.get("/healthz").status_code == 200
    assert anyone.get("/readyz").status_code == 200
    assert anyone.get("/console/fleet", headers=headers).status_code == 401


def test_what_is_open_to_readers_is_said_and_nothing_more_is_open(tmp_path: Path) -> None:
    server = RegistryProcess(tmp_path, {"MODELFLEET_REGISTRY_ACCESS__OPEN_READING": "true"}).start()
    try:
        with server.client("") as anyone, server.client() as admin:
            assert anyone.get("/v1/models", headers={"Host": "elsewhere.example"}).status_code == 200
            assert anyone.get("/console/fleet").status_code == 200
            problem(anyone.get("/v1/tokens"), 401, "unauthorized")
            problem(anyone.put("/v1/devices/cam", json={}), 401, "unauthorized")
            problem(anyone.post("/v1/console-links"), 401, "unauthorized")
            problem(anyone.get("/v1/models", headers={"Authorization": "Bearer mf_wrong"}), 401, "unauthorized")
            assert anyone.post("/console/groups").status_code in (401, 403)
            reading = {each["name"]: each for each in admin.get("/v1/diagnosis").json()["checks"]}["reading"]
        cli = Cli(tmp_path, server.url, server.admin_token)
        assert reading["state"] == "warning"
        assert "access.open_reading" in reading["text"]
        assert "access.open_reading" in cli("status").err
    finally:
        server.stop()


def test_a_proxy_of_the_settings_is_believed_about_addresses_and_any_other_is_not(tmp_path: Path) -> None:
    def attempts(server: RegistryProcess, forwarded: str) -> list[int]:
        headers = {"Sec-Fetch-Site": "same-origin", "X-Forwarded-For": forwarded}
        url = server.url + "/console/sign-in"
        return [httpx.post(url, data={"token": "wrong"}, headers=headers).status_code for _ in range(11)]

    known = {"MODELFLEET_REGISTRY_ACCESS__PROXIES": '["127.0.0.0/8"]'}
    for environment, other in ((known, 401), ({}, 429)):
        server = RegistryProcess(tmp_path, environment).start()
        try:
            assert attempts(server, "198.51.100.7, 203.0.113.77") == [401] * 10 + [429]
            assert attempts(server, "203.0.113.78")[0] == other
            with server.client() as admin:
                link = admin.post("/v1/console-links").json()["path"].partition("code=")[2]
            headers = {"Sec-Fetch-Site": "same-origin", "X-Forwarded-Proto": "https", "X-Forwarded-For": "203.0.113.9"}
            host = {"Host": "fleet.example", **headers}
            answer = httpx.post(server.url + "/console/sign-in", data={"code": link}, headers=host)
            if environment:
                assert answer.status_code == 303
                assert "Secure" in answer.headers["set-cookie"]
            else:
                assert answer.status_code == 403
            with server.client("") as anyone:
                problem(anyone.get("/v1/models", headers={"X-Forwarded-For": "127.0.0.1"}), 401, "unauthorized")
        finally:
            server.stop()


def test_a_path_that_almost_fits_is_not_there_and_redirects_nobody(anyone: httpx.Client) -> None:
    problem(anyone.get("/v1/models/"), 404, "not_found")


@pytest.mark.parametrize("header", ["Bearer mf_wrong", "Bearer", "Basic YWRtaW46", "mf_x", "Bearer " + "x" * 5000])
def test_a_wrong_token_is_refused_even_for_reading(anyone: httpx.Client, header: str) -> None:
    problem(anyone.get("/v1/models", headers={"Authorization": header}), 401, "unauthorized")


def test_a_token_does_what_its_scope_says(registry: RegistryProcess, admin: httpx.Client) -> None:
    with registry.client(token(admin, "reader", "read")) as reader:
        assert reader.get("/v1/models").status_code == 200
        problem(reader.delete("/v1/models/x"), 403, "forbidden")
        problem(reader.put("/v1/devices/cam", json={}), 403, "forbidden")
    with registry.client(token(admin, "publisher", "publish")) as publisher:
        assert publish(publisher, "by-publisher", "1", b"p").json()["version"]["created_by"] == "publisher"
        problem(publisher.put("/v1/devices/cam", json={}), 403, "forbidden")
        problem(publisher.post("/v1/tokens", json={"name": "x", "scope": "admin"}), 403, "forbidden")
    with registry.client(token(admin, "deployer", "deploy")) as deployer:
        assert deployer.put("/v1/devices/cam-1", json={}).status_code == 201
        problem(deployer.delete("/v1/models/by-publisher"), 403, "forbidden")


def test_a_device_reads_blobs_and_nothing_of_other_devices(registry: RegistryProcess, admin: httpx.Client) -> None:
    digest = put_blob(admin, b"for devices")
    credential = admin.put("/v1/devices/cam-2", json={}).json()["token"]
    admin.put("/v1/devices/cam-3", json={})
    with registry.client(credential) as device:
        assert device.get(f"/v1/blobs/{digest}").content == b"for devices"
        assert device.get("/v1/devices/cam-2/desired").status_code == 200
        problem(device.get("/v1/devices/cam-3/desired"), 403, "forbidden")
        problem(device.get("/v1/tokens"), 403, "forbidden")
        problem(device.post("/v1/uploads", json={"digest": digest, "size": 1}), 403, "forbidden")
    assert "device/cam-2" not in [item["name"] for item in admin.get("/v1/tokens").json()["items"]]
    problem(admin.post("/v1/tokens", json={"name": "dev", "scope": "device"}), 422, "invalid")


def test_a_revoked_token_works_no_more_at_once(registry: RegistryProcess, admin: httpx.Client) -> None:
    with registry.client(token(admin, "short", "read")) as client:
        assert client.get("/v1/models").status_code == 200
        assert admin.delete("/v1/tokens/short").status_code == 204
        problem(client.get("/v1/models"), 401, "unauthorized")
    problem(admin.delete("/v1/tokens/short"), 404, "not_found")
    problem(admin.delete("/v1/tokens/admin"), 409, "conflict")


def test_the_first_token_is_for_its_owner_only_and_no_secret_is_stored(registry: RegistryProcess) -> None:
    file = registry.data / "admin.token"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(registry.data.stat().st_mode) == 0o700
    secret = registry.admin_token.encode()
    for path in registry.data.glob("registry.db*"):
        assert secret not in path.read_bytes()
    assert secret not in (registry.folder / "registry.log").read_bytes()


def test_it_does_not_listen_beyond_loopback_without_an_administrators_token(tmp_path: Path) -> None:
    done = failed_start(tmp_path / "data", "--host", "0.0.0.0")
    assert done.returncode == 2
    assert "MODELFLEET_REGISTRY_ADMIN_TOKEN" in done.stderr
    assert "Traceback" not in done.stderr
    short = failed_start(tmp_path / "data", "--host", "0.0.0.0", MODELFLEET_REGISTRY_ADMIN_TOKEN="short")
    assert short.returncode == 2
    assert "32" in short.stderr


def test_beyond_loopback_every_request_needs_a_token(tmp_path: Path) -> None:
    secret = "mf_" + "s" * 40
    beyond = {"MODELFLEET_REGISTRY_HOST": "0.0.0.0", "MODELFLEET_REGISTRY_ADMIN_TOKEN": secret}
    server = RegistryProcess(tmp_path, beyond).start()
    try:
        with server.client("") as anyone, server.client(secret) as admin:
            problem(anyone.get("/v1/models"), 401, "unauthorized")
            problem(anyone.get("/metrics"), 401, "unauthorized")
            assert anyone.get("/healthz").status_code == 200
            assert admin.get("/v1/models").status_code == 200
    finally:
        server.stop()


def test_two_registries_do_not_share_a_folder(registry: RegistryProcess) -> None:
    done = failed_start(registry.data)
    assert done.returncode == 2
    assert "Another registry" in done.stderr


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("prot = 1", "prot"),
        ("[limits]\nconnections = 0", "connections"),
        ("port =", ""),
        ("[mqtt]\nhots = 'a secret'", "hots"),
        ("admin_tokn = 'a secret'", "admin_tokn"),
        ("[mqtt]\npassword = 'a secret'\npassword_file = 'x'", "mqtt: "),
    ],
)
def test_a_wrong_setting_is_named(tmp_path: Path, text: str, named: str) -> None:
    file = tmp_path / "registry.toml"
    file.write_text(text)
    done = failed_start(tmp_path / "data", "--config", str(file))
    assert done.returncode == 2
    assert named in done.stderr
    assert "Traceback" not in done.stderr
    assert "a secret" not in done.stderr


def test_a_token_that_the_settings_give_replaces_the_one_of_the_first_start(mortal: RegistryProcess) -> None:
    mortal.start()
    first = mortal.admin_token
    mortal.stop()
    given = "mf_" + "g" * 40
    second = RegistryProcess(mortal.folder, {"MODELFLEET_REGISTRY_ADMIN_TOKEN": given}).start()
    try:
        with second.client(first) as old, second.client(given) as new:
            problem(old.get("/v1/models"), 401, "unauthorized")
            assert new.get("/v1/tokens").status_code == 200
        assert not (second.data / "admin.token").exists()
    finally:
        second.stop()
