"""How texts for people put a number and what it counts, and what a vendor's library said."""

from __future__ import annotations

import re

_STACK = re.compile(r"\s-{4,}\s*(?:$|- (?:C\+\+ )?Call Stack|- The Traceback)")
"""Where MindSpore's errors go on with what only its developers read; the text may be in one line, and cut."""


def how_many(number: int, noun: str) -> str:
    """`1 device`, `2 devices`; for nouns whose plural ends in s."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def without_call_stack(said: str) -> str:
    """MindSpore's own words in one line, without its ruled lines and the call stack below them; others' as they are."""
    return " ".join(word for word in _STACK.split(said, maxsplit=1)[0].split() if not word.startswith("----"))
