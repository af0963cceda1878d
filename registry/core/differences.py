"""Where two JSON documents differ, as lines that a person can act on. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

MAX_SHOWN = 80
"""Characters of one value."""
_KEYS = ("name", "path")
"""What names an item of a list, so that a list in another order compares item by item."""
_ABSENT = object()


def differences(ours: Any, theirs: Any) -> tuple[str, ...]:
    """One line per field that differs: `variants.cpu.files.model.onnx.digest: published "…", offered "…"`.

    Args:
        ours: What is published, as JSON types.
        theirs: What was offered.
    """
    return tuple(
        f"{each.field}: {each.after}" if each.before == each.after else
        f"{each.field}: published {each.before}, offered {each.after}"
        for each in changes(ours, theirs)
    )  # fmt: skip


class Change(NamedTuple):
    """One field that differs, with its values as JSON, shortened. Both say `another order` where only that differs."""

    field: str
    before: str
    after: str


def changes(ours: Any, theirs: Any) -> tuple[Change, ...]:
    """Every field that differs, from `ours` to `theirs`."""
    return tuple(_walk("", ours, theirs))


def _walk(path: str, ours: Any, theirs: Any) -> Iterator[Change]:
    if ours is not _ABSENT and theirs is not _ABSENT and _text(ours) == _text(theirs):
        return
    fields = _as_fields(ours, theirs)
    if fields is None:
        yield Change(path or "document", _shown(ours), _shown(theirs))
        return
    one, other = fields
    for key in sorted({*one, *other}):
        yield from _walk(f"{path}.{key}" if path else key, one.get(key, _ABSENT), other.get(key, _ABSENT))
    if isinstance(ours, list) and one.keys() == other.keys() and list(one) != list(other):
        yield Change(path or "document", "another order", "another order")


def _as_fields(ours: Any, theirs: Any) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """Two objects, or two lists whose items have distinct names, by field; None for anything else."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        return ours, theirs
    if isinstance(ours, list) and isinstance(theirs, list):
        for key in _KEYS:
            one, other = _by_name(ours, key), _by_name(theirs, key)
            if one is not None and other is not None:
                return one, other
    return None


def _by_name(items: list[Any], key: str) -> dict[str, Any] | None:
    named = {item[key]: item for item in items if isinstance(item, dict) and isinstance(item.get(key), str)}
    return named if len(named) == len(items) else None


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True)  # not ==, to which 1, 1.0 and True are the same


def _shown(value: Any) -> str:
    if value is _ABSENT:
        return "nothing"
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= MAX_SHOWN else text[: MAX_SHOWN - 1] + "…"
