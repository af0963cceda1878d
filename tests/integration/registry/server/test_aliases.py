"""Aliases of a real registry: moved by compare-and-set, with a history that only grows."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from registry.contracts.api.answers import Page
from registry.contracts.api.versions import AliasView
from tests.integration.registry.server.test_publishing import problem
from tests.support.programs.registry_process import RegistryProcess, publish


@pytest.fixture
def model(admin: httpx.Client, request: pytest.FixtureRequest) -> str:
    """A model of the test's own, with the versions 1 to 3."""
    name = request.node.originalname.removeprefix("test_").replace("_", "-")[:40].strip("-")
    for version in ("1", "2", "3"):
        assert publish(admin, name, version, b"weights").status_code in {200, 201}
    return name


def move(client: httpx.Client, model: str, version: str, **headers: str) -> httpx.Response:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return client.put(f"/v1/models/{model}/aliases/stable", json={"version": version}, headers=names)


def test_an_alias_is_made_moved_and_removed_and_the_history_stays(admin: httpx.Client, model: str) -> None:
    made = move(admin, model, "1", if_none_match="*")
    assert made.status_code == 200
    assert made.headers["etag"] == '"1"'
    moved = move(admin, model, "2", if_match='"1"')
    assert moved.headers["etag"] == '"2"'
    assert admin.get(f"/v1/models/{model}/versions/stable").json()["version"] == "2"
    assert admin.get(f"/v1/models/{model}").json()["aliases"] == {"stable": "2"}
    assert admin.get(f"/v1/models/{model}/versions/2").json()["aliases"] == ["stable"]

    path = f"/v1/models/{model}/aliases/stable"
    problem(admin.delete(path, headers={"If-Match": '"1"'}), 412, "precondition_failed")
    assert admin.delete(path, headers={"If-Match": '"2"'}).status_code == 204
    problem(admin.get(path), 404, "not_found")
    problem(admin.get(f"/v1/models/{model}/versions/stable"), 404, "not_found")
    assert admin.get(f"/v1/models/{model}/aliases").json()["items"] == []
    assert move(admin, model, "3", if_none_match="*").headers["etag"] == '"4"'

    history = Page[AliasView].model_validate_json(admin.get(path + "/history").content).items
    assert [(step.revision, step.version, step.moved_by) for step in history] == [
        (4, "3", "admin"),
        (3, None, "admin"),
        (2, "2", "admin"),
        (1, "1", "admin"),
    ]


def test_a_move_that_comes_too_late_is_refused(admin: httpx.Client, model: str) -> None:
    move(admin, model, "1", if_none_match="*")
    problem(move(admin, model, "2", if_none_match="*"), 412, "precondition_failed")
    move(admin, model, "2", if_match='"1"')
    problem(move(admin, model, "3", if_match='"1"'), 412, "precondition_failed")
    problem(move(admin, model, "3", if_match="W/2"), 412, "precondition_failed")
    problem(move(admin, model, "3"), 422, "invalid")
    assert admin.get(f"/v1/models/{model}/aliases/stable").json()["version"] == "2"


def test_a_move_whose_answer_was_lost_may_be_sent_again(admin: httpx.Client, model: str) -> None:
    move(admin, model, "1", if_none_match="*")
    first = move(admin, model, "2", if_match='"1"')
    again = move(admin, model, "2", if_match='"1"')
    assert again.status_code == 200
    assert again.json() == first.json()


def test_an_alias_points_to_what_is_there_and_hides_no_version(admin: httpx.Client, model: str) -> None:
    problem(move(admin, model, "9", if_none_match="*"), 404, "not_found")
    path = f"/v1/models/{model}/aliases/2"
    problem(admin.put(path, json={"version": "1"}, headers={"If-None-Match": "*"}), 422, "invalid")
    move(admin, model, "1", if_none_match="*")
    problem(publish(admin, model, "stable", b"weights"), 422, "invalid")


def test_of_many_that_move_it_at_once_exactly_one_does(
    registry: RegistryProcess, admin: httpx.Client, model: str
) -> None:
    move(admin, model, "1", if_none_match="*")

    def once(version: str) -> int:
        with registry.client() as client:
            return move(client, model, version, if_match='"1"').status_code

    with ThreadPoolExecutor(10) as pool:
        statuses = list(pool.map(once, ["2", "3"] * 5))
    winner = admin.get(f"/v1/models/{model}/aliases/stable").json()
    assert winner["revision"] == 2
    # those who wanted what the winner made true are told so; the others are refused
    assert sorted(statuses) == [200] * 5 + [412] * 5
    history = admin.get(f"/v1/models/{model}/aliases/stable/history").json()["items"]
    assert len(history) == 2
