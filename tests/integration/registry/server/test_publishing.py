"""Publishing through the HTTP API of a real registry: whole or not at all, immutable, idempotent."""

from __future__ import annotations

import base64
import json
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from registry.contracts.api.answers import Page
from registry.contracts.api.versions import ModelView, PublishAnswer, VersionView
from registry.contracts.catalogue.manifest import MAX_MANIFEST_BYTES, Manifest
from registry.contracts.wire import digest_of
from tests.support.programs.registry_process import RegistryProcess, manifest_of, publish, put_blob


def problem(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = answer.json()
    assert body["code"] == code
    assert body["status"] == status
    return body


def test_a_published_version_is_listed_read_and_pulled(admin: httpx.Client, reader: httpx.Client) -> None:
    data = os.urandom(300_000)
    answer = publish(admin, "lenet", "1.0.0", data)
    assert answer.status_code == 201
    published = PublishAnswer.model_validate_json(answer.content)
    assert published.created
    assert published.version.created_by == "admin"
    assert published.version.size == len(data)

    manifest = reader.get(f"/v1/manifests/{published.version.manifest}")
    assert digest_of(manifest.content) == published.version.manifest
    blob = Manifest.model_validate_json(manifest.content).variants[0].files[0]
    assert reader.get(f"/v1/blobs/{blob.digest}").content == data

    model = ModelView.model_validate_json(reader.get("/v1/models/lenet").content)
    assert model.latest == published.version
    assert model.versions == 1
    version = reader.get("/v1/models/lenet/versions/1.0.0")
    assert VersionView.model_validate_json(version.content) == published.version
    again = reader.get("/v1/models/lenet/versions/1.0.0", headers={"If-None-Match": version.headers["etag"]})
    assert again.status_code == 304


def test_the_same_content_again_is_no_new_version(admin: httpx.Client) -> None:
    assert publish(admin, "again", "1", b"weights").status_code == 201
    answer = publish(admin, "again", "1", b"weights")
    assert answer.status_code == 200
    assert answer.json()["created"] is False


def test_other_content_under_a_published_version_is_refused_with_the_difference(admin: httpx.Client) -> None:
    publish(admin, "fixed", "1", b"first")
    body = problem(publish(admin, "fixed", "1", b"second"), 409, "conflict")
    assert [error.split(":")[0] for error in body["errors"]] == [
        "variants.cpu.files.model.onnx.digest",
        "variants.cpu.files.model.onnx.size",
    ]
    assert digest_of(b"first") in body["errors"][0]
    assert digest_of(b"second") in body["errors"][0]


def test_a_version_without_its_blobs_does_not_appear(admin: httpx.Client) -> None:
    manifest = manifest_of("absent", "1", b"never uploaded")
    body = problem(admin.put("/v1/models/absent/versions/1", json=manifest), 422, "invalid")
    assert digest_of(b"never uploaded") in body["errors"][0]
    problem(admin.get("/v1/models/absent"), 404, "not_found")


def test_a_blob_with_another_size_than_the_manifest_says_is_refused(admin: httpx.Client) -> None:
    put_blob(admin, b"four")
    manifest = manifest_of("sizes", "1", b"four")
    manifest["variants"][0]["files"][0]["size"] = 5
    problem(admin.put("/v1/models/sizes/versions/1", json=manifest), 422, "invalid")


def test_the_path_and_the_manifest_must_agree(admin: httpx.Client) -> None:
    put_blob(admin, b"x")
    problem(admin.put("/v1/models/a/versions/2", json=manifest_of("a", "1", b"x")), 422, "invalid")
    problem(admin.put("/v1/models/..%2fa/versions/1", json=manifest_of("a", "1", b"x")), 404, "not_found")
    problem(admin.put("/v1/models/A/versions/1", json=manifest_of("A", "1", b"x")), 422, "invalid")


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"{", 422, "invalid"),
        (b"[" * 100_000, 422, "invalid"),
        (b'{"a":' * 40 + b"1" + b"}" * 40, 422, "invalid"),
        (b"null", 422, "invalid"),
        (b" " * MAX_MANIFEST_BYTES + b"{}", 413, "too_large"),
    ],
)
def test_a_hostile_manifest_is_refused(admin: httpx.Client, body: bytes, status: int, code: str) -> None:
    answer = admin.put("/v1/models/bad/versions/1", content=body, headers={"content-type": "application/json"})
    problem(answer, status, code)


def test_a_manifest_with_a_number_that_json_cannot_say_is_refused(admin: httpx.Client) -> None:
    put_blob(admin, b"x")
    manifest = manifest_of("nan", "1", b"x", extra=[float("nan")])
    headers = {"content-type": "application/json"}
    problem(admin.put("/v1/models/nan/versions/1", content=json.dumps(manifest), headers=headers), 422, "invalid")


def test_of_many_that_publish_the_same_exactly_one_creates_it(registry: RegistryProcess, admin: httpx.Client) -> None:
    put_blob(admin, b"same")

    def once(_: int) -> int:
        with registry.client() as client:
            return client.put("/v1/models/race/versions/1", json=manifest_of("race", "1", b"same")).status_code

    with ThreadPoolExecutor(12) as pool:
        statuses = sorted(pool.map(once, range(12)))
    assert statuses == [200] * 11 + [201]


