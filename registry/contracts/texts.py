"""Text for people: from elsewhere, as a terminal may get it, and sizes. Pure."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable

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
