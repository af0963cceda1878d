"""What the console offers of the API, and that it is what was committed."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import pytest
from fastapi.routing import APIRoute

from registry.server.access_table import OWN_RULES, needs_of
from registry.server.app import openapi_document, operations
from registry.server.console.app import routers
from registry.server.console.operations import FOR_PROGRAMS, OFFERED
from tests.support.paths import ROOT

CONSOLE = ROOT / "registry" / "server" / "console"
API = {
    f"{method.upper()} {path}"
    for path, methods in openapi_document()["paths"].items()
    for method in methods
    if method in {"get", "head", "put", "post", "patch", "delete"}
}


def pages() -> set[str]:
    return {f"{method} {route.path}" for route in page_routes() for method in route.methods or ()}


def page_routes() -> list[APIRoute]:
    return [route for router in routers() for route in router.routes if isinstance(route, APIRoute)]


def test_every_operation_for_people_is_offered_by_a_page() -> None:
    assert API - set(OFFERED) - set(FOR_PROGRAMS) == set()


def test_the_tables_name_only_operations_that_there_are_and_each_once() -> None:
    tables = (set(OFFERED), set(FOR_PROGRAMS))
    assert set().union(*tables) <= API
    assert sum(map(len, tables)) == len(set().union(*tables))


def test_the_pages_that_the_tables_name_are_there() -> None:
    assert {offer.page for offers in OFFERED.values() for offer in offers} - pages() == set()


def test_every_operation_needs_a_role_or_has_a_rule_of_its_own() -> None:
    routes = operations()
    assert set(routes) == API
    assert {operation for operation, route in routes.items() if needs_of(route) is None} == set(OWN_RULES)


def test_a_page_needs_what_its_operation_needs() -> None:
    own = {f"{method} {route.path}": route for route in page_routes() for method in route.methods or ()}
    for operation, offers in OFFERED.items():
        for offer in offers:
            page = needs_of(own[offer.page])
            assert page is not None, offer
            assert page.scope is offer.scope, offer
            needs = needs_of(operations()[operation])
            if needs is not None and len(offers) == 1:
                assert (page.scope, page.everywhere) == (needs.scope, needs.everywhere), offer


@pytest.mark.parametrize("folder", [CONSOLE / "static" / "vendor", ROOT / "tests" / "data" / "axe"])
def test_committed_libraries_are_what_their_manifest_says(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    found = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.iterdir()}
    found.pop("manifest.json")
    assert found == {name: entry["sha256"] for name, entry in manifest.items()}
    assert {f"{entry['package']}.LICENSE" for entry in manifest.values()} <= set(manifest)


def test_templates_hold_no_inline_code_and_no_address_elsewhere() -> None:
    for file in (CONSOLE / "templates").glob("*.html"):
        text = file.read_text()
        assert not re.search(r"\son\w+=|\sstyle=|<style|hx-on|\bjs:|javascript:|\|\s*safe\b", text), file.name
        assert not re.search(r"<script(?![^>]*\bsrc=)(?![^>]*application/json)", text), file.name
        assert not re.search(r"""(?:src|href|action)=["']?(?:https?:)?//""", text), file.name
