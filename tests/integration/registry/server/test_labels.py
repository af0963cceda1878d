"""Labels of many devices change together or not at all; what labels there are can be asked."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from tests.integration.registry.server.test_publishing import problem


@pytest.fixture
def fleet(admin: httpx.Client) -> Iterator[None]:
    """Three devices in two places."""
    for name, labels in (("l1", {"site": "paris"}), ("l2", {"site": "paris", "old": "yes"}), ("l3", {"site": "lyon"})):
        admin.put(f"/v1/devices/{name}", json={"labels": labels}).raise_for_status()
    yield
    for name in ("l1", "l2", "l3"):
        admin.delete(f"/v1/devices/{name}")


def labels(admin: httpx.Client, name: str) -> dict[str, str]:
    return admin.get(f"/v1/devices/{name}").json()["labels"]  # type: ignore[no-any-return]


def change(admin: httpx.Client, **body: object) -> httpx.Response:
    return admin.post("/v1/labels", json=body)


@pytest.mark.usefixtures("fleet")
def test_what_is_not_named_stays(admin: httpx.Client) -> None:
    answer = change(admin, selector="site=paris", put={"ring": "1"}, remove=["old"]).json()
    assert answer == {"devices": 2, "changed": 2, "first": ["l1", "l2"]}
    assert [labels(admin, name) for name in ("l1", "l2", "l3")] == [
        {"site": "paris", "ring": "1"},
        {"site": "paris", "ring": "1"},
        {"site": "lyon"},
    ]
    assert change(admin, devices=["l1"], put={"ring": "1"}).json()["changed"] == 0


@pytest.mark.usefixtures("fleet")
def test_a_preview_changes_nothing_and_a_selector_may_be_of_the_label_that_changes(admin: httpx.Client) -> None:
    assert change(admin, selector="site=paris", put={"site": "rome"}, preview=True).json()["changed"] == 2
    assert labels(admin, "l1") == {"site": "paris"}
    assert change(admin, selector="site=paris", put={"site": "rome"}).json()["changed"] == 2
    assert labels(admin, "l2") == {"site": "rome", "old": "yes"}


@pytest.mark.usefixtures("fleet")
def test_all_or_none_change(admin: httpx.Client) -> None:
    many = {f"k{number}": "v" for number in range(63)}
    problem(change(admin, selector="*", put=many), 422, "invalid")
    assert labels(admin, "l1") == {"site": "paris"}
    problem(change(admin, devices=["l1", "l9"], put={"a": "b"}), 404, "not_found")
    assert labels(admin, "l1") == {"site": "paris"}


@pytest.mark.usefixtures("fleet")
def test_a_selector_that_matches_nothing_is_answered_with_the_labels_that_there_are(admin: httpx.Client) -> None:
    told = problem(change(admin, selector="site=pariss", put={"a": "b"}), 404, "not_found")
    assert "site is never pariss; its values are: paris" in told["detail"]
    there = {each["key"]: each for each in admin.get("/v1/labels").json()["keys"]}
    assert (there["site"]["devices"], there["site"]["values"]) == (3, {"paris": 2, "lyon": 1})


@pytest.mark.parametrize("body", [{}, {"selector": "*"}, {"put": {"a": "b"}}, {"selector": "*", "put": {"-a": "b"}},
                                  {"selector": "*", "put": {"a": "b"}, "remove": ["a"]},
                                  {"selector": "*", "devices": ["l1"], "put": {"a": "b"}}])  # fmt: skip
def test_what_is_no_change_is_refused(admin: httpx.Client, body: dict[str, object]) -> None:
    problem(change(admin, **body), 422, "invalid")


def test_what_the_registry_is(admin: httpx.Client) -> None:
    about = admin.get("/v1/about").json()
    assert about["version"]
    assert about["started_at"] <= about["now"]
