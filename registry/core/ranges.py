"""The Range header (RFC 9110, 14): one range of bytes; anything else is ignored, as the standard allows."""

from __future__ import annotations

import re

_ONE_RANGE = re.compile(r"bytes=[ \t]*([0-9]{0,19})-([0-9]{0,19})[ \t]*\Z", re.ASCII | re.IGNORECASE)


class UnsatisfiableRangeError(ValueError):
    """The range begins after the last byte."""


def parse_range(header: str | None, size: int) -> tuple[int, int] | None:
    """First byte and the one after the last; None: send the whole.

    Args:
        header: The header's value, if there is one.
        size: Bytes of the whole.

    Raises:
        UnsatisfiableRangeError: nothing of it exists: 416.
    """
    match = _ONE_RANGE.match(header) if header is not None else None
    if match is None or match.groups() == ("", ""):
        return None
    first, last = match.groups()
    if not first:
        start, end = max(size - int(last), 0), size
    else:
        start, end = int(first), int(last) + 1 if last else size
        if end <= start and last:
            return None  # last before first: no range at all
    if start >= size:
        raise UnsatisfiableRangeError(f"bytes {header!r} of {size}")
    return start, min(end, size)
