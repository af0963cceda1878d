"""Jobs over HTTP, on a real server: given, reported, cancelled; what a device may upload, and what comes of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from registry.contracts.catalogue.manifest import Manifest
from registry.contracts.golden_vectors import Case, write_cases
from registry.contracts.tensor_file import Tensor
from registry.contracts.tensors import Datatype
from registry.contracts.wire import digest_of
from tests.support.clients.mqtt_device import now
from tests.support.programs.fleet_registry import FleetRegistry, facts
from tests.support.programs.registry_process import put_blob

CPU = {"name": "cpu", "target": "cpu"}
MADE = b"the quantized model"


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FleetRegistry]:
    with FleetRegistry(tmp_path_factory.mktemp("registry"), None) as process:
        process.publish("lenet", "1.0.0", CPU)
        yield process


def register(registry: FleetRegistry, name: str) -> dict[str, str]:
    token = registry.ask("PUT", f"/v1/devices/{name}", {}, 201)["token"]
    headers = {"Authorization": f"Bearer {token}"}
    registry.ask("PUT", f"/v1/devices/{name}/facts", facts(), 204, headers=headers)
    return headers


def convert(registry: FleetRegistry, device: str, version: str = "1.0.0", **more: Any) -> dict[str, Any]:
    body = {"device": device, "kind": "convert", "model": "lenet", "version": version, "to": "onnx", **more}
    return dict(registry.ask("POST", "/v1/jobs", body, 201))


def desired(registry: FleetRegistry, device: str) -> dict[str, Any]:
    return dict(registry.ask("GET", f"/v1/devices/{device}/desired"))


def report(registry: FleetRegistry, device: str, headers: dict[str, str], job: str, **status: Any) -> None:
    body = {
        "device": device,
        "session_id": "s",
        "generation": 1,
        "at": now(),
        "facts_digest": digest_of(b""),
        "jobs": {job: status},
    }
    registry.ask("POST", f"/v1/devices/{device}/reports", {"reported": body}, headers=headers)


def variant_of(registry: FleetRegistry, device: str | None, version: str = "1.0.0", **more: Any) -> dict[str, Any]:
    digest = registry.ask("GET", f"/v1/models/lenet/versions/{version}")["manifest"]
    parent = Manifest.model_validate(registry.ask("GET", f"/v1/manifests/{digest}")).variants[0].canonical_digest()
    build = {"parent": parent, "tool": "onnxruntime-quantize", **({"built_on": device} if device else {})}
    file = {"path": "model.onnx", "digest": digest_of(MADE), "size": len(MADE)}
    return {**CPU, "name": "cpu-int8", "format": "onnx", "entry": "model.onnx", "files": [file], "build": build, **more}


def test_a_job_stands_in_the_desired_document_until_the_device_says_that_it_is_over(registry: FleetRegistry) -> None:
    headers = register(registry, "worker")
    before = desired(registry, "worker")["generation"]
    job = convert(registry, "worker", options={"mode": "dynamic"})
    document = desired(registry, "worker")
    assert document["generation"] == before + 1
    assert document["jobs"][job["id"]]["options"] == {"mode": "dynamic"}
    report(registry, "worker", headers, job["id"], state="running", done=0.5)
    assert registry.ask("GET", f"/v1/jobs/{job['id']}", headers=headers)["status"]["done"] == 0.5
    report(registry, "worker", headers, job["id"], state="failed", code="tool_failed", message="no")
    view = registry.ask("GET", f"/v1/jobs/{job['id']}")
    assert (view["status"]["state"], view["status"]["code"]) == ("failed", "tool_failed")
    assert desired(registry, "worker").get("jobs", {}) == {}
    report(registry, "worker", headers, job["id"], state="running")
    assert registry.ask("GET", f"/v1/jobs/{job['id']}")["status"]["state"] == "failed"


def test_a_cancelled_job_leaves_the_document_and_stays_cancelled(registry: FleetRegistry) -> None:
    headers = register(registry, "cancelling")
    job = convert(registry, "cancelling")
    assert registry.ask("DELETE", f"/v1/jobs/{job['id']}")["status"]["state"] == "cancelled"
    assert desired(registry, "cancelling").get("jobs", {}) == {}
    report(registry, "cancelling", headers, job["id"], state="succeeded")
    assert registry.ask("GET", f"/v1/jobs/{job['id']}")["status"]["state"] == "cancelled"
    listed = registry.ask("GET", "/v1/jobs?device=cancelling&over=true")["items"]
    assert [item["id"] for item in listed] == [job["id"]]


def test_a_device_has_a_bounded_number_of_jobs(registry: FleetRegistry) -> None:
    register(registry, "busy")
    jobs = [convert(registry, "busy") for _ in range(16)]
    body = {"device": "busy", "kind": "convert", "model": "lenet", "version": "1.0.0", "to": "onnx"}
    assert "16 jobs" in registry.ask("POST", "/v1/jobs", body, 503)["detail"]
    registry.ask("DELETE", f"/v1/jobs/{jobs[0]['id']}")
    registry.ask("POST", "/v1/jobs", body, 201)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"device": "nobody"}, 404),
        ({"model": "unknown"}, 404),
        ({"source": "no-such-variant"}, 422),
        ({"to": None}, 422),
        ({"kind": "evaluate"}, 422),
        ({"options": {"x": "y" * 9000}}, 422),
        ({"timeout_s": 0}, 422),
    ],
)
def test_a_job_that_cannot_be_done_is_refused_when_it_is_given(
    registry: FleetRegistry, body: dict[str, Any], status: int
) -> None:
    registry.ask("PUT", "/v1/devices/careful", {})
    whole = {"device": "careful", "kind": "convert", "model": "lenet", "version": "1.0.0", "to": "onnx", **body}
    registry.ask("POST", "/v1/jobs", whole, status)
    assert desired(registry, "careful").get("jobs", {}) == {}


def test_a_device_uploads_only_what_its_own_running_job_offered_and_the_version_is_extended(
    registry: FleetRegistry,
) -> None:
    headers, other = register(registry, "maker"), register(registry, "stranger")
    registry.publish("lenet", "2.0.0", CPU, content=b"two")
    first = registry.ask("GET", "/v1/models/lenet/versions/2.0.0")
    original = registry.http.get(f"/v1/manifests/{first['manifest']}").content
    upload = {"digest": digest_of(MADE), "size": len(MADE)}
    registry.ask("POST", "/v1/uploads", upload, 403, headers=headers)
    job = convert(registry, "maker", "2.0.0")
    offer = {"variant": variant_of(registry, "maker", "2.0.0")}
    path = f"/v1/jobs/{job['id']}/variant"
    registry.ask("PUT", path, offer, 403, headers=other)
    missing = registry.ask("PUT", path, offer, 200, headers=headers)["missing"]
    assert [file["digest"] for file in missing] == [digest_of(MADE)]
    registry.ask("POST", "/v1/uploads", {**upload, "size": 1 << 20}, 403, headers=headers)
    registry.ask("POST", "/v1/uploads", upload, 403, headers=other)
    assert put_blob(registry.http, MADE, headers=headers) == digest_of(MADE)
    extended = registry.ask("PUT", path, offer, 200, headers=headers)["manifest"]
    assert registry.ask("PUT", path, offer, 200, headers=headers)["manifest"] == extended
    view = registry.ask("GET", "/v1/models/lenet/versions/2.0.0")
    assert (view["manifest"], view["revision"]) == (extended, 1)
    assert [variant["name"] for variant in view["variants"]] == ["cpu", "cpu-int8"]
    manifest = Manifest.model_validate(registry.ask("GET", f"/v1/manifests/{extended}"))
    assert manifest.extends == first["manifest"]
    assert registry.http.get(f"/v1/manifests/{first['manifest']}").content == original
    again = registry.ask("PUT", "/v1/models/lenet/versions/2.0.0", Manifest.model_validate_json(original).to_json())
    assert again["created"] is False
    report(registry, "maker", headers, job["id"], state="succeeded")
    registry.ask("PUT", path, offer, 403, headers=headers)
    registry.ask("POST", "/v1/uploads", {**upload, "digest": digest_of(b"x")}, 403, headers=headers)


def test_a_job_to_make_one_variant_does_not_let_its_device_add_others(registry: FleetRegistry) -> None:
    headers = register(registry, "greedy")
    registry.publish("lenet", "5.0.0", CPU, content=b"five")
    put_blob(registry.http, MADE)
    path = f"/v1/jobs/{convert(registry, 'greedy', '5.0.0')['id']}/variant"
    first = {"variant": variant_of(registry, "greedy", "5.0.0")}
    assert registry.ask("PUT", path, first, 200, headers=headers)["manifest"]
    second = {"variant": {**first["variant"], "name": "also"}}
    assert "made cpu-int8 already" in registry.ask("PUT", path, second, 422, headers=headers)["detail"]
    other = variant_of(registry, "greedy", "5.0.0", entry="other.onnx")
    other["files"][0]["path"] = "other.onnx"
    assert "made on greedy" in registry.ask("PUT", path, {"variant": other}, 409, headers=headers)["detail"]
    assert registry.ask("GET", "/v1/models/lenet/versions/5.0.0")["revision"] == 1


def test_the_jobs_of_a_device_that_is_removed_go_with_it(registry: FleetRegistry) -> None:
    headers = register(registry, "removed")
    job = convert(registry, "removed")["id"]
    registry.ask("DELETE", "/v1/devices/removed", None, 204)
    registry.ask("GET", f"/v1/jobs/{job}", None, 404)
    registry.ask("PUT", f"/v1/jobs/{job}/variant", {"variant": variant_of(registry, "removed")}, 401, headers=headers)
    register(registry, "removed")
    assert desired(registry, "removed").get("jobs", {}) == {}


def test_a_deployment_made_before_keeps_its_manifest_and_a_new_one_gets_the_newest(registry: FleetRegistry) -> None:
    headers = register(registry, "early")
    register(registry, "late")
    registry.publish("lenet", "3.0.0", CPU, content=b"three")
    registry.ask("PUT", "/v1/devices/early/deployments/lenet", {"version": "3.0.0"})
    put_blob(registry.http, MADE)
    offer = {"variant": variant_of(registry, None, "3.0.0")}
    extended = registry.ask("PUT", "/v1/models/lenet/versions/3.0.0/variants/cpu-int8", offer)["manifest"]
    registry.ask("PUT", "/v1/devices/late/deployments/lenet", {"version": "3.0.0"})
    kept = desired(registry, "early")["models"]["lenet"]["manifest"]
    assert kept != extended
    assert desired(registry, "late")["models"]["lenet"]["manifest"] == extended
    no_onnx = facts(backends=[])
    registry.ask("PUT", "/v1/devices/early/facts", no_onnx, 204, headers=headers)
    after = desired(registry, "early")["models"]["lenet"]
    assert (after["manifest"], after.get("variant")) == (kept, None)


def tensor(name: str, datatype: str) -> list[dict[str, Any]]:
    return [{"name": name, "datatype": datatype, "shape": [-1, 10]}]


PARITY = {"cases": 1, "max_abs": 0.5, "max_rel": 2.0, "passed": False}


@pytest.mark.parametrize(
    ("change", "status", "says"),
    [
        ({"build": None}, 422, "made from"),
        ({"build": {"parent": digest_of(b"unknown"), "tool": "atc"}}, 422, "made from"),
        ({"name": "cpu"}, 409, "never"),
        ({"inputs": tensor("x", "INT8"), "outputs": tensor("y", "FP32")}, 422, "disagree in inputs"),
        ({"parity": {"parity": PARITY, "backend": "onnxruntime/CPUExecutionProvider"}}, 422, "golden"),
    ],
)
def test_a_variant_that_does_not_fit_the_version_is_not_added(
    registry: FleetRegistry, change: dict[str, Any], status: int, says: str
) -> None:
    content = b"four"
    file = {"path": "model.onnx", "digest": put_blob(registry.http, content), "size": len(content)}
    variant = {**CPU, "format": "onnx", "entry": "model.onnx", "files": [file]}
    signature = {"inputs": tensor("x", "FP32"), "outputs": tensor("y", "FP32")}
    zeros = Tensor(Datatype.FP32, (1, 10), bytes(40))
    vectors = write_cases([Case({"x": zeros}, {"y": zeros})])
    golden_file = {"path": "golden.safetensors", "digest": put_blob(registry.http, vectors), "size": len(vectors)}
    golden = {"file": golden_file, "cases": 1}
    manifest = {"model": "lenet", "version": "4.0.0", "variants": [{**variant, **signature}], "golden": golden}
    registry.ask("PUT", "/v1/models/lenet/versions/4.0.0", manifest)
    offered = variant_of(registry, None, "4.0.0", **{**signature, **change})
    path = f"/v1/models/lenet/versions/4.0.0/variants/{offered['name']}"
    answer = registry.ask("PUT", path, {"variant": offered}, status)
    assert says in answer["detail"] + " ".join(answer["errors"])
    assert registry.ask("GET", "/v1/models/lenet/versions/4.0.0")["revision"] == 0
