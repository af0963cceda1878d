"""Rollouts over HTTP: a real server with its scheduler, and a device that reports over HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from registry.contracts.fit.platforms import Platform
from tests.support.clients.mqtt_device import now
from tests.support.host.postgres import Databases
from tests.support.programs.fleet_registry import FleetRegistry, eventually, facts

CPU = {"name": "cpu", "target": "cpu"}
SPEC = {
    "model": "lenet",
    "version": "2.0.0",
    "fleet": {"selector": "site=paris"},
    "waves": [{"percent": 100, "soak_s": 0}],
    "gate": {"health": []},
}


@pytest.fixture
def registry(tmp_path: Path, databases: Databases) -> Iterator[FleetRegistry]:
    with FleetRegistry(tmp_path, None, **databases.environment()) as process:
        process.publish("lenet", "1.0.0", CPU)
        process.publish("lenet", "2.0.0", CPU, content=b"other")
        yield process


def register(registry: FleetRegistry, name: str) -> dict[str, str]:
    token = registry.ask("PUT", f"/v1/devices/{name}", {"labels": {"site": "paris"}}, 201)["token"]
    headers = {"Authorization": f"Bearer {token}"}
    registry.ask("PUT", f"/v1/devices/{name}/facts", facts(), 204, headers=headers)
    registry.ask("PUT", f"/v1/devices/{name}/deployments/lenet", {"version": "1.0.0"})
    return headers


def commit(registry: FleetRegistry, name: str, headers: dict[str, str]) -> None:
    """The device says that it serves what it is told to."""
    document = registry.ask("GET", f"/v1/devices/{name}/desired", headers=headers)
    wanted = document["models"]["lenet"]
    progress = {key: wanted.get(key) for key in ("version", "manifest", "rollout")}
    progress |= {"attempt": wanted.get("attempt", 0), "phase": "committed", "since": now()}
    model = {"state": "serving", "version": wanted["version"], "manifest": wanted["manifest"], "deployment": progress}
    digest = Platform.model_validate(facts()).facts_digest()
    reported = {"device": name, "session_id": "s", "generation": document["generation"], "at": now()}
    body = {"reported": {**reported, "facts_digest": digest, "models": {"lenet": model}}}
    registry.ask("POST", f"/v1/devices/{name}/reports", body, 204, headers=headers)


def command(registry: FleetRegistry, rollout: str, name: str, status: int | None = None, **more: Any) -> Any:
    revision = registry.ask("GET", f"/v1/rollouts/{rollout}")["revision"]
    return registry.ask(
        "POST", f"/v1/rollouts/{rollout}/commands", {"command": name, "revision": revision, **more}, status
    )


def state(registry: FleetRegistry, rollout: str) -> str:
    return str(registry.ask("GET", f"/v1/rollouts/{rollout}")["state"])


def test_a_rollout_from_its_draft_to_its_end_and_back(registry: FleetRegistry) -> None:
    headers = {name: register(registry, name) for name in ("h1", "h2")}
    plan = registry.ask("POST", "/v1/rollout-plans", SPEC)
    assert (plan["devices"], plan["total_bytes"], plan["waves"][0]["label"]) == (2, 10, "100%")
    draft = registry.ask("POST", "/v1/rollouts", SPEC, 201, headers={"Idempotency-Key": "once"})
    again = registry.ask("POST", "/v1/rollouts", SPEC, 201, headers={"Idempotency-Key": "once"})
    assert again == draft
    assert [r["id"] for r in registry.ask("GET", "/v1/rollouts?model=lenet&state=draft")["items"]] == [draft["id"]]
    rollout = draft["id"]
    command(registry, rollout, "submit")
    eventually(lambda: registry.ask("GET", f"/v1/rollouts/{rollout}").get("counts") == {"offered": 2})
    action = registry.ask("GET", f"/v1/rollouts/{rollout}/devices/h1")
    assert (action["state"], action["variant"], action["previous"]) == ("offered", "cpu", "1.0.0")
    assert "device itself" in action["why"]
    for name, credential in headers.items():
        commit(registry, name, credential)
    eventually(lambda: state(registry, rollout) == "succeeded")
    page = registry.ask("GET", f"/v1/rollouts/{rollout}/devices?state=committed&limit=1")
    assert [item["device"] for item in page["items"]] == ["h1"]
    rest = registry.ask("GET", f"/v1/rollouts/{rollout}/devices?state=committed&limit=1&cursor={page['next']}")
    assert [item["device"] for item in rest["items"]] == ["h2"]
    command(registry, rollout, "rollback")
    eventually(lambda: registry.ask("GET", "/v1/devices/h1/desired")["models"]["lenet"]["version"] == "1.0.0")
    for name, credential in headers.items():
        commit(registry, name, credential)
    eventually(lambda: state(registry, rollout) == "rolled_back")
    history = registry.ask("GET", f"/v1/rollouts/{rollout}/history")["items"]
    assert [entry["cause"] for entry in history][-2:] == ["submit", "create"]
    metrics = registry.http.get("/metrics").text
    assert 'modelfleet_rollouts{state="rolled_back"} 1.0' in metrics


def test_a_command_is_refused_with_what_is_legal_and_for_another_revision(registry: FleetRegistry) -> None:
    register(registry, "h1")
    rollout = registry.ask("PUT", "/v1/rollouts/spring", SPEC, 201)["id"]
    assert registry.ask("PUT", "/v1/rollouts/spring", SPEC, 200)["id"] == rollout
    answer = registry.http.get("/v1/rollouts/spring")
    assert answer.headers["etag"] == f'"{answer.json()["revision"]}"'
    assert command(registry, "spring", "pause", 409)["errors"] == ["submit", "delete"]
    body = {"command": "submit", "revision": 99}
    registry.ask("POST", "/v1/rollouts/spring/commands", body, 412)
    command(registry, "spring", "delete")
    registry.ask("GET", "/v1/rollouts/spring", status=404)


def test_what_is_no_spec_is_refused(registry: FleetRegistry) -> None:
    for change, status in (
        ({"fleet": {"selector": "a=="}}, 422),
        ({"fleet": {}}, 422),
        ({"fleet": {"groups": ["none"]}}, 404),
        ({"version": "9.9.9"}, 404),
        ({"waves": [{"percent": 50}]}, 422),
    ):
        registry.ask("POST", "/v1/rollouts", {**SPEC, **change}, status)


def test_a_misspelt_field_of_a_spec_is_refused_by_its_name(registry: FleetRegistry) -> None:
    misspelt = {**SPEC, "rat": {}, "rate": {"max_unavailble": 1}, "waves": [{"percent": 100, "soak": 0}]}
    for method, path in (("PUT", "/v1/rollouts/spring"), ("POST", "/v1/rollouts"), ("POST", "/v1/rollout-plans")):
        answer = registry.ask(method, path, misspelt, 422)
        assert answer["code"] == "invalid"
        assert answer["errors"] == ["rat", "waves.0.soak", "rate.max_unavailble"]
    assert registry.ask("GET", "/v1/rollouts")["items"] == []


def test_a_registry_that_is_killed_goes_on_where_it_was(registry: FleetRegistry) -> None:
    headers = register(registry, "h1")
    rollout = registry.ask("POST", "/v1/rollouts", SPEC, 201)["id"]
    command(registry, rollout, "submit")
    registry.process.kill()
    registry.process.start()
    eventually(lambda: registry.ask("GET", "/v1/devices/h1/desired")["models"]["lenet"]["version"] == "2.0.0")
    commit(registry, "h1", headers)
    registry.process.kill()
    registry.process.start()
    eventually(lambda: state(registry, rollout) == "succeeded")
