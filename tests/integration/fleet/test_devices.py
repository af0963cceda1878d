"""Devices, deployments and desired documents over HTTP, on a real server and a real SQLite file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from registry.contracts.fit.platforms import Platform
from registry.contracts.wire import digest_of
from tests.support.clients.mqtt_device import now
from tests.support.programs.fleet_registry import FleetRegistry, eventually, facts

CPU = {"name": "cpu", "target": "cpu"}
GPU = {"name": "gpu", "target": "gpu"}


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FleetRegistry]:
    with FleetRegistry(tmp_path_factory.mktemp("registry"), None) as process:
        process.publish("lenet", "1.0.0", CPU, GPU)
        process.publish("lenet", "2.0.0", CPU)
        process.publish("gpu-only", "1.0.0", GPU)
        yield process


def with_gpu() -> dict[str, Any]:
    host = facts()
    host["backends"][0]["targets"] = ["cpu", "gpu"]
    return host


def register(registry: FleetRegistry, name: str, host: dict[str, Any] | None = None, **labels: str) -> dict[str, str]:
    """The headers of the device's own credential."""
    token = registry.ask("PUT", f"/v1/devices/{name}", {"labels": labels}, 201)["token"]
    headers = {"Authorization": f"Bearer {token}"}
    if host is not None:
        registry.ask("PUT", f"/v1/devices/{name}/facts", host, 204, headers=headers)
    return headers


def deploy(registry: FleetRegistry, device: str, model: str = "lenet", **body: Any) -> dict[str, Any]:
    return dict(registry.ask("PUT", f"/v1/devices/{device}/deployments/{model}", {"version": "1.0.0", **body}))


def desired(registry: FleetRegistry, device: str) -> dict[str, Any]:
    return dict(registry.ask("GET", f"/v1/devices/{device}/desired"))


def test_a_credential_is_shown_once_and_can_be_replaced(registry: FleetRegistry) -> None:
    headers = register(registry, "credential")
    assert "token" not in registry.ask("PUT", "/v1/devices/credential", {}, 200)
    path = "/v1/devices/credential/desired"
    registry.ask("GET", path, headers=headers)
    renewed = registry.ask("POST", "/v1/devices/credential/credential")["token"]
    assert registry.http.get(path, headers=headers).status_code == 401
    registry.ask("GET", path, headers={"Authorization": f"Bearer {renewed}"})
    registry.ask("DELETE", "/v1/devices/credential", status=204)
    assert registry.http.get(path, headers={"Authorization": f"Bearer {renewed}"}).status_code == 401


def test_a_device_acts_only_for_itself(registry: FleetRegistry) -> None:
    headers = register(registry, "self")
    register(registry, "other")
    for method, path, body in (
        ("GET", "/v1/devices/other/desired", None),
        ("GET", "/v1/devices/other", None),
        ("PUT", "/v1/devices/other/facts", facts()),
        ("POST", "/v1/devices/other/reports", {}),
        ("PUT", "/v1/devices/self", {}),
        ("PUT", "/v1/devices/self/deployments/lenet", {"version": "1.0.0"}),
        ("GET", "/v1/devices", None),
        ("GET", "/v1/results", None),
    ):
        registry.ask(method, path, body, 403, headers=headers)
    registry.ask("GET", "/v1/devices/self", headers=headers)


def test_devices_are_listed_by_label(registry: FleetRegistry) -> None:
    for name, site in (("l1", "paris"), ("l2", "paris"), ("l3", "oslo")):
        register(registry, name, site=site, kind="camera")
    paris = "/v1/devices?label=site=paris&label=kind=camera"
    assert [d["name"] for d in registry.ask("GET", paris)["items"]] == ["l1", "l2"]
    first = registry.ask("GET", paris + "&limit=1")
    assert [d["name"] for d in registry.ask("GET", f"{paris}&limit=1&cursor={first['next']}")["items"]] == ["l2"]
    registry.ask("PUT", "/v1/devices/l1", {"labels": {"site": "oslo"}}, 200)
    assert [d["name"] for d in registry.ask("GET", paris)["items"]] == ["l2"]
    registry.ask("GET", "/v1/devices?label=site", status=422)
    registry.ask("PUT", "/v1/devices/l1", {"labels": {"bad key": "x"}}, 422)


