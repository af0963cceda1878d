"""Validation sets, what versions scored on them, and parity by device: over HTTP, from real reports."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from typing import Any

import httpx
import numpy as np
import pytest

from registry.contracts.evaluation import LABELS
from registry.contracts.paths import (
    dataset_path,
    datasets_path,
    deployment_path,
    desired_path,
    device_path,
    evaluations_path,
    jobs_path,
    parity_path,
    reports_path,
)
from registry.contracts.tensor_file import Tensor, write_tensors
from registry.contracts.tensors import Datatype
from tests.support.host.postgres import Databases
from tests.support.programs.fleet_registry import FleetRegistry
from tests.support.programs.registry_process import put_blob

NOW = datetime(2026, 5, 1, tzinfo=timezone.utc)
PARITY = {"cases": 4, "max_abs": 2e-6, "max_rel": 1e-5, "top1_agreement": 1.0, "passed": True, "run_us": 40.0}


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory, databases: Databases) -> Iterator[FleetRegistry]:
    """One registry without a broker for this file: devices report over HTTP."""
    folder = tmp_path_factory.mktemp("registry")
    with FleetRegistry(folder, None, **databases.environment()) as registry:
        yield registry


def validation_set(items: int = 3, **changes: Tensor) -> bytes:
    tensors = {
        "in/x": Tensor(Datatype.FP32, (items, 2), bytes(8 * items)),
        LABELS: Tensor(Datatype.INT64, (items,), np.zeros(items, "<i8").tobytes()),
    }
    return write_tensors({**tensors, **changes})


def put(registry: FleetRegistry, name: str, content: bytes, status: int | None = None) -> Any:
    body = {"digest": put_blob(registry.http, content), "size": len(content)}
    return registry.ask("PUT", dataset_path(name), body, status)


def test_a_validation_set_is_published_once_and_never_changes(fleet: FleetRegistry) -> None:
    view = put(fleet, "digits", validation_set(), 201)
    assert view["items"] == 3
    assert [spec["name"] for spec in view["tensors"]] == ["in/x", "labels"]
    assert put(fleet, "digits", validation_set(), 200) == view
    assert put(fleet, "digits", validation_set(4), 409)["code"] == "conflict"
    assert "digits" in [item["name"] for item in fleet.ask("GET", datasets_path())["items"]]
    fleet.ask("DELETE", dataset_path("digits"), status=204)
    fleet.ask("GET", dataset_path("digits"), status=404)
    assert put(fleet, "digits", validation_set(4), 201)["items"] == 4


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"not one", "no validation set"),
        (validation_set(labels=Tensor(Datatype.FP32, (3,), bytes(12))), "labels are FP32"),
        (validation_set(labels=Tensor(Datatype.INT8, (3, 1), bytes(3))), "labels are [3, 1]"),
        (validation_set(labels=Tensor(Datatype.INT8, (2,), bytes(2))), "same number of items"),
        (validation_set(labels=Tensor(Datatype.INT8, (), bytes(1))), "same number of items"),
        (validation_set(x=Tensor(Datatype.INT8, (3,), bytes(3))), "nothing else"),
        (write_tensors({"in/x": Tensor(Datatype.INT8, (3,), bytes(3))}), "labels"),
        (validation_set(0), "same number of items"),
        (validation_set(labels=Tensor(Datatype.INT8, (3,), b"\0\xff\0")), "the label of item 1 is -1"),
        (validation_set(labels=Tensor(Datatype.INT64, (3,), np.array([2, 1, -(1 << 63)], "<i8").tobytes())), "item 2"),
    ],
)
def test_a_blob_that_is_no_validation_set_is_refused(fleet: FleetRegistry, content: bytes, says: str) -> None:
    assert says in put(fleet, "bad", content, 422)["detail"]
    fleet.ask("PUT", dataset_path("bad"), {"digest": "sha256:" + "0" * 64, "size": 9}, 422)


def test_labels_without_a_sign_may_be_large(fleet: FleetRegistry) -> None:
    assert put(fleet, "large", validation_set(labels=Tensor(Datatype.UINT8, (3,), b"\xff\0\x80")), 201)["items"] == 3


def test_only_the_newest_score_of_a_variant_on_a_device_counts(fleet: FleetRegistry) -> None:
    fleet.publish("scored", "1", {"name": "a", "target": "cpu"}, {"name": "b", "target": "gpu"})
    put(fleet, "scores", validation_set(5))
    said = {"dataset": "scores", "metric": "accuracy", "items": 5, "backend": "onnxruntime/CPU", "seconds": 0.5}
    path = evaluations_path("scored", "1")
    for variant, value in (("a", 0.4), ("b", 0.8), ("a", 0.6)):
        fleet.ask("POST", path, {**said, "variant": variant, "value": value}, 201)
    fleet.ask("POST", path, {**said, "variant": "a", "value": 1.0, "metric": "top5"}, 201)
    found = fleet.ask("GET", path)["items"]
    assert [(item["variant"], item["metric"], item["value"], item["device"]) for item in found] == [
        ("a", "top5", 1.0, None),
        ("a", "accuracy", 0.6, None),
        ("b", "accuracy", 0.8, None),
    ]
    for wrong in ({"variant": "c"}, {"metric": "luck"}, {"value": 2}, {"items": 0}):
        fleet.ask("POST", path, {**said, "variant": "a", "value": 0.5, **wrong}, 422)
    fleet.ask("POST", path, {**said, "variant": "a", "value": 0.5, "dataset": "absent"}, 404)


def device(fleet: FleetRegistry, name: str) -> httpx.Client:
    token = fleet.ask("PUT", device_path(name), {}, 201)["token"]
    return fleet.process.client(token)


def report(client: httpx.Client, name: str, seconds: int = 0, **body: Any) -> None:
    reported = {
        "device": name,
        "session_id": "s",
        "generation": 0,
        "at": (NOW + timedelta(seconds=seconds)).isoformat(),
        "facts_digest": "sha256:" + "0" * 64,
        **body,
    }
    answer = client.post(reports_path(name), json={"reported": reported})
    assert answer.json() == {"facts_wanted": True}, answer.text  # this device told none


def test_a_devices_job_leaves_its_score_with_the_version(fleet: FleetRegistry) -> None:
    fleet.publish("judged", "1", {"name": "a", "target": "cpu"})
    view = put(fleet, "judges", validation_set(7))
    with device(fleet, "judge") as client:
        request = {"device": "judge", "kind": "evaluate", "model": "judged", "version": "1", "metric": "accuracy"}
        fleet.ask("POST", jobs_path(), request, 422)
        request |= {"dataset": view["digest"], "dataset_bytes": view["size"]}
        job = fleet.ask("POST", jobs_path(), request, 201)["id"]
        desired = client.get(desired_path("judge")).json()
        assert desired["jobs"][job]["dataset_bytes"] == view["size"]
        result = {"metric": "accuracy", "value": 0.75, "items": 7, "variant": "a", "backend": "x/y", "seconds": 1.5}
        report(client, "judge", jobs={job: {"state": "succeeded", "result": result}})
        (found,) = fleet.ask("GET", evaluations_path("judged", "1"))["items"]
        assert (found["device"], found["variant"], found["value"], found["items"]) == ("judge", "a", 0.75, 7)
        assert (found["dataset"], found["backend"], found["seconds"]) == ("judges", "x/y", 1.5)

        broken = fleet.ask("POST", jobs_path(), request, 201)["id"]
        report(client, "judge", 1, jobs={broken: {"state": "succeeded", "result": {"value": "a lot"}}})
        assert len(fleet.ask("GET", evaluations_path("judged", "1"))["items"]) == 1


def test_a_devices_score_has_the_name_that_was_asked_for_where_two_sets_have_the_same_content(
    fleet: FleetRegistry,
) -> None:
    fleet.publish("doubled", "1", {"name": "a", "target": "cpu"})
    for name in ("double-a", "double-b"):
        view = put(fleet, name, validation_set(9))
    request = {"device": "doubler", "kind": "evaluate", "model": "doubled", "version": "1", "metric": "accuracy"}
    request |= {"dataset": view["digest"], "dataset_bytes": view["size"]}
    result = {"metric": "accuracy", "value": 0.5, "items": 9, "variant": "a", "backend": "x/y", "seconds": 1.5}
    with device(fleet, "doubler") as client:
        for second, name in enumerate(("double-b", "double-a", "double-b")):
            job = fleet.ask("POST", jobs_path(), {**request, "dataset_name": name}, 201)["id"]
            report(client, "doubler", second, jobs={job: {"state": "succeeded", "result": result}})
            (found,) = fleet.ask("GET", evaluations_path("doubled", "1"))["items"]
            assert (found["dataset"], found["dataset_digest"]) == (name, view["digest"])
    other = put(fleet, "double-c", validation_set(10))
    fleet.ask("POST", jobs_path(), {**request, "dataset_name": "absent"}, 404)
    assert other["digest"] in fleet.ask("POST", jobs_path(), {**request, "dataset_name": "double-c"}, 422)["detail"]


def test_parity_is_shown_by_variant_and_device_from_the_newest_report(fleet: FleetRegistry) -> None:
    fleet.publish("equal", "1", {"name": "a", "target": "cpu"})  # the publisher's own: test_publish_golden
    manifest = fleet.ask("GET", "/v1/models/equal/versions/1")["manifest"]
    with device(fleet, "edge") as client:
        fleet.ask("PUT", deployment_path("edge", "equal"), {"version": "1", "force": True})
        slot: dict[str, Any] = {"state": "serving", "version": "1", "manifest": manifest, "variant": "a"}
        report(client, "edge", models={"equal": {**slot, "backend": "acl/310", "parity": {**PARITY, "max_abs": 0.5}}})
        rows = fleet.ask("GET", parity_path("equal", "1"))["items"]
        assert [(row["variant"], row["device"], row["backend"], row["parity"]["max_abs"]) for row in rows] == [
            ("a", "edge", "acl/310", 0.5),
        ]
        failed = {
            "version": "1",
            "manifest": manifest,
            "phase": "failed",
            "since": NOW.isoformat(),
            "variant": "a",
            "parity": {**PARITY, "passed": False, "why": "far off"},
        }
        report(client, "edge", 1, models={"equal": {"state": "failed", "deployment": failed}})
        rows = fleet.ask("GET", parity_path("equal", "1"))["items"]
        assert (rows[0]["device"], rows[0]["parity"]["passed"], rows[0]["parity"]["why"]) == ("edge", False, "far off")
    fleet.ask("GET", parity_path("equal", "2"), status=404)
