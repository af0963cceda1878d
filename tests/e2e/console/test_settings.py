"""Settings: the registry, tokens, sessions, webhooks."""

from __future__ import annotations

from collections.abc import Callable

import httpx
import pytest

from tests.support.programs.browser import Visit
from tests.support.programs.registry_process import RegistryProcess


@pytest.mark.parametrize("path", ["", "/storage", "/sessions", "/webhooks", "/tokens", "/checks"])
def test_the_pages_of_settings_pass_what_every_page_must(operator: Visit, path: str) -> None:
    operator.check("/console/settings" + path)


def test_an_administrator_makes_a_token_with_which_somebody_signs_in_until_it_is_revoked(
    operator: Visit, visitors: Callable[..., Visit]
) -> None:
    page = operator.open("/console/settings/tokens")
    page.get_by_label("Holder").fill("gina")
    page.get_by_label("deployer").check()
    page.get_by_label("Only these devices").fill("site=paris")
    page.get_by_role("button", name="Create…").click()
    assert "registry token create gina --role deployer --devices site=paris" in page.inner_text("main")
    page.get_by_role("button", name="Create").click()
    secret = page.locator(".secret").inner_text()

    gina = visitors(secret)
    gina.open("/console/settings/tokens", status=403)
    gina.open("/console/settings/sessions")
    assert [name.split()[0] for name in gina.page.locator("tbody th").all_inner_texts()] == ["gina"]

    operator.open("/console/settings/tokens")
    operator.page.get_by_role("button", name="Revoke gina").click()
    operator.page.get_by_role("button", name="Revoke", exact=True).click()
    assert "Token gina is revoked." in operator.page.inner_text("[role=status]")
    gina.allow("status of 401")
    gina.page.goto(gina.url + "/console/settings/webhooks")
    assert gina.page.get_by_label("Token").is_visible()


def test_a_session_is_ended_from_another_browser(
    operator: Visit, visitors: Callable[..., Visit], registry: RegistryProcess
) -> None:
    other = visitors(registry.admin_token)
    page = operator.open("/console/settings/sessions")
    own = page.locator("tr", has_text="this one")
    assert own.count() == 1
    page.locator("tbody tr").filter(has_not_text="this one").first.get_by_role("button").click()
    assert "The session has ended." in page.inner_text("[role=status]")
    other.allow("status of 401")
    other.page.goto(other.url + "/console/settings/tokens")
    assert other.page.get_by_label("Token").is_visible()


def test_a_webhook_is_made_changed_and_removed(operator: Visit, admin: httpx.Client) -> None:
    page = operator.open("/console/settings/webhooks")
    page.get_by_label("Name").fill("ops")
    page.get_by_label("Address").fill("https://ops.example/hook")
    page.get_by_role("button", name="Create").click()
    assert page.locator(".secret").inner_text().startswith("whsec_")
    operator.check("/console/settings/webhooks/ops")
    operator.open("/console/settings/webhooks/ops")
    page.get_by_label("device").check()
    page.get_by_role("button", name="Save").click()
    assert admin.get("/v1/webhooks/ops").json()["kinds"] == ["rollout", "wave", "device"]
    page.get_by_role("link", name="ops", exact=True).click()
    page.get_by_role("button", name="Remove…").click()
    page.get_by_role("button", name="Remove", exact=True).click()
    assert admin.get("/v1/webhooks/ops").status_code == 404


def test_what_a_form_gets_wrong_is_named_and_changes_nothing(operator: Visit, admin: httpx.Client) -> None:
    page = operator.open("/console/settings/webhooks")
    page.get_by_label("Name").fill("ops")
    page.get_by_label("Address").fill("ftp://ops.example")
    operator.allow("status of 422")
    page.get_by_role("button", name="Create").click()
    assert "url" in page.inner_text("main")
    assert admin.get("/v1/webhooks").json()["items"] == []