def test_the_best_variant_for_the_facts_is_chosen(registry: FleetRegistry) -> None:
    register(registry, "cpu-host", facts())
    register(registry, "gpu-host", with_gpu())
    assert deploy(registry, "cpu-host")["variant"] == "cpu"
    assert deploy(registry, "gpu-host")["variant"] == "gpu"
    assert desired(registry, "gpu-host")["models"]["lenet"]["variant"] == "gpu"


def test_without_facts_the_agent_chooses_until_they_come(registry: FleetRegistry) -> None:
    headers = register(registry, "unknown")
    assert deploy(registry, "unknown")["variant"] is None
    generation = desired(registry, "unknown")["generation"]
    registry.ask("PUT", "/v1/devices/unknown/facts", facts(), 204, headers=headers)
    document = desired(registry, "unknown")
    assert (document["generation"], document["models"]["lenet"]["variant"]) == (generation + 1, "cpu")


def test_a_look_that_failed_leaves_the_choice_as_it_was_until_something_is_known(registry: FleetRegistry) -> None:
    headers = register(registry, "flickering", with_gpu())
    deploy(registry, "flickering")
    assert desired(registry, "flickering")["models"]["lenet"]["variant"] == "gpu"
    generation = desired(registry, "flickering")["generation"]
    stalled = facts()
    stalled["backends"][0] |= {"usable": False, "unknown": True, "targets": [], "reason": "no answer within 20 s"}
    partial = facts()
    partial["backends"][0] |= {"unknown": True}
    for look in (stalled, partial):
        registry.ask("PUT", "/v1/devices/flickering/facts", look, 204, headers=headers)
        assert desired(registry, "flickering")["models"]["lenet"]["variant"] == "gpu"
        assert desired(registry, "flickering")["generation"] == generation
    registry.ask("PUT", "/v1/devices/flickering/facts", facts(), 204, headers=headers)
    assert desired(registry, "flickering")["models"]["lenet"]["variant"] == "cpu"


def test_new_facts_choose_anew_but_leave_what_was_pinned(registry: FleetRegistry) -> None:
    headers = register(registry, "changing", with_gpu())
    register(registry, "pinned", with_gpu())
    deploy(registry, "changing")
    deploy(registry, "pinned", variant="cpu")
    registry.ask("PUT", "/v1/devices/changing/facts", facts(), 204, headers=headers)
    assert desired(registry, "changing")["models"]["lenet"]["variant"] == "cpu"
    generation = desired(registry, "changing")["generation"]
    volatile = facts(disk_free_bytes=17, observed_at=now())
    registry.ask("PUT", "/v1/devices/changing/facts", volatile, 204, headers=headers)
    assert desired(registry, "changing")["generation"] == generation
    assert desired(registry, "pinned")["models"]["lenet"]["variant"] == "cpu"


def test_what_does_not_fit_is_refused_with_the_reasons_unless_forced(registry: FleetRegistry) -> None:
    register(registry, "too-small", facts())
    path = "/v1/devices/too-small/deployments/gpu-only"
    problem = registry.ask("PUT", path, {"version": "1.0.0"}, 409)
    assert problem["code"] == "conflict"
    assert "device_missing" in problem["errors"][0]
    assert desired(registry, "too-small").get("models", {}) == {}
    forced = deploy(registry, "too-small", "gpu-only", force=True)
    assert forced["variant"] is None
    assert "device_missing" in forced["note"]


def test_the_same_deployment_again_changes_nothing(registry: FleetRegistry) -> None:
    register(registry, "again", facts())
    first = deploy(registry, "again")
    answer = registry.http.get("/v1/devices/again/desired")
    assert deploy(registry, "again") | {"replaced": None} == first
    assert registry.http.get("/v1/devices/again/desired").content == answer.content
    assert deploy(registry, "again", version="2.0.0")["generation"] == first["generation"] + 1


