"""docs/http.md, made from the API's OpenAPI document and the examples that scripts/record-http recorded."""

from __future__ import annotations

import json
from typing import Any

from scripts.lib.http_examples import FILE, NOT_ASKED

INTRODUCTION = """\
# The HTTP API

Every operation with a request and the registry's real answer, as `scripts/record-http` recorded them. Times, ids,
digests and secrets are replaced, and of lists two items are shown. [openapi.json](openapi.json) has every field with
its meaning, [wire.md](wire.md#http-api) the rules. A refusal is a problem document with a code: [codes.md](codes.md).

Each request has `Authorization: Bearer TOKEN`, wherever it comes from. `/healthz` and `/readyz` alone need none.
"""


def short(value: Any) -> Any:
    """For a page: of a list the first two, of a text the first hundred characters."""
    if isinstance(value, dict):
        return {name: short(item) for name, item in value.items()}
    if isinstance(value, list):
        return [short(item) for item in value[:2]] + (["..."] if len(value) > 2 else [])
    return value[:100] + "..." if isinstance(value, str) and len(value) > 100 else value


def shape(value: Any) -> Any:
    """The names and kinds of a document, without its values."""
    if isinstance(value, dict):
        return {name: shape(item) for name, item in sorted(value.items())}
    return [shape(item) for item in value[:1]] if isinstance(value, list) else type(value).__name__


def render(document: dict[str, Any]) -> str:
    """docs/http.md without its notice: every operation of the OpenAPI document with its example."""
    examples = json.loads(FILE.read_text())
    parts = [INTRODUCTION]
    topics: dict[str, list[str]] = {}
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            topics.setdefault(operation["tags"][0], []).append(
                _section(f"{method.upper()} {path}", operation, examples)
            )
    for topic, sections in sorted(topics.items()):
        parts += [f"\n## {topic.capitalize()}\n", *sections]
    return "".join(parts)


def _section(name: str, operation: dict[str, Any], examples: dict[str, Any]) -> str:
    about = " ".join(operation.get("description", "").split())
    head = f"\n### {name}\n\n{about}\n"
    if name not in examples:
        return f"{head}\n{NOT_ASKED.get(name, 'No example yet: run scripts/record-http.')}\n"
    example = examples[name]
    lines = [example["request"], *(f"{header}: {value}" for header, value in example["headers"].items())]
    if example["body"] is not None:
        lines += ["", _text(example["body"])]
    return (
        f"{head}\n```http\n"
        + "\n".join(lines)
        + f"\n```\n\n{example['status']}:\n\n```json\n{_text(example['answer'])}\n```\n"
    )


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(short(value), indent=1, ensure_ascii=False)
