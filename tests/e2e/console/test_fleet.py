"""The fleet's page."""

from __future__ import annotations

from tests.support.programs.browser import Visit


def test_the_fleet_passes_what_every_page_must(operator: Visit) -> None:
    operator.check("/console/fleet")


def test_a_page_follows_what_changes(operator: Visit, admin: object) -> None:
    operator.open("/console/fleet")
    assert operator.page.get_by_role("link", name="edge-9").count() == 0
    admin.put("/v1/devices/edge-9", json={"labels": {}}).raise_for_status()  # type: ignore[attr-defined]
    operator.page.get_by_role("link", name="edge-9").wait_for()
