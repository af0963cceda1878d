"""The page of events: filters that stand in the address, links to one event, downloads."""

from __future__ import annotations

import csv
import io
import json
import os
from pathlib import Path
from urllib.parse import urlencode

import httpx
import pytest

from tests.support.programs.browser import Visit
from tests.support.programs.cli import Cli
from tests.support.programs.registry_process import RegistryProcess, publish

AT = "2026-11-28T01:40:00Z"


@pytest.fixture(scope="module", autouse=True)
def _told(registry: RegistryProcess) -> None:
    """Two devices told something, an alias was moved, a rollout was made."""
    with registry.client() as admin:
        for version in ("1.0.0", "1.1.0"):
            publish(admin, "gauge", version, b"weights").raise_for_status()
        steps = [
            {"kind": "deployment", "model": "gauge", "version": "1.0.0", "phase": "downloading"},
            {"kind": "deployment", "model": "gauge", "version": "1.0.0", "phase": "serving"},
            {"kind": "worker", "model": "gauge", "version": "1.0.0", "code": "out_of_memory", "message": "=2+3"},
        ]
        for name, told in {"quay-1": steps, "quay-2": steps[:1], "quay-3": []}.items():
            token = admin.put(f"/v1/devices/{name}", json={}).raise_for_status().json()["token"]
            body = {"events": [{"event_id": f"e{i}", "seq": i, "at": AT, **step} for i, step in enumerate(told)]}
            own = {"Authorization": f"Bearer {token}"}
            admin.post(f"/v1/devices/{name}/reports", json=body, headers=own).raise_for_status()
        path = "/v1/models/gauge/aliases/stable"
        admin.put(path, json={"version": "1.0.0"}, headers={"If-None-Match": "*"}).raise_for_status()
        admin.put(path, json={"version": "1.1.0"}, headers={"If-Match": '"1"'}).raise_for_status()
        body = {"name": "quays", "model": "gauge", "version": "1.1.0", "fleet": {"selector": "site=paris"}}
        admin.put("/v1/rollouts/quays", json=body).raise_for_status()


def shoot(visit: Visit, name: str) -> None:
    """Writes a picture of the page where somebody asked for them."""
    if folder := os.environ.get("MODELFLEET_TEST_SCREENSHOTS"):
        visit.page.screenshot(path=Path(folder) / f"{name}.png", full_page=True)


def test_the_page_passes_what_every_page_must(operator: Visit) -> None:
    operator.check("/console/events")
    operator.check("/console/events?device=quay-1&code=any")
    operator.open("/console/events")
    shoot(operator, "events")


@pytest.mark.parametrize(
    ("query", "rows"),
    [
        ({"device": "quay-2"}, 2),
        ({"device": "quay-2", "by": "admin"}, 1),
        ({"severity": "error", "model": "gauge"}, 1),
        ({"code": "any", "model": "gauge"}, 1),
        ({"code": "out_of_memory", "model": "gauge"}, 1),
        ({"kind": "worker", "model": "gauge"}, 1),
        ({"source": "alias", "model": "gauge"}, 2),
        ({"source": "device", "model": "gauge"}, 4),
        ({"source": "rollout", "model": "gauge"}, 1),
        ({"rollout": "quays"}, 1),
        ({"model": "gauge"}, 7),
        ({"model": "other"}, 0),
        ({"since": "2026-01-01 00:00", "model": "gauge"}, 7),
        ({"until": "2020-01-01"}, 0),
        ({"since": "2026-01-01T00:00Z", "device": "quay-1", "kind": "deployment"}, 2),
    ],
)
def test_a_filters_address_shows_the_same_in_a_new_window(operator: Visit, query: dict[str, str], rows: int) -> None:
    page = operator.new_window("/console/events?" + urlencode(query))
    assert page.locator("tbody tr").count() == rows, page.inner_text("main")
    for value in query.values():
        assert value in page.inner_text(".chips")
    page.close()


def test_an_operator_narrows_the_list_opens_one_event_and_sends_its_link(operator: Visit) -> None:
    page = operator.open("/console/events")
    page.get_by_role("link", name="Errors", exact=True).click()
    page.get_by_label("Device").fill("quay-1")
    page.get_by_role("button", name="Filter").click()
    assert "severity=error" in page.url
    row = page.locator("tbody tr")
    assert row.count() == 1
    shoot(operator, "events-failures")
    row.locator("th a").click()
    page.get_by_text("By its clock").wait_for()
    other = operator.new_window(page.url.removeprefix(operator.url))
    assert "out_of_memory" in other.inner_text("tbody")
    page.go_back()
    page.get_by_label("Without the filter severity").click()
    assert page.locator("tbody tr").count() == 4


def test_who_changed_what_from_what_to_what(operator: Visit) -> None:
    page = operator.open("/console/events?source=alias&model=gauge")
    newest = page.locator("tbody tr").first.inner_text()
    assert "1.0.0 → 1.1.0" in newest
    assert "admin" in newest


def test_pages_follow_each_other(operator: Visit) -> None:
    page = operator.open("/console/events?source=device&model=gauge&limit=3")
    assert page.locator("tbody tr").count() == 3
    page.get_by_role("link", name="Next page").click()
    assert page.locator("tbody tr").count() == 1
    page.get_by_role("link", name="First page").click()
    assert page.locator("tbody tr").count() == 3


def test_the_list_grows_by_itself(operator: Visit, admin: httpx.Client) -> None:
    page = operator.open("/console/events?source=alias&model=grown")
    assert page.locator("tbody tr").count() == 0
    publish(admin, "grown", "1", b"weights").raise_for_status()
    path = "/v1/models/grown/aliases/stable"
    admin.put(path, json={"version": "1"}, headers={"If-None-Match": "*"}).raise_for_status()
    token = admin.post("/v1/devices/quay-3/credential").raise_for_status().json()["token"]
    body = {"events": [{"event_id": "new", "seq": 1, "at": AT, "kind": "agent"}]}
    own = {"Authorization": f"Bearer {token}"}
    admin.post("/v1/devices/quay-3/reports", json=body, headers=own).raise_for_status()
    page.locator("tbody tr").wait_for()


def test_the_same_is_downloaded_as_csv_and_json_with_no_formula_in_it(operator: Visit) -> None:
    page = operator.open("/console/events?device=quay-1")
    files = {}
    for form in ("CSV", "JSON"):
        with page.expect_download() as download:
            page.get_by_role("link", name=form, exact=True).click()
        files[form] = Path(download.value.path()).read_text(encoding="utf-8")
    rows = list(csv.DictReader(io.StringIO(files["CSV"])))
    said = json.loads(files["JSON"])
    assert said["complete"] is True
    assert [row["id"] for row in rows] == [each["id"] for each in said["items"]]
    assert len(rows) == 4
    assert [row["message"] for row in rows if row["code"]] == ["'=2+3"]


def test_a_filter_that_is_none_is_named(operator: Visit) -> None:
    operator.open("/console/events?since=yesterday", status=422)
    assert "A time is written as" in operator.page.inner_text("main")
    operator.open("/console/events?source=moon", status=422)


def test_the_command_beside_the_list_shows_the_same(operator: Visit, cli: Cli) -> None:
    page = operator.open("/console/events?device=quay-1&code=any")
    words = page.locator(".command code").inner_text().split()
    assert words == ["registry", "events", "quay-1", "--code", "any"]
    (found,) = cli(*words[1:], "--json").document
    assert found["code"] == "out_of_memory"
    assert "quay-2" in cli("events", "--since", "2026-01-01", "--model", "gauge").out
    assert cli("events", "--since", "soon", code=2).err
