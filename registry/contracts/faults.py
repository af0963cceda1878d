"""What is wrong with a value, in words: one line for each fault that a contract finds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from registry.contracts.topics import NAME
from registry.contracts.wire import DIGEST, LABEL_KEY, VERSION_NAME

_ENDS = "beginning and ending with a letter or digit"
NAME_RULE = f"1 to 64 of a-z 0-9 . _ -, {_ENDS}"
VERSION_RULE = f"1 to 64 of A-Z a-z 0-9 . _ + -, {_ENDS}"
_RULES = {
    NAME: f"a name is {NAME_RULE}",
    VERSION_NAME: f"a version is {VERSION_RULE}",
    LABEL_KEY: f"a label's key is 1 to 64 of A-Z a-z 0-9 . _ / -, {_ENDS}",
    DIGEST: "a digest is sha256: and 64 of 0-9 a-f",
    r"^https?://": "an address begins with http:// or https://",
    r"\S": "it is blank",
}
"""What the patterns of the contracts ask for."""


def fault_text(fault: Mapping[str, Any]) -> str:
    """What is wrong, without where. The value itself is not repeated: it may be a secret."""
    context = fault.get("ctx") or {}
    if fault["type"] == "value_error" and "error" in context:  # our own words
        return str(context["error"])
    if fault["type"] == "string_pattern_mismatch" and context.get("pattern") in _RULES:
        return _RULES[context["pattern"]]
    return str(fault["msg"])


def fault_lines(faults: Iterable[Mapping[str, Any]], whole: str = "") -> tuple[str, ...]:
    """One line per fault: where it is, what is wrong.

    Args:
        faults: As `errors()` of a validation gives them.
        whole: What a fault of the value as a whole is said of; empty: of nothing.
    """
    return tuple(_line(".".join(map(str, fault["loc"])) or whole, fault_text(fault)) for fault in faults)


def _line(where: str, what: str) -> str:
    return f"{where}: {what}" if where else what
