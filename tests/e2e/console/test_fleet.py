"""The pages of the fleet and of one device, as an operator uses them."""

from __future__ import annotations

from collections.abc import Callable

import httpx
import pytest

from scripts.simulator.example_fleet import People
from tests.support.programs.browser import NARROW, WIDE, Visit, axe
from tests.support.programs.registry_process import RegistryProcess

PAGES = (
    "/fleet",
    "/fleet?state=offline&selector=site%3Dgraz&name=graz-*",
    "/devices/new",
    "/devices/paris-01",
    "/devices/paris-01/labels",
    "/devices/paris-01/deploy?model=lenet",
    "/devices/paris-01/undeploy?model=lenet",
    "/devices/paris-01/credential",
    "/devices/paris-01/delete",
    "/devices/paris-01/desired",
    "/devices/paris-01/explain?model=lenet&version=1.1.0",
    "/devices/paris-01/health",
    "/devices/paris-01/jobs/new",
    "/devices/spare-1",
    "/jobs",
)


@pytest.mark.parametrize("path", PAGES)
def test_every_page_passes_the_checks(operator: Visit, path: str) -> None:
    operator.check("/console" + path)


def test_a_device_is_found_in_three_clicks_and_says_why_it_serves_what_it_serves(
    operator: Visit, admin: httpx.Client
) -> None:
    troubled = admin.get("/v1/rollouts/lenet-1-2/devices?trouble=true").raise_for_status().json()["items"]
    name = troubled[0]["device"]
    page = operator.open("/console/")
    page.get_by_label("Name", exact=True).fill(name[:4] + "*")
    page.get_by_role("button", name="Filter").click()
    page.get_by_role("link", name=name).click()
    page.get_by_role("heading", name=name).wait_for()
    assert page.get_by_text("It should serve lenet@").is_visible()
    assert page.get_by_text("The previous version serves again").first.is_visible()
    assert page.locator(".timeline").get_by_text("probation_").first.is_visible()
    few = page.locator(".timeline li").count()
    page.get_by_role("link", name="All steps").click()
    page.wait_for_url("**?steps=all")
    assert page.locator(".timeline li").count() > few


def test_every_filter_stands_in_the_address_and_works_in_a_new_window(operator: Visit, admin: httpx.Client) -> None:
    for query in (
        "state=online",
        "state=never_seen",
        "state=serving&state=online",
        "serves=digits-small",
        "failing=any",
        "behind=true",
        "selector=site%3Dparis,ring%3Dcanary",
        "label=site%3Dlyon",
        "online=false",
        "name=turin",
        "sort=-last_seen",
    ):
        wanted = [device["name"] for device in admin.get(f"/v1/devices?{query}").raise_for_status().json()["items"]]
        page = operator.new_window(f"/console/fleet?{query}")
        assert page.locator("tbody th a").all_inner_texts() == wanted, query
        page.close()


def test_a_counter_is_a_filter_and_each_filter_can_be_taken_away(operator: Visit) -> None:
    page = operator.open("/console/fleet?name=graz")
    page.get_by_role("link", name="Never seen").click()
    page.wait_for_url("**/fleet?name=graz&state=never_seen")
    assert page.locator("tbody th a").all_inner_texts() == []  # spare-1 is no graz
    page.get_by_role("link", name="Without the filter name has graz").click()
    page.wait_for_url("**/fleet?state=never_seen")
    assert page.locator("tbody th a").all_inner_texts() == ["spare-1"]


def test_the_list_goes_on_by_a_cursor(operator: Visit) -> None:
    page = operator.open("/console/fleet?limit=5")
    first = page.locator("tbody th a").all_inner_texts()
    page.get_by_role("link", name="Next page").click()
    page.wait_for_url("**cursor=*")
    second = page.locator("tbody th a").all_inner_texts()
    assert len(first) == len(second) == 5
    assert first[-1] < second[0]


def test_a_page_follows_what_changes(operator: Visit, admin: httpx.Client) -> None:
    page = operator.open("/console/fleet?name=new")
    assert page.get_by_role("link", name="new-9").count() == 0
    admin.put("/v1/devices/new-9", json={"labels": {}}).raise_for_status()
    page.get_by_role("link", name="new-9").wait_for()


