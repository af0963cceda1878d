"""Whether an answer to a request for a file, or for its rest, goes on where it should (RFC 9110, section 14). Pure."""

from __future__ import annotations

from collections.abc import Mapping


class RangeError(Exception):
    """The body is not what was asked for. The text says why.

    Args:
        recoded: Somebody on the way encodes bodies: a part of one that was encoded cannot be put together with another.
    """

    def __init__(self, text: str, *, recoded: bool = False) -> None:
        super().__init__(text)
        self.recoded = recoded


def body_start(status: int, headers: Mapping[str, str], start: int, size: int) -> int:
    """The offset in the file of the body's first byte: `start`, or 0 where the whole file comes.

    Args:
        status: The answer's.
        headers: The answer's, by names in small letters.
        start: The first byte that was asked for.
        size: Bytes of the whole file.

    Raises:
        RangeError: it is another range, of a file of another size, or no file at all.
    """
    recoded = "content-encoding" in headers
    if status == 206:
        if recoded:
            raise RangeError("somebody on the way recodes what the registry sends", recoded=True)
        if headers.get("content-range") != f"bytes {start}-{size - 1}/{size}":
            raise RangeError(f"asked for bytes {start}- of {size}, got another range")
    elif status == 200:
        start = 0
    else:
        raise RangeError(f"status {status} for a file")
    length = headers.get("content-length")
    if length is not None and not recoded and length != str(size - start):
        raise RangeError(f"{length} bytes are to come, not the {size - start} that lack")
    return start
