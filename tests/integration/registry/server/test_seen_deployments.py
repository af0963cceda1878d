"""Who deploys may say what was seen: where another deployment came between, nothing is changed."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from tests.integration.registry.server.test_publishing import problem
from tests.support.programs.registry_process import publish

PATH = "/v1/devices/seen-1/deployments/seen"


@pytest.fixture
def slot(admin: httpx.Client) -> Iterator[str]:
    for version in ("1", "2"):
        publish(admin, "seen", version, b"weights")
    admin.put("/v1/devices/seen-1", json={}).raise_for_status()
    yield PATH
    admin.delete("/v1/devices/seen-1")


def deploy(admin: httpx.Client, version: str, headers: dict[str, str] | None = None, **more: object) -> httpx.Response:
    return admin.put(PATH, json={"version": version, "force": True, **more}, headers=headers or {})


@pytest.mark.usefixtures("slot")
def test_what_was_seen_is_replaced_and_what_was_not_stays(admin: httpx.Client) -> None:
    first = deploy(admin, "1", seen=0).raise_for_status().json()
    assert first["replaced"] is None
    second = deploy(admin, "2", {"If-Match": f'"{first["generation"]}"'}).raise_for_status().json()
    assert (second["replaced"]["version"], second["replaced"]["set_by"]) == ("1", "admin")
    late = problem(deploy(admin, "1", seen=first["generation"]), 412, "precondition_failed")
    assert "it is 2, set by admin now" in late["detail"]
    problem(deploy(admin, "1", {"If-None-Match": "*"}), 412, "precondition_failed")
    problem(admin.delete(PATH, headers={"If-Match": f'"{first["generation"]}"'}), 412, "precondition_failed")
    assert admin.get("/v1/devices/seen-1").json()["desired"] == {"seen": "2"}
    admin.delete(PATH, headers={"If-Match": f'"{second["generation"]}"'}).raise_for_status()


@pytest.mark.usefixtures("slot")
def test_without_what_was_seen_the_last_one_counts_and_the_answer_says_what_it_replaced(admin: httpx.Client) -> None:
    deploy(admin, "1").raise_for_status()
    assert deploy(admin, "2").raise_for_status().json()["replaced"]["version"] == "1"
