"""Roles and their limits: what a token may change, on which models and devices, until when."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from datetime import timedelta
from typing import Any

import httpx
import pytest

from registry.contracts.api.access import Role
from registry.server.composition import utc_now
from tests.integration.registry.server.test_publishing import problem, publish
from tests.support.programs.cli import Cli
from tests.support.programs.registry_process import RegistryProcess

PARIS, LYON = "roles-paris", "roles-lyon"
MODEL, OTHER = "roles-a", "elsewhere-b"


@pytest.fixture(scope="module")
def world(registry: RegistryProcess) -> Iterator[httpx.Client]:
    with registry.client() as admin:
        for model in (MODEL, OTHER):
            publish(admin, model, "1", model.encode())
        for name, site in ((PARIS, "paris"), (LYON, "lyon")):
            admin.put(f"/v1/devices/{name}", json={"labels": {"site": site}}).raise_for_status()
        yield admin


@pytest.fixture
def holders(registry: RegistryProcess, world: httpx.Client) -> Iterator[Any]:
    """Makes clients of tokens with these grants."""
    with ExitStack() as stack:

        def holder(*grants: dict[str, Any], **more: Any) -> httpx.Client:
            name = f"holder-{len(made)}"
            made.append(name)
            world.delete(f"/v1/tokens/{name}")
            answer = world.post("/v1/tokens", json={"name": name, "grants": grants, **more}).raise_for_status()
            return stack.enter_context(registry.client(answer.json()["token"]))

        made: list[str] = []
        yield holder


def deploy(client: httpx.Client, device: str, model: str = MODEL) -> httpx.Response:
    return client.put(f"/v1/devices/{device}/deployments/{model}", json={"version": "1", "force": True})


def rollout(client: httpx.Client, model: str = MODEL, **fleet: Any) -> httpx.Response:
    return client.post("/v1/rollouts", json={"model": model, "version": "1", "fleet": fleet})


@pytest.mark.parametrize("role", list(Role))
def test_each_role_looks_and_does_its_own_and_nothing_else(holders: Any, role: Role) -> None:
    client = holders({"role": role})
    asked = {
        Role.VIEWER: client.get("/v1/devices"),
        Role.PUBLISHER: client.put(f"/v1/models/{MODEL}/versions/1/yank", json={"reason": "a test"}),
        Role.DEPLOYER: deploy(client, PARIS, OTHER),
        Role.APPROVER: client.post("/v1/rollouts/none/approval", json={"revision": 1, "plan": "x", "approve": True}),
        Role.ADMINISTRATOR: client.get("/v1/tokens"),
    }
    client.delete(f"/v1/models/{MODEL}/versions/1/yank")
    may = set(Role) if role is Role.ADMINISTRATOR else {Role.VIEWER, role}
    for needed, answer in asked.items():
        assert (answer.status_code != 403) == (needed in may), (role, needed, answer.text)
        if answer.status_code == 403:
            assert f"the role {needed}" in answer.json()["detail"]


def test_a_publisher_is_kept_to_the_models_of_the_limit(holders: Any) -> None:
    client = holders({"role": "publisher", "models": ["roles-*"]})
    assert publish(client, MODEL, "2", b"two").status_code in (200, 201)
    problem(publish(client, OTHER, "2", b"two"), 403, "forbidden")
    problem(client.patch(f"/v1/models/{OTHER}", json={"record_results": True}), 403, "forbidden")
    problem(client.put(f"/v1/models/{OTHER}/versions/1/yank", json={"reason": "x"}), 403, "forbidden")
    problem(client.delete("/v1/datasets/digits"), 403, "forbidden")


def test_a_deployer_is_kept_to_models_and_devices_of_the_limit(holders: Any) -> None:
    client = holders({"role": "deployer", "models": [MODEL], "devices": "site=paris"})
    assert deploy(client, PARIS).status_code == 200
    problem(deploy(client, LYON), 403, "forbidden")
    problem(deploy(client, PARIS, OTHER), 403, "forbidden")
    problem(client.post(f"/v1/devices/{PARIS}/credential"), 403, "forbidden")  # of no model in particular
    problem(client.get("/v1/webhooks"), 403, "forbidden")


def test_nobody_labels_a_device_into_or_out_of_their_part(holders: Any, world: httpx.Client) -> None:
    client = holders({"role": "deployer", "devices": "site=paris"})
    assert client.post("/v1/labels", json={"devices": [PARIS], "put": {"ring": "a"}}).status_code == 200
    for body in (
        {"devices": [LYON], "put": {"site": "paris"}},
        {"devices": [PARIS], "put": {"site": "lyon"}},
        {"selector": "site", "put": {"ring": "b"}},
    ):
        problem(client.post("/v1/labels", json=body), 403, "forbidden")
    problem(client.put(f"/v1/devices/{LYON}", json={"labels": {"site": "paris"}}), 403, "forbidden")
    problem(client.put(f"/v1/devices/{PARIS}", json={"labels": {}}), 403, "forbidden")
    problem(client.put("/v1/devices/roles-new", json={"labels": {"site": "lyon"}}), 403, "forbidden")
    problem(client.delete(f"/v1/devices/{LYON}"), 403, "forbidden")
    problem(client.post(f"/v1/devices/{LYON}/credential"), 403, "forbidden")
    labels = {each["name"]: each["labels"] for each in world.get("/v1/devices").json()["items"]}
    assert labels[PARIS]["site"] == "paris"
    assert labels[LYON] == {"site": "lyon"}
    assert "roles-new" not in labels
    assert client.put("/v1/devices/roles-new", json={"labels": {"site": "paris"}}).status_code == 201
    assert client.delete("/v1/devices/roles-new").status_code == 204


def test_a_rollout_reaches_no_device_outside_of_the_limit_now_or_later(holders: Any, world: httpx.Client) -> None:
    client = holders({"role": "deployer", "devices": "site=paris"})
    world.put("/v1/groups/roles-all", json={"selector": "site"}).raise_for_status()
    world.put("/v1/groups/roles-paris", json={"selector": "site=paris,ring=a"}).raise_for_status()
    for fleet in ({"selector": "*"}, {"selector": "site"}, {"groups": ["roles-all"]}, {"devices": [LYON]},
                  {"devices": ["not-registered"]}, {"selector": "site=paris", "devices": [LYON]}):  # fmt: skip
        problem(rollout(client, **fleet), 403, "forbidden")
    for fleet in ({"selector": "ring=a,site=paris"}, {"groups": ["roles-paris"]}, {"devices": [PARIS]}):
        assert rollout(client, **fleet).status_code == 201, fleet
    problem(client.put("/v1/groups/roles-all", json={"selector": "site=paris"}), 403, "forbidden")
    problem(client.put("/v1/groups/roles-paris", json={"selector": "ring=a"}), 403, "forbidden")
    problem(client.delete("/v1/groups/roles-all"), 403, "forbidden")
    theirs = rollout(world, selector="*").json()
    commands = f"/v1/rollouts/{theirs['id']}/commands"
    problem(client.post(commands, json={"command": "submit", "revision": theirs["revision"]}), 403, "forbidden")


def test_a_token_works_until_it_expires_and_not_longer(holders: Any, world: httpx.Client) -> None:
    soon = utc_now() + timedelta(seconds=1)
    client = holders({"role": "viewer"}, expires_at=soon.isoformat())
    deadline = soon + timedelta(minutes=1)
    while (answer := client.get("/v1/models")).status_code == 200:
        assert utc_now() < deadline
    problem(answer, 401, "unauthorized")
    assert "expired" in answer.json()["detail"]
    past = {"name": "past", "grants": [{"role": "viewer"}], "expires_at": "2026-01-01T00:00:00Z"}
    problem(world.post("/v1/tokens", json=past), 422, "invalid")


@pytest.mark.parametrize(
    "grants",
    [
        [],
        [{"role": "viewer", "models": ["a"]}],
        [{"role": "administrator", "devices": "site=paris"}],
        [{"role": "publisher", "devices": "site=paris"}],
        [{"role": "deployer", "devices": "site="}],
        [{"role": "publisher", "models": ["*a"]}],
        [{"role": "owner"}],
    ],
)
def test_what_is_no_grant_is_refused(world: httpx.Client, grants: list[dict[str, Any]]) -> None:
    problem(world.post("/v1/tokens", json={"name": "none", "grants": grants}), 422, "invalid")


def test_tokens_of_before_there_were_roles_may_what_they_could(registry: RegistryProcess, world: httpx.Client) -> None:
    made = world.post("/v1/tokens", json={"name": "earlier", "scope": "deploy"}).raise_for_status().json()
    assert [grant["role"] for grant in made["grants"]] == ["deployer", "approver"]
    with registry.client(made["token"]) as client:
        answer = client.post("/v1/rollouts/none/approval", json={"revision": 1, "plan": "x", "approve": True})
        assert answer.status_code != 403


def test_the_command_line_makes_and_lists_them(registry: RegistryProcess, world: httpx.Client, tmp_path: Any) -> None:
    cli = Cli(tmp_path, registry.url, registry.admin_token)
    made = cli("token", "create", "ci-roles", "--role", "publisher", "--role", "approver", "--models", "vision-*",
               "--devices", "site=paris", "--expires", "90d", "--json").document  # fmt: skip
    assert made["grants"] == [
        {"role": "publisher", "models": ["vision-*"]},
        {"role": "approver", "models": ["vision-*"], "devices": "site=paris"},
    ]
    assert "publisher of vision-*, approver of vision-* on site=paris" in cli("token", "list").out
    assert cli("token", "create", "none", "--role", "viewer", "--models", "a", code=2).err
    assert cli("token", "create", "none", code=2).err