def test_a_retry_is_a_higher_attempt_than_any_before_and_the_same_again_keeps_it(registry: FleetRegistry) -> None:
    registry.publish("again", "1.0.0", CPU)
    registry.publish("again", "2.0.0", CPU, content=b"other")
    registry.ask("PUT", "/v1/devices/d9", {}, 201)

    def attempt(**body: object) -> int:
        registry.ask("PUT", "/v1/devices/d9/deployments/again", body)
        model = registry.ask("GET", "/v1/devices/d9/desired")["models"]["again"]
        return int(model.get("attempt", 0))

    assert attempt(version="1.0.0") == 0
    first = attempt(version="1.0.0", retry=True)
    assert first > 0
    assert attempt(version="1.0.0") == first
    assert attempt(version="2.0.0") == 0
    assert attempt(version="1.0.0", retry=True) > first


def test_an_alias_is_resolved_once(registry: FleetRegistry) -> None:
    register(registry, "aliased", facts())
    alias = "/v1/models/lenet/aliases/stable"
    registry.ask("PUT", alias, {"version": "1.0.0"}, headers={"If-None-Match": "*"})
    assert deploy(registry, "aliased", version="stable")["version"] == "1.0.0"
    registry.ask("PUT", alias, {"version": "2.0.0"}, headers={"If-Match": '"1"'})
    assert desired(registry, "aliased")["models"]["lenet"]["version"] == "1.0.0"
    assert deploy(registry, "aliased", version="stable")["version"] == "2.0.0"


def test_what_is_not_there_cannot_be_deployed(registry: FleetRegistry) -> None:
    register(registry, "strict", facts())
    for device, model, version, status in (
        ("nobody", "lenet", "1.0.0", 404),
        ("strict", "nothing", "1.0.0", 404),
        ("strict", "lenet", "9.9.9", 404),
        ("strict", "lenet", "not a version", 422),
    ):
        registry.ask("PUT", f"/v1/devices/{device}/deployments/{model}", {"version": version}, status)
    registry.ask("PUT", "/v1/devices/strict/deployments/lenet", {"version": "1.0.0", "variant": "npu"}, 422)
    registry.ask("DELETE", "/v1/devices/strict/deployments/lenet", status=404)


def test_a_removed_deployment_leaves_the_document(registry: FleetRegistry) -> None:
    register(registry, "emptied", facts())
    generation = deploy(registry, "emptied")["generation"]
    assert len(registry.ask("GET", "/v1/devices/emptied/deployments")["items"]) == 1
    registry.ask("DELETE", "/v1/devices/emptied/deployments/lenet", status=204)
    document = desired(registry, "emptied")
    assert (document["generation"], document.get("models", {})) == (generation + 1, {})
    assert registry.ask("GET", "/v1/devices/emptied/deployments")["items"] == []


def test_an_unchanged_document_is_answered_304(registry: FleetRegistry) -> None:
    register(registry, "polling", facts())
    answer = registry.http.get("/v1/devices/polling/desired")
    assert answer.headers["etag"] == f'"{digest_of(answer.content)}"'
    again = {"If-None-Match": answer.headers["etag"]}
    assert registry.http.get("/v1/devices/polling/desired", headers=again).status_code == 304
    deploy(registry, "polling")
    assert registry.http.get("/v1/devices/polling/desired", headers=again).status_code == 200
    assert registry.http.get("/v1/devices/nobody/desired").status_code == 404
    assert registry.http.get("/v1/devices/No%20Name/desired").status_code == 422


def test_a_device_that_returns_goes_on_counting_generations(registry: FleetRegistry) -> None:
    register(registry, "phoenix", facts())
    generation = deploy(registry, "phoenix")["generation"]
    registry.ask("DELETE", "/v1/devices/phoenix", status=204)
    assert registry.http.get("/v1/devices/phoenix/desired").status_code == 404
    register(registry, "phoenix")
    document = desired(registry, "phoenix")
    assert document["generation"] > generation
    assert document.get("models", {}) == {}


