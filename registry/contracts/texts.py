"""Text from elsewhere, as a terminal may get it. Pure."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable

UNSEEN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
"""Unicode categories (UAX 44) that steer rather than show: control, format (bidirectional marks among them), surrogates
that stand alone, separators of lines and paragraphs. A line feed is not meant."""
_UNUSUAL = re.compile(r"[^\n -~]")


def visible(text: str, instead: Callable[[str], str] = lambda _: "\N{REPLACEMENT CHARACTER}") -> str:
    """The text with U+FFFD, or what `instead` gives, for each character that a terminal would obey or hide."""
    return _UNUSUAL.sub(lambda found: instead(found[0]) if unicodedata.category(found[0]) in UNSEEN else found[0], text)
