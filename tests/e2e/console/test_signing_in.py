"""Who gets into the console, how long, and what a browser of somebody else cannot do with it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import httpx
from playwright.sync_api import Browser

from scripts.demo.processes import wait_until
from tests.support.programs.browser import Visit
from tests.support.programs.cli import Cli
from tests.support.programs.registry_process import RegistryProcess

Visitors = Callable[..., Visit]


def test_a_pasted_token_signs_in_and_signing_out_ends_the_session(
    visitors: Visitors, registry: RegistryProcess
) -> None:
    visit = visitors(registry.admin_token)
    assert visit.page.get_by_role("heading", name="Fleet").is_visible()
    cookie = visit.cookies[0]
    assert (cookie["httpOnly"], cookie["sameSite"], cookie["path"]) == (True, "Strict", "/console")
    visit.page.get_by_role("button", name="Sign out").click()
    visit.page.wait_for_url("**/sign-in")
    headers = {"Cookie": f"{cookie['name']}={cookie['value']}"}
    assert httpx.get(registry.url + "/console/fleet", headers=headers).status_code == 401


def test_the_link_of_the_command_line_signs_in_once(visitors: Visitors, registry: RegistryProcess, cli: Cli) -> None:
    link = cli("console", "--json").document["url"]
    visit = visitors()
    visit.page.goto(link)
    visit.page.wait_for_url("**/console/fleet")
    assert visit.page.get_by_text("admin").first.is_visible()
    other = visitors()
    other.allow("status of 401")
    other.page.goto(link)
    other.page.get_by_text("was used already").wait_for()


def test_the_first_start_prints_a_link_and_the_next_says_how_to_get_one(tmp_path: Path) -> None:
    server = RegistryProcess(tmp_path).start()
    log = server.folder / "registry.log"
    wait_until(lambda: "/console/sign-in?code=" in log.read_text(), "a link in the log")
    link = next(word for word in log.read_text().split() if "/console/sign-in?code=" in word)
    assert httpx.get(link).status_code == 200
    server.stop()
    server.start()
    wait_until(lambda: "`registry console` prints a link" in log.read_text(), "the command in the log")
    server.stop()


def test_a_revoked_token_ends_its_sessions(visitors: Visitors, admin: httpx.Client) -> None:
    token = admin.post("/v1/tokens", json={"name": "bea", "scope": "deploy"}).json()["token"]
    visit = visitors(token)
    visit.open("/console/fleet")
    admin.delete("/v1/tokens/bea").raise_for_status()
    visit.open("/console/fleet", status=401)
    assert visit.page.get_by_label("Token").is_visible()


def test_where_reading_is_open_nobody_signs_in_to_look_and_everybody_to_act(browser: Browser, tmp_path: Path) -> None:
    server = RegistryProcess(tmp_path, {"MODELFLEET_REGISTRY_ACCESS__OPEN_READING": "true"}).start()
    visit = Visit(browser, server.url)
    try:
        visit.open("/console/")
        assert visit.page.get_by_text("Reader", exact=True).is_visible()
        visit.page.get_by_role("link", name="Sign in").click()
        visit.page.wait_for_url("**/sign-in*")
    finally:
        visit.close()
        server.stop()


def test_after_signing_in_the_page_that_was_wanted_is_shown(visitors: Visitors, registry: RegistryProcess) -> None:
    visit = visitors()
    visit.open("/console/fleet?online=false", status=401)
    visit.page.get_by_label("Token").fill(registry.admin_token)
    visit.page.get_by_role("button", name="Sign in").click()
    visit.page.wait_for_url("**/console/fleet?online=false")


def test_a_link_on_another_site_leads_to_the_page_without_signing_in_again(
    visitors: Visitors, registry: RegistryProcess
) -> None:
    visit = visitors(registry.admin_token)
    elsewhere = registry.url.replace("127.0.0.1", "localhost")
    visit.allow("another host")
    visit.page.goto(elsewhere + "/console/static/none")
    visit.allow("status of 404")
    visit.page.evaluate(f"location.href = {registry.url + '/console/fleet?online=false'!r}")
    visit.page.get_by_role("heading", name="Fleet").wait_for()
    assert "online=false" in visit.page.url


def test_an_address_of_another_site_is_no_place_to_go_after_signing_in(
    visitors: Visitors, registry: RegistryProcess
) -> None:
    visit = visitors()
    visit.open("/console/sign-in?next=https://elsewhere.example/console/")
    visit.page.get_by_label("Token").fill(registry.admin_token)
    visit.page.get_by_role("button", name="Sign in").click()
    visit.page.wait_for_url("**/console/fleet")


def test_every_page_says_what_is_wrong_and_passes_the_checks(visitors: Visitors) -> None:
    visit = visitors()
    visit.check("/console/sign-in")
    visit.open("/console/nowhere", status=404)
    assert visit.page.get_by_text("There is no such page").is_visible()


def test_wrong_tokens_are_refused_and_then_not_even_looked_at(registry: RegistryProcess) -> None:
    origin = {"Origin": registry.url, "Sec-Fetch-Site": "same-origin"}
    sign_in = registry.url + "/console/sign-in"
    answers = [httpx.post(sign_in, data={"token": "x" * 40}, headers=origin).status_code for _ in range(12)]
    assert answers == sorted(answers)  # the tests before may have failed from this address, too
    assert (answers[0], answers[-2:]) == (401, [429, 429])
