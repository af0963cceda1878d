"""What somebody else can do: from a neighbouring host, through a proxy, with very many tabs."""

from __future__ import annotations

import hashlib
import sqlite3
import ssl
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from datetime import timedelta

import httpx
import pytest
from playwright.sync_api import Browser

from registry.server.composition import utc_now
from registry.server.console.live import MAX_OF_CALLER
from scripts.simulator.example_fleet import People
from tests.support.network.certificates import Authority
from tests.support.network.tls_proxy import CLIENT, TlsProxy
from tests.support.programs.browser import Visit
from tests.support.programs.cli import Cli
from tests.support.programs.registry_process import RegistryProcess

OUTSIDE = "fleet.example.org"


@pytest.fixture(scope="module")
def proxy(registry: RegistryProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TlsProxy]:
    context: ssl.SSLContext = Authority(tmp_path_factory.mktemp("tls") / "ca").certificate_for("127.0.0.1")
    opened = TlsProxy(registry.port, context)
    yield opened
    opened.close()


def signed_in(registry: RegistryProcess, token: str, **headers: str) -> tuple[str, str]:
    """Name and value of the cookie."""
    origin = {"Origin": registry.url, "Sec-Fetch-Site": "same-origin", **headers}
    answer = httpx.post(registry.url + "/console/sign-in", data={"token": token}, headers=origin)
    assert answer.status_code == 303
    name, _, value = answer.headers["set-cookie"].partition(";")[0].partition("=")
    return name, value


def status(registry: RegistryProcess, cookie: str, host: str = OUTSIDE, path: str = "/console/fleet") -> int:
    headers = {"Host": host, "Cookie": cookie}
    return httpx.get(registry.url + path, headers=headers).status_code


def test_behind_a_proxy_with_tls_the_cookie_is_bound_to_the_host(
    browser: Browser, proxy: TlsProxy, registry: RegistryProcess, people: People
) -> None:
    visit = Visit(browser, proxy.url, ignore_https_errors=True)
    visit.sign_in(registry.admin_token)
    (cookie,) = visit.cookies
    assert (cookie["name"], cookie["secure"], cookie["path"]) == ("__Host-modelfleet_console", True, "/")
    visit.open("/console/settings/sessions")
    assert visit.page.get_by_text(CLIENT).first.is_visible()
    visit.page.get_by_role("button", name="Sign out", exact=True).click()
    visit.page.wait_for_url("**/sign-in")
    assert visit.cookies == []
    visit.close()


def test_a_cookie_that_a_neighbouring_host_could_set_does_not_count_over_https(
    registry: RegistryProcess, people: People
) -> None:
    name, value = signed_in(registry, people.tokens["mira"])
    for each in (name, "modelfleet_console"):
        assert status(registry, f"{each}={value}") == 401
    secure, value = signed_in(registry, people.tokens["mira"], Host=OUTSIDE, Origin=f"https://{OUTSIDE}")
    assert secure == "__Host-modelfleet_console"
    assert status(registry, f"modelfleet_console=of-somebody-else; {secure}={value}") == 200


def test_two_registries_on_one_host_have_cookies_of_their_own(registry: RegistryProcess, people: People) -> None:
    name, value = signed_in(registry, people.tokens["mira"])
    assert name.endswith(f"_{registry.port}")
    assert status(registry, f"{name}={value}", f"127.0.0.1:{registry.port}") == 200


def test_a_session_ends_by_its_limits_and_the_live_stream_does_not_prolong_it(
    registry: RegistryProcess, people: People
) -> None:
    name, value = signed_in(registry, people.tokens["mira"])
    cookie, host, digest = f"{name}={value}", f"127.0.0.1:{registry.port}", hashlib.sha256(value.encode()).hexdigest()

    def age(column: str, **ago: float) -> None:
        at = utc_now() - timedelta(**ago)
        with closing(sqlite3.connect(registry.data / "registry.db", timeout=30)) as database, database:
            changed = database.execute(
                f"update console_sessions set {column} = ? where secret_hash = ?",
                (at.strftime("%Y-%m-%d %H:%M:%S.%f"), digest),
            )
            assert changed.rowcount == 1

    def used_at() -> str:
        with closing(sqlite3.connect(registry.data / "registry.db", timeout=30)) as database:
            return str(
                database.execute("select used_at from console_sessions where secret_hash = ?", [digest]).fetchone()
            )

    age("used_at", minutes=20)
    before = used_at()
    headers = {"Host": host, "Cookie": cookie}
    with httpx.stream("GET", registry.url + "/console/live", headers=headers) as stream:
        assert stream.status_code == 200
    assert used_at() == before
    assert status(registry, cookie, host) == 200
    assert used_at() > before
    age("used_at", minutes=31)
    assert status(registry, cookie, host) == 401
    age("used_at", minutes=0)
    assert status(registry, cookie, host) == 200
    age("opened_at", hours=12, seconds=1)
    assert status(registry, cookie, host) == 401


def test_failed_attempts_count_for_the_address_that_the_proxy_of_this_host_names(registry: RegistryProcess) -> None:
    def attempt(forwarded: str) -> int:
        headers = {"Sec-Fetch-Site": "same-origin", "X-Forwarded-For": forwarded}
        return httpx.post(registry.url + "/console/sign-in", data={"token": "wrong"}, headers=headers).status_code

    spoofed = [attempt(f"198.51.100.{number}, 203.0.113.77") for number in range(12)]
    assert spoofed == [401] * 10 + [429] * 2
    assert attempt("203.0.113.78") == 401


def test_a_link_that_many_use_at_once_signs_one_in(registry: RegistryProcess, cli: Cli) -> None:
    code = cli("console", "--json").document["url"].partition("code=")[2]

    def use(number: int) -> int:
        headers = {"Sec-Fetch-Site": "same-origin", "X-Forwarded-For": f"203.0.113.{100 + number}"}
        answer = httpx.post(registry.url + "/console/sign-in", data={"code": code}, headers=headers, timeout=60)
        return answer.status_code

    with ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(use, range(8))) == [303] + [401] * 7


def test_the_streams_of_one_caller_leave_some_for_the_others(registry: RegistryProcess, people: People) -> None:
    mira, ben = (signed_in(registry, people.tokens[who]) for who in ("mira", "ben"))

    def headers(cookie: tuple[str, str]) -> dict[str, str]:
        return {"Cookie": "=".join(cookie)}

    with ExitStack() as stack, httpx.Client(timeout=60, limits=httpx.Limits(max_connections=None)) as client:
        for _ in range(MAX_OF_CALLER):
            stream = stack.enter_context(client.stream("GET", registry.url + "/console/live", headers=headers(mira)))
            assert stream.status_code == 200
        assert client.get(registry.url + "/console/live", headers=headers(mira)).status_code == 503
        other = stack.enter_context(client.stream("GET", registry.url + "/console/live", headers=headers(ben)))
        assert other.status_code == 200


@pytest.mark.parametrize("field", ["profile", "batching"])
def test_a_choice_that_the_form_does_not_offer_is_refused(registry: RegistryProcess, field: str) -> None:
    cookie = "=".join(signed_in(registry, registry.admin_token))
    form = {"device": f"no-{uuid.uuid4().hex[:8]}", "model": "lenet", "version": "1.0.0", field: "odd"}
    headers = {"Cookie": cookie, "Sec-Fetch-Site": "same-origin"}
    answer = httpx.post(registry.url + "/console/fleet/deploy", data=form, headers=headers)
    assert (answer.status_code, "is not right" in answer.text) == (422, True)