def test_of_many_that_publish_different_content_exactly_one_wins(
    registry: RegistryProcess, admin: httpx.Client
) -> None:
    contents = [f"content {number}".encode() for number in range(12)]
    for content in contents:
        put_blob(admin, content)

    def once(content: bytes) -> int:
        with registry.client() as client:
            return client.put("/v1/models/race/versions/2", json=manifest_of("race", "2", content)).status_code

    with ThreadPoolExecutor(12) as pool:
        statuses = list(pool.map(once, contents))
    assert sorted(statuses) == [201] + [409] * 11
    winner = contents[statuses.index(201)]
    manifest = admin.get("/v1/models/race/versions/2").json()["manifest"]
    body = Manifest.model_validate_json(admin.get(f"/v1/manifests/{manifest}").content)
    assert body.variants[0].files[0].digest == digest_of(winner)


def test_lists_come_in_pages(admin: httpx.Client) -> None:
    for number in range(5):
        publish(admin, "paged", f"1.0.{number}", b"same weights")
    seen: list[str] = []
    cursor: str | None = None
    while True:
        query = {"limit": "2"} | ({"cursor": cursor} if cursor else {})
        page = Page[VersionView].model_validate_json(admin.get("/v1/models/paged/versions", params=query).content)
        assert len(page.items) <= 2
        seen += [view.version for view in page.items]
        cursor = page.next
        if cursor is None:
            break
        problem(admin.get("/v1/models", params={"cursor": cursor}), 422, "invalid")
    assert seen == [f"1.0.{number}" for number in reversed(range(5))]
    problem(admin.get("/v1/models", params={"cursor": "made up"}), 422, "invalid")
    problem(admin.get("/v1/models", params={"limit": "501"}), 422, "invalid")


@pytest.mark.parametrize(
    ("listing", "key"),
    [
        *[(listing, key) for listing in ("models", "devices", "tokens") for key in ("\ud800", 1, None, [], True)],
        *[("results", key) for key in (-1, 1 << 63, "1", 1.5)],
        *[("counts", key) for key in (1, "[1]", '["a","b"]', '["\\ud800","b","c"]', "[[],1,null]")],
    ],
)
def test_a_forged_cursor_is_refused(admin: httpx.Client, listing: str, key: object) -> None:
    cursor = base64.urlsafe_b64encode(json.dumps([listing, key]).encode()).decode().rstrip("=")
    problem(admin.get(f"/v1/{listing}", params={"cursor": cursor}), 422, "invalid")


def test_a_version_in_use_is_not_deleted(admin: httpx.Client) -> None:
    publish(admin, "used", "1", b"used")
    admin.put("/v1/models/used/aliases/stable", json={"version": "1"}, headers={"If-None-Match": "*"})
    body = problem(admin.delete("/v1/models/used/versions/1"), 409, "in_use")
    assert body["errors"] == ["alias stable points to used 1"]
    admin.put("/v1/devices/cam", json={})
    admin.put("/v1/devices/cam/deployments/used", json={"version": "stable"}).raise_for_status()
    admin.delete("/v1/models/used/aliases/stable").raise_for_status()
    body = problem(admin.delete("/v1/models/used/versions/1"), 409, "in_use")
    assert body["errors"] == ["device cam is assigned to used 1"]
    problem(admin.delete("/v1/models/used"), 409, "in_use")
    admin.delete("/v1/devices/cam/deployments/used").raise_for_status()
    assert admin.delete("/v1/models/used/versions/1").status_code == 204
    problem(admin.get("/v1/models/used/versions/1"), 404, "not_found")


def test_a_deleted_model_is_gone_with_its_versions(admin: httpx.Client) -> None:
    publish(admin, "gone", "1", b"gone")
    admin.put("/v1/models/gone/aliases/stable", json={"version": "1"}, headers={"If-None-Match": "*"})
    assert admin.delete("/v1/models/gone").status_code == 204
    problem(admin.get("/v1/models/gone"), 404, "not_found")
    problem(admin.get("/v1/models/gone/versions/1"), 404, "not_found")
    assert publish(admin, "gone", "1", b"something else").status_code == 201


def test_settings_of_a_model_change_alone(admin: httpx.Client) -> None:
    publish(admin, "recorded", "1", b"r")
    assert admin.patch("/v1/models/recorded", json={"record_results": True}).json()["record_results"] is True
    view = admin.patch("/v1/models/recorded", json={"result_retention_hours": 48}).json()
    assert (view["record_results"], view["result_retention_hours"]) == (True, 48)
    problem(admin.patch("/v1/models/recorded", json={"result_retention_hours": 0}), 422, "invalid")


@pytest.mark.parametrize(
    ("kind", "network", "says"),
    [
        ("onnx", {"name": "lenet5"}, "variant cpu: a network is for checkpoints, and onnx brings its own"),
        ("mindspore-ckpt", {"name": "lenet6"}, "variant cpu: no network is called 'lenet6'; the catalogue has "),
    ],
)
def test_a_network_that_cannot_be_built_is_refused(
    admin: httpx.Client, kind: str, network: dict[str, str], says: str
) -> None:
    put_blob(admin, b"weights of a network")
    manifest = manifest_of("networks", "1", b"weights of a network")
    manifest["variants"][0] |= {"format": kind, "network": network}
    body = problem(admin.put("/v1/models/networks/versions/1", json=manifest), 422, "invalid")
    assert body["errors"][0].startswith(says)
    assert admin.get("/v1/models/networks").status_code == 404
