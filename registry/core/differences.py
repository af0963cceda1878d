"""Where two JSON documents differ, as lines that a person can act on. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

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
    return tuple(_walk("", ours, theirs))


def _walk(path: str, ours: Any, theirs: Any) -> Iterator[str]:
    if _same(ours, theirs):
        return
    one, other = _as_fields(ours), _as_fields(theirs)
    if one is None or other is None:
        yield f"{path or 'document'}: published {_shown(ours)}, offered {_shown(theirs)}"
        return
    for key in sorted({*one, *other}):
        yield from _walk(f"{path}.{key}" if path else key, one.get(key, _ABSENT), other.get(key, _ABSENT))
    if list(one) != list(other) and isinstance(ours, list) and {*one} == {*other}:
        yield f"{path}: another order"


def _same(ours: Any, theirs: Any) -> bool:
    return type(ours) is type(theirs) and bool(ours == theirs)


def _as_fields(value: Any) -> dict[str, Any] | None:
    """An object, or a list whose items have distinct names, by field; None for anything else."""
    if isinstance(value, dict):
        return value
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        return None
    for key in _KEYS:
        names = [item.get(key) for item in value]
        if all(isinstance(name, str) for name in names) and len(set(names)) == len(names):
            return dict(zip(names, value, strict=True))
    return None


def _shown(value: Any) -> str:
    if value is _ABSENT:
        return "nothing"
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= MAX_SHOWN else text[: MAX_SHOWN - 1] + "…"
