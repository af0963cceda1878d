"""Text for people: from elsewhere as a terminal may get it, sizes, counted nouns, a vendor's words. Pure."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable

_STACK = re.compile(r"\s-{4,}\s*(?:$|- (?:C\+\+ )?Call Stack|- The Traceback)")
"""Where MindSpore's errors go on with what only its developers read; the text may be in one line, and cut."""


def how_many(number: int, noun: str) -> str:
    """`1 device`, `2 devices`; for nouns whose plural ends in s."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def without_call_stack(said: str) -> str:
    """MindSpore's own words in one line, without its ruled lines and the call stack below them; others' as they are."""
    return " ".join(word for word in _STACK.split(said, maxsplit=1)[0].split() if not word.startswith("----"))


UNSEEN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
"""Unicode categories (UAX 44) that steer rather than show: control, format (bidirectional marks among them), surrogates
that stand alone, separators of lines and paragraphs. A line feed is not meant."""
UNITS = ("B", "kB", "MB", "GB", "TB")
_UNUSUAL = re.compile(r"[^\n -~]")


def visible(text: str, instead: Callable[[str], str] = lambda _: "\N{REPLACEMENT CHARACTER}") -> str:
    """The text with U+FFFD, or what `instead` gives, for each character that a terminal would obey or hide."""
    return _UNUSUAL.sub(lambda found: instead(found[0]) if unicodedata.category(found[0]) in UNSEEN else found[0], text)


def size_text(count: float) -> str:
    """Bytes for people: 246 kB."""
    for unit in UNITS[:-1]:
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" or count >= 100 else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} {UNITS[-1]}"