def test_many_devices_are_labelled_after_a_preview(operator: Visit, admin: httpx.Client) -> None:
    page = operator.open("/console/fleet?name=turin")
    for name in ("turin-01", "turin-02"):
        page.get_by_label(f"Tick {name}").check()
    page.get_by_role("button", name="Label…").click()
    page.get_by_role("heading", name="Label 2 devices").wait_for()
    assert page.locator('#pairs option[value="site=turin"]').count() == 1
    page.get_by_label("Set").fill("shift=night")
    page.get_by_role("button", name="Show who would change").click()
    page.get_by_text("2: turin-01, turin-02").wait_for()
    assert "registry devices label turin-01 turin-02 shift=night" in page.locator(".command code").inner_text()
    assert admin.get("/v1/devices?label=shift=night").json()["items"] == []
    page.get_by_role("button", name="Change labels").click()
    page.get_by_text("Changed 2 devices of 2").wait_for()
    assert len(admin.get("/v1/devices?label=shift=night").json()["items"]) == 2


def test_a_version_is_deployed_after_a_preview_and_the_record_says_who_did_it(
    visitors: Callable[..., Visit], people: People, admin: httpx.Client
) -> None:
    visit = visitors(people.tokens["anna"])
    page = visit.open("/console/devices/turin-01/deploy")
    page.get_by_label("Model").fill("digits-small")
    page.get_by_label("Version or alias").fill("0.4.0")
    page.get_by_role("button", name="Show the plan").click()
    page.get_by_text("registry deploy digits-small@0.4.0 --device turin-01").wait_for()
    page.get_by_role("button", name="Deploy", exact=True).click()
    page.get_by_text("1 device should serve digits-small@0.4.0 now.").wait_for()
    found = admin.get("/v1/devices/turin-01/deployments").json()["items"]
    wanted = {each["model"]: (each["version"], each["set_by"]) for each in found}
    assert wanted["digits-small"] == ("0.4.0", "anna")
    page.get_by_role("region", name="digits-small").get_by_role("link", name="Unassign").click()
    page.get_by_role("button", name="Unassign").click()
    page.get_by_text("turin-01 should no longer serve digits-small.").wait_for()


def test_a_deployment_that_came_between_the_preview_and_the_button_is_not_replaced(
    visitors: Callable[..., Visit], people: People, admin: httpx.Client
) -> None:
    visit = visitors(people.tokens["anna"])
    visit.allow("status of 412")
    page = visit.open("/console/devices/turin-01/deploy")
    page.get_by_label("Model").fill("digits-small")
    page.get_by_label("Version or alias").fill("0.4.0")
    page.get_by_role("button", name="Show the plan").click()
    button = page.get_by_role("button", name="Deploy", exact=True)
    button.wait_for()
    slot = "/v1/devices/turin-01/deployments/digits-small"
    admin.put(slot, json={"version": "0.4.0", "force": True, "profile": "latency"}).raise_for_status()
    button.click()
    page.get_by_text("was changed since you looked").wait_for()
    admin.delete(slot).raise_for_status()


def test_a_device_is_registered_renewed_and_deleted(operator: Visit, registry: RegistryProcess) -> None:
    page = operator.open("/console/devices/new")
    page.get_by_label("Name", exact=True).fill("edge-77")
    page.get_by_label("Labels").fill("site=bonn")
    page.get_by_role("button", name="Show what happens").click()
    page.get_by_role("heading", name="Register edge-77?").wait_for()
    assert "registry devices add edge-77 --label site=bonn" in page.locator(".command").inner_text()
    page.get_by_role("button", name="Register").click()
    page.get_by_role("heading", name="Registered edge-77").wait_for()
    first = page.locator(".secret").inner_text()
    settings = page.locator(".file pre").first.inner_text()
    for line in ('device = "edge-77"', f'url = "{registry.url}"', 'token_file = "edge-77.token"'):
        assert line in settings.splitlines()
    assert page.get_by_role("heading", name="edge-77.token").is_visible()
    page.set_viewport_size({"width": NARROW, "height": 800})
    assert axe(page) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= NARROW
    page.set_viewport_size({"width": WIDE, "height": 800})
    with registry.client(first) as agent:
        assert agent.get("/v1/devices/edge-77/desired").status_code == 200
    operator.open("/console/devices/edge-77/credential")
    page.get_by_role("button", name="Make a new credential").click()
    page.get_by_role("heading", name="edge-77 has a new credential").wait_for()
    assert 'device = "edge-77"' in page.locator(".file pre").first.inner_text()
    assert page.locator(".secret").inner_text() != first
    with registry.client(first) as agent:
        assert agent.get("/v1/devices/edge-77/desired").status_code == 401
    operator.open("/console/devices/edge-77/delete")
    page.get_by_role("button", name="Delete edge-77").click()
    page.get_by_text("Deleted edge-77.").wait_for()
    operator.open("/console/devices/edge-77", status=404)


