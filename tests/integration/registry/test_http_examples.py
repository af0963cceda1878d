"""docs/http.md: every operation of the API has an example, and a registry answers as it shows."""

from __future__ import annotations

import json

from registry.server.app import openapi_document
from scripts.lib import http_examples
from scripts.lib.http_reference import shape

AGAIN = "run scripts/record-http (a new operation: add it to scripts/lib/http_examples.py), then scripts/docs"


def test_every_operation_is_shown_as_a_registry_answers_it() -> None:
    shown = json.loads(http_examples.FILE.read_text())
    paths = openapi_document()["paths"]
    operations = {f"{method.upper()} {path}" for path, methods in paths.items() for method in methods}
    assert set(shown) | set(http_examples.NOT_ASKED) == operations, AGAIN
    asked = http_examples.record()
    for name, example in asked.items():
        assert example["status"] == shown[name]["status"], f"{name}: {AGAIN}"
        assert shape(example["answer"]) == shape(shown[name]["answer"]), f"{name}: {AGAIN}"
        assert example["status"] < 300, name
