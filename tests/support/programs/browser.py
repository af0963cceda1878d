"""Debian's Chromium, driven by Playwright, and what every page of the console must pass.

Any error on a page's console (a report of the content security policy is one), any exception of a script and any
request to another host fails the visit that met it: `Visit.close` says which.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, Request, Route, sync_playwright

from tests.support.paths import ROOT

CHROMIUM = "/usr/bin/chromium"
WIDE, NARROW = 1280, 360
AXE = ROOT / "tests" / "data" / "axe" / "axe.js"
TABS = 400
"""A page with more steps of the keyboard is too long to be used so."""
FOCUSABLE = """() => [...document.querySelectorAll(
    'a[href], button, input:not([type=hidden]), select, textarea, summary, [tabindex="0"]')]
    .filter(e => !e.disabled && e.checkVisibility({visibilityProperty: true}) && e.getClientRects().length
        && !e.closest('[inert]') && !e.matches('input[type=radio]:not(:checked)')).length"""
FOCUSED = """() => { const e = document.activeElement, it = {what: '', seen: true};
    if (e && e !== document.body) {
        e.dataset.reached = 'yes';
        const s = getComputedStyle(e);
        it.what = e.outerHTML.slice(0, 120);
        it.seen = s.outlineStyle !== 'none' && parseFloat(s.outlineWidth) > 0;
    }
    it.reached = document.querySelectorAll('[data-reached]').length;
    return it; }"""
RULES = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]}
COLOURS = {"runOnly": {"type": "rule", "values": ["color-contrast", "link-in-text-block"]}}
"""The rules whose result the scheme of colours can change."""


@contextmanager
def chromium() -> Iterator[Browser]:
    """The browser; skips where there is none, but in CI."""
    if shutil.which("chromium") is None and not os.environ.get("CI"):
        pytest.skip("no Chromium here: scripts/ensure-packages chromium installs it")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


class Visit:
    """One visitor with a browser profile of its own."""

    def __init__(self, browser: Browser, url: str, **options: Any) -> None:
        self.url = url
        self._host = urlsplit(url).netloc
        self._options = {"viewport": {"width": WIDE, "height": 800}, "reduced_motion": "reduce", **options}
        self._browser = browser
        self._context = browser.new_context(**self._options)
        self._context.set_default_timeout(60_000)
        self.faults: list[str] = []
        self._allowed: list[str] = []
        self.page = self._watched(self._context.new_page())

    def _watched(self, page: Page) -> Page:
        page.on("console", self._said)
        page.on("pageerror", lambda error: self.faults.append(f"exception: {error}"))
        page.on("request", self._asked)
        return page

    def _said(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.faults.append(f"{message.type} on {message.page.url if message.page else '?'}: {message.text}")

    def _asked(self, request: Request) -> None:
        parts = urlsplit(request.url)
        if parts.scheme not in ("data", "blob", "about") and parts.netloc != self._host:
            self.faults.append(f"request to another host: {request.url}")

    def allow(self, text: str) -> None:
        """A fault with this text is what the test is about."""
        self._allowed.append(text)

    def close(self) -> None:
        """Fails for what went wrong on the way."""
        self._context.close()
        unexpected = [fault for fault in self.faults if not any(text in fault for text in self._allowed)]
        assert not unexpected, unexpected

    def open(self, path: str, *, status: int = 200) -> Page:
        """A page below the registry's address. Its answer has this status."""
        if status >= 400:
            self.allow(f"status of {status}")
        answer = self.page.goto(self.url + path)
        assert answer is not None
        assert answer.status == status, f"{path}: {answer.status}: {self.page.inner_text('body')[:500]}"
        return self.page

    def new_window(self, path: str) -> Page:
        """Another tab of this visitor."""
        page = self._watched(self._context.new_page())
        page.goto(self.url + path)
        return page

    def sign_in(self, token: str) -> None:
        """As a person does: paste the token."""
        self.open("/console/sign-in")
        self.page.get_by_label("Token").fill(token)
        self.page.get_by_role("button", name="Sign in").click()
        self.page.wait_for_url("**/console/fleet*")

    @property
    def cookies(self) -> list[Any]:
        """That it has."""
        return list(self._context.cookies())

    def check(self, path: str) -> None:
        """What every page must pass: axe in both schemes, 360 px, the keyboard alone, and JavaScript off."""
        self.open(path)
        assert axe(self.page) == [], f"{path}, light"
        self.page.emulate_media(color_scheme="dark")
        assert axe(self.page, COLOURS) == [], f"{path}, dark"
        self.page.emulate_media(color_scheme="light")
        self.page.set_viewport_size({"width": NARROW, "height": 800})
        width = self.page.evaluate("document.documentElement.scrollWidth")
        assert width <= NARROW, f"{path} is {width} px wide on a screen of {NARROW}: {too_wide(self.page)}"
        assert axe(self.page) == [], f"{path}, narrow"
        self.page.set_viewport_size({"width": WIDE, "height": 800})
        self._check_keyboard(path)
        self._check_without_scripts(path)

    def _check_keyboard(self, path: str) -> None:
        """A page that brings itself up to date meanwhile would forget what was reached: htmx is told of nothing new."""
        self.page.route("**", _nothing_new)
        self.page.goto(self.url + path)
        self._tab_through(path)
        self.page.unroute("**", _nothing_new)

    def _tab_through(self, path: str) -> None:
        self.page.evaluate("document.activeElement?.blur()")
        wanted = self.page.evaluate(FOCUSABLE)
        reached = 0
        for _ in range(min(2 * wanted, TABS)):  # it begins wherever the page put the focus, and comes round
            self.page.keyboard.press("Tab")
            focused = self.page.evaluate(FOCUSED)
            assert focused["seen"], f"{path}: the focus cannot be seen on {focused['what']}"
            reached = focused["reached"]
            if reached >= wanted:
                break
        assert reached >= min(wanted, TABS), f"{path}: the keyboard reaches {reached} of {wanted}"

    def _check_without_scripts(self, path: str) -> None:
        state = self._context.storage_state()
        plain = self._browser.new_context(**{**self._options, "java_script_enabled": False, "storage_state": state})
        page = self._watched(plain.new_page())
        answer = page.goto(self.url + path)
        assert answer is not None
        assert answer.status == 200
        assert page.locator("h1").count() == 1, path
        said = page.locator("main").inner_text().strip()
        assert len(said) > 20, f"{path} says nothing without scripts: {said!r}"
        plain.close()


def _nothing_new(route: Route, request: Request) -> None:
    if "hx-request" in request.headers:
        route.fulfill(status=204)
    else:
        route.continue_()


def axe(page: Page, rules: Mapping[str, Any] = RULES) -> list[str]:
    """What axe-core finds by these rules: rule, element and reason."""
    if not page.evaluate("typeof axe === 'object'"):
        page.evaluate(AXE.read_text(encoding="utf-8"))
    found = page.evaluate(f"axe.run(document, {json.dumps(rules)})")
    return [
        f"{violation['id']}: {node['target']}: {node['failureSummary']}"
        for violation in found["violations"]
        for node in violation["nodes"]
    ]


def too_wide(page: Page) -> list[str]:
    """The elements that reach over the right edge, for the message of a failure."""
    script = """() => [...document.querySelectorAll('main *, header *')]
        .filter(e => e.getBoundingClientRect().right > innerWidth + 1).slice(0, 8).map(e => e.outerHTML.slice(0, 99))"""
    return list(page.evaluate(script))
