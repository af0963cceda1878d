"""The rule of two people: no way to change alone what a device runs, or who speaks for it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.integration.registry.server.test_publishing import problem, publish
from tests.support.paths import ROOT
from tests.support.programs.cli import Cli
from tests.support.programs.registry_process import RegistryProcess

DEPLOYMENT = {"version": "1", "force": True}
PATH = "/v1/devices/cam/deployments/m"


class Staff:
    """Clients of a registry with the rule, by holder."""

    def __init__(self, server: RegistryProcess) -> None:
        self.server, self.admin = server, server.client()
        self.clients: dict[str, httpx.Client] = {}
        roles = [{"role": "deployer"}, {"role": "approver"}, {"role": "publisher"}]
        for name, person in (("anna", "anna"), ("anna-2", "anna"), ("ben", "ben"), ("ci", None), ("ci-2", None)):
            self.clients[name] = server.client(self.token(self.admin, name, roles, person))
        boss = server.client(self.token(self.admin, "boss-token", [{"role": "administrator"}], "boss"))
        self.clients["boss"] = boss
        self.clients["boss-ci"] = server.client(self.token(boss, "boss-ci", roles, None))

    @staticmethod
    def token(client: httpx.Client, name: str, grants: list[dict[str, str]], person: str | None) -> str:
        body = {"name": name, "grants": grants, "person": person}
        return str(client.post("/v1/tokens", json=body).raise_for_status().json()["token"])

    def decide(self, who: str, change: str, *, approve: bool = True) -> httpx.Response:
        return self.clients[who].post(f"/v1/approvals/{change}", json={"approve": approve})

    def waiting(self) -> list[dict[str, Any]]:
        answer = self.clients["ben"].get("/v1/approvals", params={"state": "waiting"})
        return list(answer.raise_for_status().json()["items"])

    def refused(self, answer: httpx.Response) -> str:
        """The id of the change that waits."""
        problem(answer, 409, "needs_approval")
        return str(self.waiting()[0]["id"])

    def close(self) -> None:
        for client in (*self.clients.values(), self.admin):
            client.close()


@pytest.fixture(scope="module")
def staff(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Staff]:
    folder = tmp_path_factory.mktemp("registry")
    server = RegistryProcess(folder, {"MODELFLEET_REGISTRY_ROLLOUTS__TWO_PERSON": "true"}).start()
    made = Staff(server)
    publish(made.admin, "m", "1", b"m").raise_for_status()
    token = made.admin.put("/v1/devices/cam", json={"labels": {"site": "paris"}}).json()["token"]
    with server.client(token) as device:
        facts = json.loads((ROOT / "tests/contracts/golden/v1/platform.json").read_text())
        device.put("/v1/devices/cam/facts", json=facts).raise_for_status()
    yield made
    made.close()
    server.stop()


def test_a_single_deployment_needs_another_person_and_happens_once(staff: Staff) -> None:
    anna = staff.clients["anna"]
    change = staff.refused(anna.put(PATH, json=DEPLOYMENT))
    assert anna.get("/v1/devices/cam/deployments").json()["items"] == []
    for who in ("anna", "anna-2", "ci", "ci-2", "boss-ci"):
        problem(staff.decide(who, change), 403, "forbidden")
    problem(anna.put(PATH, json=DEPLOYMENT), 409, "needs_approval")
    assert staff.decide("ben", change).json()["state"] == "approved"
    problem(anna.put(PATH, json={**DEPLOYMENT, "retry": True}), 409, "needs_approval")  # another change
    problem(staff.clients["ci"].put(PATH, json=DEPLOYMENT), 409, "needs_approval")  # somebody else
    assert anna.put(PATH, json=DEPLOYMENT).status_code == 200
    problem(anna.put(PATH, json=DEPLOYMENT), 409, "needs_approval")
    problem(anna.delete(PATH), 409, "needs_approval")
    assert len(anna.get("/v1/devices/cam/deployments").json()["items"]) == 1


def test_the_person_who_made_a_programs_token_stands_behind_it(staff: Staff) -> None:
    change = staff.refused(staff.clients["boss-ci"].put(PATH, json={**DEPLOYMENT, "profile": "latency"}))
    problem(staff.decide("boss", change), 403, "forbidden")
    assert staff.decide("ben", change, approve=False).json()["state"] == "denied"
    problem(staff.decide("anna", change), 409, "conflict")


def test_a_new_credential_of_a_device_needs_another_person(staff: Staff) -> None:
    anna = staff.clients["anna"]
    change = staff.refused(anna.post("/v1/devices/cam/credential"))
    problem(anna.delete("/v1/devices/cam"), 409, "needs_approval")  # and to register it again
    assert staff.decide("ben", change).status_code == 200
    assert anna.post("/v1/devices/cam/credential").status_code == 200
    problem(anna.post("/v1/devices/cam/credential"), 409, "needs_approval")


def test_a_rollout_is_approved_by_another_person_not_by_another_token(staff: Staff) -> None:
    anna = staff.clients["anna"]
    body = {"model": "m", "version": "1", "fleet": {"selector": "site=paris"}}
    view = anna.post("/v1/rollouts", json=body).raise_for_status().json()
    path = f"/v1/rollouts/{view['id']}"
    anna.post(f"{path}/commands", json={"command": "submit", "revision": view["revision"]}).raise_for_status()
    while (view := anna.get(path).json())["state"] == "planning":
        pass
    assert view["state"] == "awaiting_approval", view["reason"]
    approval = {"revision": view["revision"], "plan": view["plan"], "approve": True}
    for who in ("anna", "anna-2", "ci", "boss-ci"):
        problem(staff.clients[who].post(f"{path}/approval", json=approval), 403, "forbidden")
    assert staff.clients["ben"].post(f"{path}/approval", json=approval).status_code == 200


def test_one_person_may_stop_but_not_let_go_again(staff: Staff) -> None:
    ben = staff.clients["ben"]
    assert ben.put("/v1/models/m/versions/1/yank", json={"reason": "bad"}).status_code == 200
    change = staff.refused(ben.delete("/v1/models/m/versions/1/yank"))
    assert staff.decide("anna", change).status_code == 200
    assert ben.delete("/v1/models/m/versions/1/yank").status_code == 200


def test_the_command_line_lists_and_decides(staff: Staff, tmp_path: Path) -> None:
    change = staff.refused(staff.clients["anna"].put(PATH, json={**DEPLOYMENT, "profile": "latency"}))
    token = staff.clients["ben"].headers["authorization"].removeprefix("Bearer ")
    cli = Cli(tmp_path, staff.server.url, token)
    assert change in cli("approvals").out
    assert "does the same again" in cli("approvals", "approve", change).out
    assert "approved" in cli("approvals", "list", "--all").out
    assert cli("approvals", "deny", change, code=None).code != 0
