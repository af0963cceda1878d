"""docs/wire.md says of every field of every message what it means."""

from __future__ import annotations

import importlib
import json
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path

from registry import contracts
from registry.contracts.wire import Wire

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "wire.md").read_text()


def _messages(base: type[Wire] = Wire) -> Iterator[str]:
    for kind in base.__subclasses__():
        if kind.__module__.startswith("registry.contracts.") and "[" not in kind.__name__:
            yield kind.__name__
        yield from _messages(kind)


def test_no_field_is_without_a_meaning() -> None:
    rows = [line for line in PAGE.splitlines() if re.match(r"\| `.*\|$", line)]
    assert len(rows) > 500
    assert [row for row in rows if re.search(r"\|\s*\|$", row)] == []


def test_every_message_is_on_the_page() -> None:
    for module in pkgutil.walk_packages(contracts.__path__, "registry.contracts."):
        importlib.import_module(module.name)
    assert set(_messages()) - set(re.findall(r"^### (\w+)$", PAGE, re.MULTILINE)) == set()


def test_every_field_of_the_api_has_a_description() -> None:
    schemas = json.loads((DOCS / "openapi.json").read_text())["components"]["schemas"]
    fields = [
        (name, field, what) for name, schema in schemas.items() for field, what in schema.get("properties", {}).items()
    ]
    assert [(name, field) for name, field, what in fields if "description" not in what] == []
