"""How deep the brackets of a JSON text nest, without parsing it: a bomb is refused before a parser meets it. Pure."""

from __future__ import annotations

import re

_STRING = re.compile(rb'"(?:[^"\\]+|\\.)*"?', re.DOTALL)
"""Also matches a string that does not end, so that no text makes it try again from each quote."""
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


def nests_deeper(text: bytes, limit: int) -> bool:
    """Do objects and arrays of the text nest more than `limit` levels? Linear in its length."""
    depth = 0
    for bracket in _STRING.sub(b"", text).translate(None, _NOT_BRACKETS):
        if bracket in b"[{":
            depth += 1
            if depth > limit:
                return True
        else:
            depth -= 1
    return False
