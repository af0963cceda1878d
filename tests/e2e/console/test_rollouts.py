"""Rollouts in a browser: made by a form, watched, stopped, taken back, approved by a second person; by simulated
devices that speak with the registry as real ones do."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from playwright.sync_api import Page, expect

from registry.contracts.rollout.states import Command
from scripts.simulator.faults import Bad, Faults
from scripts.simulator.world import Settings
from tests.support.models import rollout_models
from tests.support.programs.browser import Visit
from tests.support.programs.fleet import Fleet
from tests.support.programs.fleet_registry import eventually
from tests.support.programs.registry_process import publish
from tests.support.programs.simulated_fleet import BASE, MODEL, NEXT, SimulatedFleet

DEVICES = 12
BROKEN, BAD = "1.2.0", "1.3.0"
WAIT_MS = 60_000
Visitors = Callable[..., Visit]


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """A broker and a registry."""
    with Fleet(tmp_path_factory.mktemp("fleet")) as running:
        running.start_broker()
        running.start_registry()
        yield running  # type: ignore[misc]


@pytest.fixture(scope="module")
def devices(fleet: Fleet) -> Iterator[SimulatedFleet]:
    """They serve BASE, and go on by themselves while a test looks at pages. None of them can load BROKEN and BAD."""
    with rollout_models.client_of(fleet) as http:
        token = http.headers["Authorization"].removeprefix("Bearer ")
        faults = Faults(bad={BROKEN: Bad.CRASH, BAD: Bad.CRASH})
        settings = Settings(fleet.url, token, port=fleet.broker_port, speed=10.0, health_s=5.0, faults=faults)
        simulated = SimulatedFleet(settings, http)
        for version in (BROKEN, BAD):
            publish(http, MODEL, version, f"does not load: {version}".encode()).raise_for_status()
        simulated.boot(DEVICES)
        simulated.roll_out("base", BASE, waves=[{"percent": 100, "soak_s": 0}], policy={"probation_s": 1})
        simulated.run(lambda: simulated.view("base")["state"] == "succeeded", "the first rollout", 60)
        stopped = threading.Event()

        def go_on() -> None:
            while not stopped.is_set():
                simulated.world.turn()

        thread = threading.Thread(target=go_on)
        thread.start()
        yield simulated
        stopped.set()
        thread.join(60)
        simulated.close()


@pytest.fixture(scope="module")
def registry(fleet: Fleet, devices: SimulatedFleet) -> Any:
    """For the visitors: the registry of the fleet."""
    token = devices.http.headers["Authorization"].removeprefix("Bearer ")
    return SimpleNamespace(url=fleet.url, admin_token=token)


@pytest.fixture(scope="module")
def back(devices: SimulatedFleet) -> str:
    """The path of a rollout whose gate took it back."""
    waves = [{"percent": 25, "soak_s": 0}, {"percent": 100}]
    devices.roll_out("back", BAD, waves=waves, gate={"min_attempted": 1}, on_failure="rollback")
    eventually(lambda: devices.view("back")["state"] == "rolled_back")
    return _path(devices, "back")


@pytest.fixture
def admin(devices: SimulatedFleet) -> httpx.Client:
    """The API, as the administrator."""
    return devices.http


def _path(devices: SimulatedFleet, name: str) -> str:
    return f"/console/rollouts/{devices.view(name)['id']}"


def _state(page: Page, text: str) -> None:
    """The page comes to say this of its rollout, by itself."""
    expect(page.locator(".heading .state").first).to_have_text(text, timeout=WAIT_MS)


def _fill(page: Page, **fields: str) -> None:
    """By the names of the fields."""
    for name, text in fields.items():
        page.locator(f'[name="{name}"]').fill(text)


def _make(page: Page, name: str, version: str) -> None:
    """Fills the form in and asks for the plan."""
    _fill(page, reference=f"{MODEL}@{version}", name=name, selector="simulated=yes")
    _fill(page, waves="25%,100%", soak="0s", rate="none", probation="5s")
    page.get_by_role("button", name="Show the plan").click()


def test_a_rollout_is_made_by_a_form_and_followed_to_its_success(operator: Visit, devices: SimulatedFleet) -> None:
    page = operator.open("/console/rollouts")
    page.get_by_role("link", name="New rollout").click()
    _make(page, "followed", NEXT)
    page.get_by_text(f"{MODEL}@{NEXT} to {DEVICES} devices").wait_for()
    assert "registry rollout create lenet@1.1.0 --fleet simulated=yes" in page.inner_text(".command")
    page.get_by_role("button", name="Start it").click()
    page.get_by_text("Started followed.").wait_for()
    _state(page, "succeeded")
    expect(page.get_by_role("region", name="Waves")).to_contain_text(f"{DEVICES} committed")
    page.get_by_role("link", name="Rollouts").first.click()
    row = page.get_by_role("row").filter(has=page.get_by_role("link", name="followed"))
    expect(row).to_contain_text(f"{DEVICES} / {DEVICES}")
    assert devices.world.serving(MODEL) == {NEXT: DEVICES}


def test_a_bad_version_is_seen_by_its_reason_and_taken_back(operator: Visit, devices: SimulatedFleet) -> None:
    devices.roll_out(
        "broken", BROKEN, waves=[{"percent": 25, "soak_s": 0}, {"percent": 100}], gate={"min_attempted": 1}
    )
    page = operator.open(_path(devices, "broken"))
    _state(page, "paused")
    failed = page.get_by_role("region", name="What failed")
    expect(failed).to_contain_text("load_failed", timeout=WAIT_MS)
    failed.get_by_role("link", name=re.compile("sim-")).first.click()
    page.get_by_role("heading", name=re.compile("sim-")).wait_for()
    expect(page.locator("main")).to_contain_text("load_failed")
    page.get_by_role("link", name="To the device").click()
    page.wait_for_url("**/console/devices/sim-*")
    operator.open(_path(devices, "broken"))
    page.get_by_role("link", name="Roll back", exact=True).click()
    _fill(page, reason="it crashes")
    page.get_by_role("button", name="Roll back").click()
    _state(page, "rolled back")
    expect(page.get_by_text("Went back").first).to_contain_text("it crashes")
    expect(page.get_by_role("region", name="History")).to_contain_text("rollback by admin: it crashes")
    assert BROKEN not in devices.world.serving(MODEL)


def test_a_rollout_is_stopped_by_one_who_watches_and_goes_on(operator: Visit, devices: SimulatedFleet) -> None:
    devices.roll_out("stopped", BASE, rate={"devices_per_minute": 1}, waves=[{"percent": 100, "soak_s": 0}])
    page = operator.open(_path(devices, "stopped"))
    _state(page, "running")
    page.get_by_role("link", name="Pause").click()
    page.get_by_role("button", name="Pause").click()
    _state(page, "paused")
    page.get_by_role("link", name="Resume").click()
    expect(page.get_by_label("Let the current wave pass")).to_be_visible()
    page.get_by_role("button", name="Resume").click()
    _state(page, "running")
    page.get_by_role("link", name="Abort").click()
    page.get_by_role("button", name="Abort").click()
    _state(page, "aborted")
    causes = [each["cause"] for each in devices.http.get("/v1/rollouts/stopped/history").json()["items"]]
    assert [cause for cause in causes if cause in ("pause", "resume", "abort")] == ["abort", "resume", "pause"]


def test_nobody_acts_on_a_rollout_that_somebody_else_changed(operator: Visit, devices: SimulatedFleet) -> None:
    spec = {"model": MODEL, "version": NEXT, "fleet": {"selector": "simulated=yes"}}
    devices.http.put("/v1/rollouts/changed", json=spec).raise_for_status()
    page = operator.open(_path(devices, "changed") + "/commands/submit")
    devices.http.put("/v1/rollouts/changed", json={**spec, "version": BROKEN}).raise_for_status()
    operator.allow("status of 412")
    page.get_by_role("button", name="Start").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Precondition Failed")
    assert devices.view("changed")["state"] == "draft"


def test_a_second_person_approves_what_the_first_one_asked_for(
    visitors: Visitors, admin: httpx.Client, devices: SimulatedFleet
) -> None:
    tokens = {
        name: admin.post("/v1/tokens", json={"name": name, "scope": "deploy", "person": name}).json()["token"]
        for name in ("anna", "bea")
    }
    anna, bea = visitors(tokens["anna"]), visitors(tokens["bea"])
    page = anna.open("/console/rollouts/new")
    page.get_by_label("Another person must approve the plan").check()
    _make(page, "approved", NEXT)
    page.get_by_role("button", name="Start it").click()
    _state(page, "awaiting approval")
    page.get_by_role("link", name="Approve or deny", exact=True).click()
    anna.allow("status of 403")
    page.get_by_role("button", name="Approve the plan").click()
    page.get_by_text("Another person has to approve this").wait_for()
    page = bea.open(_path(devices, "approved"))
    page.get_by_role("link", name="Approve or deny", exact=True).click()
    expect(page.locator("main")).to_contain_text(f"{MODEL}@{NEXT} to ")
    _fill(page, reason="read it")
    page.get_by_role("button", name="Approve the plan").click()
    page.get_by_text("Approved the plan of approved.").wait_for()
    _state(page, "succeeded")
    expect(page.get_by_role("region", name="What was asked for")).to_contain_text("by bea")
    assert devices.view("approved")["approved_by"] == "bea"


def test_what_is_wrong_in_the_form_is_said_and_what_was_filled_in_stays(operator: Visit) -> None:
    page = operator.open("/console/rollouts/new")
    operator.allow("status of 422")
    for changes, says in (
        ({"waves": "some,100%", "soak": "1h"}, "is not a wave"),
        ({"soak": "soon"}, "is not a duration"),
        ({"selector": ""}, "say which devices"),
        ({"reference": f"{MODEL}@9.9"}, "9.9"),
        ({"max_failed_pct": "many"}, "max_failed_pct"),
        ({"note": "x", "probation": "no"}, "is not a duration"),
    ):
        operator.open("/console/rollouts/new")
        _fill(page, reference=f"{MODEL}@{NEXT}", name="wrong", selector="simulated=yes")
        _fill(page, **changes)
        page.get_by_role("button", name="Show the plan").click()
        expect(page.get_by_role("alert").filter(has_text=says)).to_be_visible()
        assert page.locator('[name="name"]').input_value() == "wrong"


def test_a_rollout_like_an_earlier_one_asks_for_the_same(operator: Visit, devices: SimulatedFleet) -> None:
    more = {"retries": [{"codes": ["silent"]}], "hold": "none", "gate": {"max_failed_pct": None, "health": []}}
    spec = {"model": MODEL, "version": NEXT, "fleet": {"selector": "simulated=yes"}, "name": "first", **more}
    devices.http.post("/v1/rollouts", json=spec).raise_for_status()
    page = operator.open(_path(devices, "first"))
    page.get_by_role("link", name="Make another like it").click()
    _fill(page, name="second")
    page.get_by_role("button", name="Show the plan").click()
    page.get_by_role("button", name="Keep it as a draft").click()
    _state(page, "draft")
    specs = [devices.view(name)["spec"] | {"name": ""} for name in ("first", "second")]
    assert specs[0] == specs[1]
    for name in ("first", "second"):
        operator.open(_path(devices, name))
        page.get_by_role("link", name="Delete").click()
        page.get_by_role("button", name="Delete").click()
        page.get_by_text(f"Deleted {name}.").wait_for()


@pytest.mark.parametrize(
    ("query", "there", "absent"),
    [("?state=succeeded", "base", "back"), ("?open=true", None, "base"), ("?model=other", None, "base")],
)
def test_every_filter_of_the_list_is_its_address(
    operator: Visit, back: str, query: str, there: str | None, absent: str
) -> None:
    page = operator.new_window("/console/rollouts" + query)
    assert page.get_by_role("link", name=absent, exact=True).count() == 0
    assert there is None or page.get_by_role("link", name=there, exact=True).count() == 1


@pytest.mark.parametrize(
    ("query", "there"),
    [("?trouble=true", True), ("?code=load_failed", True), ("?code=never", False), ("?back=true", True),
     ("?state=failed&back=false", False), ("?wave=0&trouble=true", True)],
)  # fmt: skip
def test_devices_of_a_rollout_are_found_by_the_address(operator: Visit, back: str, query: str, there: bool) -> None:
    page = operator.new_window(f"{back}/devices{query}")
    assert (page.get_by_role("link", name=re.compile("^sim-")).count() > 0) is there


@pytest.mark.parametrize("page", ["", "/plan", "/history", "/devices", "/devices/sim-0000", "/commands/retry"])
def test_the_pages_of_a_rollout_pass_what_every_page_must(operator: Visit, back: str, page: str) -> None:
    operator.check(back + page)


def test_the_pages_of_rollouts_pass_what_every_page_must(operator: Visit, devices: SimulatedFleet) -> None:
    spec = {"model": MODEL, "version": NEXT, "fleet": {"selector": "*"}, "requires_approval": True}
    devices.http.put("/v1/rollouts/waits", json=spec).raise_for_status()
    devices.command("waits", Command.SUBMIT)
    operator.check("/console/rollouts")
    operator.check("/console/rollouts/new?model=lenet&version=1.1.0")
    operator.check(_path(devices, "waits") + "/approval")
