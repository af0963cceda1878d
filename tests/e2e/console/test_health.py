"""The fleet's health: plots with their tables, two versions side by side, counts."""

from __future__ import annotations

import re

import httpx
import pytest

from tests.support.programs.browser import Visit

HEALTH = "/console/health"


@pytest.mark.parametrize("path", ["", "?model=lenet&span=6h", "?model=nothing", "/counts"])
def test_the_pages_of_health_pass_what_every_page_must(operator: Visit, path: str) -> None:
    operator.check(HEALTH + path)


def test_every_plot_is_drawn_and_says_the_same_as_its_table_and_the_api(operator: Visit, admin: httpx.Client) -> None:
    page = operator.open(HEALTH + "?span=24h")
    told = admin.get("/v1/health/series", params={"span": "24h"}).json()
    charts = page.locator("figure.chart")
    assert charts.count() == 6
    assert charts.locator("canvas").count() == 6
    page.locator("#table-latency summary").click()
    rows = page.locator("#table-latency tbody tr")
    measured = [value for value in told["total"]["p50_ms"] if value is not None]
    assert rows.count() in range(len(measured) - 1, len(measured) + 2)
    assert f"{told['total']['figures']['requests']:,}" in page.locator(".stats").inner_text()
    assert "Times are UTC." in page.locator("main").inner_text()


def test_a_model_is_shown_by_version_and_two_versions_are_compared(operator: Visit) -> None:
    page = operator.open(HEALTH)
    page.get_by_role("combobox", name="Model").select_option("lenet")
    page.wait_for_url(re.compile("model=lenet"))
    assert "1.0.0" in page.locator("#chart-requests").inner_text()
    page.get_by_role("combobox", name="Old").select_option("1.0.0")
    page.wait_for_url(re.compile("old=1.0.0"))
    page.get_by_role("combobox", name="New").select_option("1.1.0")
    page.wait_for_url(re.compile("new=1.1.0"))
    assert page.locator("h2#pair").inner_text() == "1.0.0 and 1.1.0"
    p95 = page.locator("section tr", has_text="Latency p95").inner_text()
    assert re.search(r"ms.*ms.*[+−].* ms", p95, re.DOTALL), p95
    there = operator.new_window("/console" + page.url.partition("/console")[2])
    assert there.locator("h2#pair").inner_text() == "1.0.0 and 1.1.0"


def test_a_rollout_is_marked_and_leads_to_its_page(operator: Visit) -> None:
    page = operator.open(HEALTH + "?model=lenet&span=7d")
    assert '"text": "1.2.0 rolled back"' in page.locator("#data-requests").inner_text()
    row = page.locator("tr", has_text="rolled back").filter(has_text="1.2.0")
    row.get_by_role("link").click()
    assert "/console/rollouts/" in page.url


def test_what_nobody_measured_is_not_shown_as_a_number(operator: Visit) -> None:
    page = operator.open(HEALTH + "?model=nothing")
    assert page.locator(".stats").inner_text().count("not measured") == 3
    assert "Not measured in this time." in page.locator("#chart-latency").inner_text()
    assert page.locator("#chart-latency canvas").count() == 0


def test_new_figures_come_into_the_same_drawing(operator: Visit) -> None:
    page = operator.open(HEALTH)
    page.evaluate("document.querySelector('#plot-latency .uplot').dataset.kept = 'yes'")
    page.locator("#table-latency summary").click()
    page.evaluate("document.addEventListener('htmx:after:swap', () => { document.body.dataset.swapped = 'yes'; })")
    page.evaluate("htmx.trigger(document.body, 'devices')")
    page.locator("body[data-swapped]").wait_for()
    assert page.locator("#plot-latency .uplot[data-kept]").count() == 1
    assert page.locator("#table-latency[open]").count() == 1


def test_what_fails_now_leads_to_the_devices(operator: Visit, admin: httpx.Client) -> None:
    failing = admin.get("/v1/fleet").json()["failing"]
    page = operator.open(HEALTH)
    assert page.locator(".counter.bad").count() == len(failing)
    for code in list(failing)[:1]:
        page.locator(".counter.bad", has_text=code).click()
        assert f"failing={code}" in page.url


def test_counts_are_filtered_by_device_and_lead_to_it(operator: Visit, admin: httpx.Client) -> None:
    device = admin.get("/v1/counts").json()["items"][0]["device"]
    page = operator.open(HEALTH + "/counts")
    page.get_by_label("Device").fill(device)
    page.get_by_role("button", name="Filter").click()
    assert set(page.locator("tbody th").all_inner_texts()) == {device}
    assert f"registry counts --device {device}" in page.inner_text("main")
