"""Who may do what: tokens, scopes, loopback; and what the registry refuses to start with."""

from __future__ import annotations

import stat
from pathlib import Path

import httpx
import pytest

from tests.integration.registry.server.test_publishing import problem, publish
from tests.support.programs.registry_process import RegistryProcess, failed_start, put_blob


def token(admin: httpx.Client, name: str, scope: str) -> str:
    return str(admin.post("/v1/tokens", json={"name": name, "scope": scope}).raise_for_status().json()["token"])


def test_on_loopback_anyone_reads_and_nobody_writes_without_a_token(anyone: httpx.Client) -> None:
    assert anyone.get("/v1/models").status_code == 200
    answer = anyone.post("/v1/uploads", json={"digest": "sha256:" + "0" * 64, "size": 1})
    problem(answer, 401, "unauthorized")
    assert answer.headers["www-authenticate"] == "Bearer"
    problem(anyone.get("/v1/tokens"), 401, "unauthorized")
    problem(anyone.put("/v1/devices/cam", json={}), 401, "unauthorized")


def test_an_open_read_comes_straight_from_this_host(anyone: httpx.Client) -> None:
    problem(anyone.get("/v1/models", headers={"X-Forwarded-For": "203.0.113.9"}), 401, "unauthorized")
    for host in ("127.0.0.1", "localhost:8470", "LOCALHOST", "[::1]:8470"):
        assert anyone.get("/v1/models", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example", "{.evil.example", "127.0.0.1@evil.example", "evil.example/@127.0.0.1", "[::1", "localhost."],
)
def test_a_web_page_of_another_name_reads_nothing(anyone: httpx.Client, host: str) -> None:
    problem(anyone.get("/v1/models", headers={"Host": host}), 401, "unauthorized")


def test_a_path_that_almost_fits_is_not_there_and_redirects_nobody(anyone: httpx.Client) -> None:
    problem(anyone.get("/v1/models/", headers={"Host": "127.0.0.1"}), 404, "not_found")


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
