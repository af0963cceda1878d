"""Groups, jobs, recorded results, validation sets, approvals."""

from __future__ import annotations

import httpx
import pytest

from tests.support.programs.browser import Visit


@pytest.mark.parametrize("path", ["groups", "jobs", "results", "datasets", "approvals"])
def test_the_pages_pass_what_every_page_must(operator: Visit, path: str) -> None:
    operator.check(f"/console/{path}")


def test_a_group_is_made_shown_and_removed(operator: Visit, admin: httpx.Client) -> None:
    page = operator.open("/console/groups")
    page.get_by_label("Name", exact=True).fill("paris")
    page.get_by_label("By labels").fill("site=paris")
    page.get_by_label("By name").fill("spare-1")
    page.get_by_role("button", name="Create").click()
    assert "Group paris is set: 4 devices are in it now." in page.inner_text("[role=status]")
    assert admin.get("/v1/groups/paris").json()["devices"] == ["spare-1"]
    operator.check("/console/groups/paris")
    operator.open("/console/groups/paris")
    page.get_by_role("button", name="Remove…").click()
    assert "registry group remove paris" in page.inner_text("main")
    page.get_by_role("button", name="Remove", exact=True).click()
    assert admin.get("/v1/groups/paris").status_code == 404


def test_a_job_is_found_by_its_filters_and_cancelled(operator: Visit, admin: httpx.Client) -> None:
    asked = {"device": "lyon-01", "kind": "convert", "model": "lenet", "version": "1.0.0", "to": "mindir"}
    job = admin.post("/v1/jobs", json=asked).raise_for_status().json()["id"]
    page = operator.open("/console/jobs?device=lyon-02")
    assert page.get_by_role("link", name=job).count() == 0
    page.get_by_role("textbox", name="Device").fill("lyon-01")
    page.get_by_role("button", name="Filter").click()
    page.get_by_role("link", name=job).click()
    operator.check(f"/console/jobs/{job}")
    operator.open(f"/console/jobs/{job}")
    page.get_by_role("button", name="Cancel…").click()
    page.get_by_role("button", name="Cancel the job").click()
    assert admin.get(f"/v1/jobs/{job}").json()["status"]["state"] == "cancelled"