def test_labels_of_a_device_are_changed_after_a_question_and_not_over_what_somebody_else_changed(
    operator: Visit, admin: httpx.Client
) -> None:
    name = "lyon-01"
    before = admin.get(f"/v1/devices/{name}").json()["labels"]
    page = operator.open(f"/console/devices/{name}/labels")
    field = page.get_by_label("Labels")
    field.fill(field.input_value() + "\nrack=7")
    second = operator.new_window(f"/console/devices/{name}/labels")
    mine = second.get_by_label("Labels")
    mine.fill(mine.input_value() + "\nrack=8")
    page.get_by_role("button", name="Show what would change").click()
    page.get_by_role("heading", name=f"Change labels of {name}?").wait_for()
    assert admin.get(f"/v1/devices/{name}").json()["labels"] == before
    admin.post("/v1/labels", json={"devices": [name], "put": {"shelf": "2"}}).raise_for_status()
    page.get_by_role("button", name="Change labels").click()
    page.get_by_text(f"Changed the labels of {name}.").wait_for()
    assert admin.get(f"/v1/devices/{name}").json()["labels"] == {**before, "rack": "7", "shelf": "2"}
    operator.allow("status of 412")
    second.get_by_role("button", name="Show what would change").click()
    second.get_by_text("Somebody else changed the label 'rack'").wait_for()
    assert admin.get(f"/v1/devices/{name}").json()["labels"]["rack"] == "7"


def test_a_long_name_and_many_labels_leave_the_other_columns_in_sight(
    visitors: Callable[..., Visit], people: People, admin: httpx.Client
) -> None:
    name = "camera-" + "x" * 57
    admin.put(f"/v1/devices/{name}", json={"labels": {f"key-{n}": f"value-{n}" for n in range(50)}}).raise_for_status()
    visit = visitors(people.tokens["mira"])
    page = visit.open(f"/console/fleet?name={name}")
    row = page.get_by_role("row").filter(has_text=name).bounding_box()
    assert row is not None
    assert row["height"] < 200
    assert page.get_by_role("cell", name="45 more").is_visible()
    edges = page.evaluate("[...document.querySelectorAll('tbody td')].map(each => each.getBoundingClientRect().right)")
    assert max(edges) <= WIDE
    admin.delete(f"/v1/devices/{name}").raise_for_status()


def test_a_button_that_is_pressed_twice_acts_once(operator: Visit) -> None:
    page = operator.open("/console/devices/new")
    page.get_by_label("Name", exact=True).fill("edge-78")
    page.get_by_role("button", name="Show what happens").click()
    page.get_by_role("heading", name="Register edge-78?").wait_for()
    page.get_by_role("button", name="Register").dblclick()
    page.get_by_role("heading", name="Registered edge-78").wait_for()


def test_a_reader_sees_no_action_and_can_do_none(
    visitors: Callable[..., Visit], people: People, registry: RegistryProcess
) -> None:
    visit = visitors(people.tokens["mira"])
    page = visit.open("/console/devices/paris-01")
    assert page.get_by_role("link", name="Deploy").count() == 0
    visit.open("/console/devices/paris-01/delete", status=403)
    cookie = visit.cookies[0]
    headers = {"Cookie": f"{cookie['name']}={cookie['value']}", "Origin": registry.url}
    assert httpx.post(registry.url + "/console/devices/paris-01/delete", headers=headers).status_code == 403


def test_a_request_of_another_site_changes_nothing(operator: Visit, registry: RegistryProcess) -> None:
    cookie = operator.cookies[0]
    for foreign in ({"Sec-Fetch-Site": "cross-site"}, {"Origin": "https://elsewhere.example"}, {}):
        headers = {"Cookie": f"{cookie['name']}={cookie['value']}", **foreign}
        answer = httpx.post(registry.url + "/console/devices/paris-01/delete", headers=headers)
        assert answer.status_code == 403, foreign
    operator.open("/console/devices/paris-01")


def test_markup_in_a_label_is_text(operator: Visit, admin: httpx.Client) -> None:
    markup = "<img src=x onerror=alert(1)>"
    admin.put("/v1/devices/odd-1", json={"labels": {"note": markup, "file": "\u202egnp.exe"}}).raise_for_status()
    page = operator.open("/console/fleet?name=odd-1")
    assert page.get_by_text(f"note={markup}").is_visible()
    assert page.locator("main img").count() == 0
    assert page.get_by_text("file=\ufffdgnp.exe").is_visible()
    admin.delete("/v1/devices/odd-1").raise_for_status()