def test_reports_over_http_are_the_same_as_over_mqtt(registry: FleetRegistry) -> None:
    headers = register(registry, "reporter")
    deploy(registry, "reporter")
    digest = Platform.model_validate(facts()).facts_digest()
    reported = {"device": "reporter", "session_id": "s", "generation": 1, "at": now(), "facts_digest": digest}
    base = {"device": "reporter", "session_id": "s", "at": now(), "window_s": 1.0, "uptime_s": 1.0}
    models = {"lenet": {"version": "1.0.0", "requests": 12}}
    body = {
        "reported": reported | {"facts": facts()},
        "health": [base | {"seq": 1, "models": models}],
        "events": [{"event_id": "e", "seq": 1, "at": now(), "kind": "agent"}],
    }
    for _ in range(2):
        registry.ask("POST", "/v1/devices/reporter/reports", body, 204, headers=headers)
    assert len(registry.ask("GET", "/v1/devices/reporter/events")["items"]) == 1
    assert len(registry.ask("GET", "/v1/devices/reporter/health")["items"]) == 1
    assert [c["requests"] for c in registry.ask("GET", "/v1/counts?device=reporter")["items"]] == [12]
    assert desired(registry, "reporter")["models"]["lenet"]["variant"] == "cpu"
    half = rb'{"os": "linux", "arch": "x86_64", "extra": "\ud800"}'
    json_type = {**headers, "Content-Type": "application/json"}
    assert registry.http.put("/v1/devices/reporter/facts", content=half, headers=json_type).status_code == 422
    registry.ask("PUT", "/v1/devices/reporter/facts", facts(extra="x" * (1 << 18)), 422, headers=headers)
    foreign = {"health": [base | {"seq": 2, "device": "other"}]}
    registry.ask("POST", "/v1/devices/reporter/reports", foreign, 422, headers=headers)


def test_counts_are_paged(registry: FleetRegistry) -> None:
    headers = register(registry, "counted")
    base = {"device": "counted", "session_id": "s", "at": now(), "window_s": 1.0, "uptime_s": 1.0, "seq": 1}
    models = {f"m{number}": {"version": "1", "requests": number} for number in range(1, 6)}
    registry.ask("POST", "/v1/devices/counted/reports", {"health": [base | {"models": models}]}, headers=headers)
    seen: list[str] = []
    path = "/v1/counts?device=counted&limit=2"
    cursor = ""
    while cursor is not None:
        page = registry.ask("GET", path + (f"&cursor={cursor}" if cursor else ""))
        seen += [count["model"] for count in page["items"]]
        cursor = page.get("next")
    assert seen == ["m1", "m2", "m3", "m4", "m5"]


def test_a_models_setting_reaches_the_documents_of_its_devices(registry: FleetRegistry) -> None:
    register(registry, "recorded", facts())
    deploy(registry, "recorded", version="2.0.0")
    registry.ask("PATCH", "/v1/models/lenet", {"record_results": True})
    eventually(lambda: desired(registry, "recorded")["models"]["lenet"].get("record_results"))
    registry.ask("PATCH", "/v1/models/lenet", {"record_results": False})
    eventually(lambda: not desired(registry, "recorded")["models"]["lenet"].get("record_results"))


def test_a_version_that_a_device_should_serve_is_not_deleted(registry: FleetRegistry) -> None:
    register(registry, "holding", facts())
    deploy(registry, "holding", version="2.0.0")
    assert registry.http.delete("/v1/models/lenet/versions/2.0.0").json()["code"] == "in_use"


def test_the_document_survives_a_kill(tmp_path: Path) -> None:
    with FleetRegistry(tmp_path, None) as registry:
        registry.publish("lenet", "1.0.0", CPU)
        register(registry, "d1", facts())
        deploy(registry, "d1")
        before = registry.http.get("/v1/devices/d1/desired").content
        registry.process.kill()
        registry.process.start()
        assert registry.http.get("/v1/devices/d1/desired").content == before
