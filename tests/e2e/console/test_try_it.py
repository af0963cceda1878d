"""Try it: a picture is dropped in the browser, and a real device says what it sees."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest
from PIL import Image, ImageDraw
from playwright.sync_api import Page

from registry.client.address import ADMIN_TOKEN_FILE
from tests.support.models.detectors import publish_file
from tests.support.paths import LENET_FOLDER
from tests.support.programs.browser import Visit, axe
from tests.support.programs.fleet import Fleet

DIGIT = next(each for each in sorted((LENET_FOLDER / "digits").glob("*.png")) if "digit-7" in each.name)
WIDTH, HEIGHT = 301, 173
BOX = (91, 35, 190, 122)
DROP = """([name, type, base64]) => {
    const bytes = Uint8Array.from(atob(base64), each => each.charCodeAt(0));
    const transfer = new DataTransfer();
    transfer.items.add(new File([bytes], name, {type}));
    const on = document.querySelector('#drop');
    for (const kind of ['dragover', 'drop'])
        on.dispatchEvent(new DragEvent(kind, {bubbles: true, cancelable: true, dataTransfer: transfer}));
}"""


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    folder = tmp_path_factory.mktemp("fleet")
    running = Fleet(folder)
    with running:
        running.start_broker()
        running.start_registry()
        pools = '{"cameras": ["lenet"]}'
        running.start_agent("edge-1", running.add_device("edge-1"), MODELFLEET_AGENT_MQTT__POOLS=pools)
        running.registry("publish", str(LENET_FOLDER / "lenet.toml"))
        running.registry("publish", str(publish_file(folder, "finder", "yolov8", 64)))
        for reference in ("lenet@1.0.0", "finder@1"):
            running.registry("deploy", reference, "--device", "edge-1")
        for reference in ("lenet@1.0.0", "finder@1"):
            running.registry("deploy", reference, "--device", "edge-1", "--wait")
        yield running


@pytest.fixture(scope="module")
def registry(fleet: Fleet) -> SimpleNamespace:
    """Where visitors go in this file."""
    token = (fleet.registry_data / ADMIN_TOKEN_FILE).read_text().strip()
    return SimpleNamespace(url=fleet.url, admin_token=token)


def drop(page: Page, data: bytes, name: str = "picture.png", kind: str = "image/png") -> None:
    """As a person drops a file on the page."""
    page.evaluate(DROP, [name, kind, base64.b64encode(data).decode()])


def street() -> bytes:
    """A picture with a red rectangle, which the detector takes for a dog."""
    image = Image.new("RGB", (WIDTH, HEIGHT), "white")
    ImageDraw.Draw(image).rectangle((BOX[0], BOX[1], BOX[2] - 1, BOX[3] - 1), fill="red")
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def shoot(page: Page, name: str) -> None:
    """Writes a picture of the page where somebody asked for them."""
    if folder := os.environ.get("MODELFLEET_TEST_SCREENSHOTS"):
        page.screenshot(path=Path(folder) / f"{name}.png", full_page=True)


def test_a_dropped_digit_is_answered_with_its_label(operator: Visit) -> None:
    operator.check("/console/try")
    page = operator.open("/console/try?device=edge-1")
    shoot(page, "try-form")
    page.get_by_role("link", name="lenet@1.0.0").click()
    drop(page, DIGIT.read_bytes())
    page.locator(".verdict").wait_for()
    assert page.locator(".verdict").inner_text().startswith("7")
    assert "ms" in page.locator(".answer .state").inner_text()
    assert page.locator("#drop img").evaluate("image => image.complete && image.naturalWidth") == 28
    assert "registry ask edge-1 lenet@1.0.0 --picture FILE" in page.inner_text("main")
    operator.check(page.url.removeprefix(operator.url))


def test_a_device_and_a_pool_are_compared_on_the_picture_that_was_sent_before(operator: Visit) -> None:
    page = operator.open("/console/try?device=edge-1&model=lenet")
    drop(page, DIGIT.read_bytes())
    page.locator(".verdict").wait_for()
    page.locator("[name=kind2]").select_option("pool")
    page.locator("[name=name2]").fill("cameras")
    page.locator("[name=model2]").fill("lenet")
    page.get_by_role("button", name="Ask").click()
    page.get_by_text("Both say 7.").wait_for()
    assert page.locator(".answer").count() == 2
    assert "edge-1 of the pool cameras" in page.inner_text("main")
    shoot(page, "try-two")


def test_a_detector_draws_its_boxes_over_the_picture(operator: Visit) -> None:
    page = operator.open("/console/try?device=edge-1&model=finder")
    drop(page, street())
    page.locator("rect.box").wait_for()
    box = {name: float(page.locator("rect.box").get_attribute(name) or "") for name in ("x", "y", "width", "height")}
    wanted = {"x": BOX[0], "y": BOX[1], "width": BOX[2] - BOX[0], "height": BOX[3] - BOX[1]}
    assert box == pytest.approx(wanted, abs=2 * WIDTH / 64)
    assert "dog" in (page.locator(".overlay text").text_content() or "")
    picture, drawn = page.locator(".overlay img").bounding_box(), page.locator(".overlay svg").bounding_box()
    assert picture is not None
    assert drawn is not None
    assert (picture["width"], picture["height"]) == pytest.approx((drawn["width"], drawn["height"]), abs=1)
    assert axe(page) == []
    shoot(page, "try-boxes")


def test_without_scripts_a_picture_is_chosen_and_a_request_is_written_as_json(
    visitors: Callable[..., Visit], registry: SimpleNamespace
) -> None:
    visit = visitors(registry.admin_token, java_script_enabled=False)
    page = visit.open("/console/try?device=edge-1&model=lenet")
    page.locator("[name=picture]").set_input_files(DIGIT)
    page.get_by_role("button", name="Ask").click()
    page.wait_for_url("**/console/try/*")
    assert page.locator(".verdict").inner_text().startswith("7")

    page = visit.open("/console/try?device=edge-1&model=lenet")
    page.get_by_text("Or a request as JSON").click()
    page.get_by_label("Request as JSON").fill('{"x": ' + str([[[[0.0] * 28] * 28]]) + "}")
    page.get_by_role("button", name="Ask").click()
    page.wait_for_url("**/console/try/*")
    assert "FP32[1, 10]" in page.inner_text(".output")
    shoot(page, "try-json")


def test_what_a_device_refuses_is_shown_with_code_meaning_and_action(operator: Visit) -> None:
    page = operator.open("/console/try?device=edge-1&model=lenet@9.9.9&device2=edge-9&model2=lenet")
    drop(page, DIGIT.read_bytes())
    page.locator(".answer").first.wait_for()
    first, second = page.locator(".answer").all()
    assert "unknown_version" in first.inner_text()
    assert "no_such_device" in second.inner_text()
    assert len(second.locator("p").all()) >= 2
    shoot(page, "try-errors")

    operator.allow("status of 422")
    page.goto(operator.url + "/console/try?device=edge-1&model=lenet")
    drop(page, b"\x89PNG\r\n\x1a\n" + b"garbage")
    page.get_by_text("The picture cannot be read").wait_for()


def test_a_trial_is_for_whoever_made_it_and_acting_needs_the_scope(
    operator: Visit, visitors: Callable[..., Visit], registry: SimpleNamespace
) -> None:
    page = operator.open("/console/try?device=edge-1&model=lenet")
    drop(page, DIGIT.read_bytes())
    page.locator(".verdict").wait_for()
    path = page.url.removeprefix(operator.url)
    other = visitors(registry.admin_token)
    other.open(path, status=404)
    other.open(path + "/picture", status=404)

    with httpx.Client(base_url=registry.url, headers={"Authorization": f"Bearer {registry.admin_token}"}) as admin:
        token = admin.post("/v1/tokens", json={"name": "reader", "scope": "read"}).raise_for_status().json()["token"]
    reader = visitors(token)
    assert reader.page.get_by_role("link", name="Try it").count() == 0
    reader.open("/console/try", status=403)
