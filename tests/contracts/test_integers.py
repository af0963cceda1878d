"""Every whole number on the wire has a bound, checked where it is parsed: nothing from outside overflows a database."""

from __future__ import annotations

import importlib
import json
import pkgutil
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import ValidationError

import registry.contracts
from registry.contracts.wire import MAX_INTEGER, Wire
from tests.contracts.test_wire_golden import GOLDEN, KINDS

LARGEST = (1 << 63) - 1
"""What a column of a database takes."""


def all_of(base: type[Wire]) -> Iterator[type[Wire]]:
    """Every class of the wire."""
    for each in base.__subclasses__():
        yield each
        yield from all_of(each)


for _module in pkgutil.walk_packages(registry.contracts.__path__, "registry.contracts."):
    importlib.import_module(_module.name)
MODELS = sorted(
    {each for each in all_of(Wire) if each.__module__.startswith("registry.contracts")}, key=lambda each: each.__name__
)


def integers(schema: Any, where: str) -> Iterator[tuple[str, Any, Any]]:
    """Where a whole number may stand, with its bounds."""
    if not isinstance(schema, dict):
        return
    if schema.get("type") == "integer" and "const" not in schema and "enum" not in schema:
        low = schema.get("minimum", schema.get("exclusiveMinimum"))
        yield where, low, schema.get("maximum", schema.get("exclusiveMaximum"))
    for key in ("anyOf", "oneOf", "allOf", "prefixItems"):
        for each in schema.get(key, ()):
            yield from integers(each, where)
    for key in ("items", "additionalProperties"):
        yield from integers(schema.get(key), f"{where}[]")
    for name, each in schema.get("properties", {}).items():
        yield from integers(each, f"{where}.{name}")


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_every_whole_number_has_bounds(model: type[Wire]) -> None:
    found = list(integers(model.model_json_schema(), model.__name__))
    unbounded = [
        where for where, low, high in found if low is None or high is None or low < -LARGEST - 1 or high > LARGEST
    ]
    assert unbounded == []


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where whole numbers stand in a document."""
    if isinstance(value, bool):
        return
    if isinstance(value, int):
        yield path
    for key, each in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from places(each, (*path, key))


def put(value: Any, path: tuple[Any, ...], number: int) -> Any:
    """The document with another number there."""
    copy = json.loads(json.dumps(value))
    at = copy
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = number
    return copy


@pytest.mark.parametrize(
    "name", [name for name, kind in KINDS.items() if kind.__name__ in {"Health", "Reported", "Event"}]
)
def test_no_message_of_a_device_brings_a_larger_number(name: str) -> None:
    kind, document = KINDS[name], json.loads((GOLDEN / f"{name}.json").read_text())
    parsed = kind.model_validate(document)
    unknown = set(parsed.unknown_fields())
    for path in places(document):
        where = ".".join(map(str, path))
        if any(where == each or where.startswith(f"{each}.") for each in unknown) or _is_float(kind, document, path):
            continue
        with pytest.raises(ValidationError):
            kind.model_validate_json(json.dumps(put(document, path, MAX_INTEGER * 1024)))


def _is_float(kind: type[Wire], document: Any, path: tuple[Any, ...]) -> bool:
    """A number that may have a fraction is none of these."""
    try:
        changed = put(document, path, 0)
        at = changed
        for key in path[:-1]:
            at = at[key]
        at[path[-1]] = 0.5
        kind.model_validate_json(json.dumps(changed))
    except ValidationError:
        return False
    return True
