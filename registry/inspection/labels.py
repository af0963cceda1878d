"""A labels file: the classes in the order of the model's output, one a line, read as it stands.

The number of a line is the number of its class. So nothing is left out and nothing is tidied: a blank line is a class
without a name, spaces belong to a label, a label may come twice. Lines end with LF or CRLF (or CR, in a file that has
no LF); U+0085, U+2028 and their like are part of a label. What ends a file is no line of its own.
"""

from __future__ import annotations

from pathlib import Path

from registry.inspection.facts import InspectionError

MAX_LABELS_BYTES = 12 << 20
_OTHER_MARKS = ((b"\xff\xfe", "UTF-16"), (b"\xfe\xff", "UTF-16"))


def read_labels(path: Path) -> tuple[str, ...]:
    """The labels of a file in UTF-8, with or without a byte-order mark.

    Raises:
        InspectionError: it cannot be read, is too long, is no such text, or has no label.
    """
    try:
        return split_labels(read_text(path))
    except ValueError as error:
        raise InspectionError(f"the labels file {path}: {error}") from None


def read_text(path: Path) -> str:
    """The text of a file in UTF-8, with or without a byte-order mark. Raises InspectionError."""
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_LABELS_BYTES + 1)
    except OSError as error:
        raise InspectionError(f"the labels file {path} cannot be read: {error.strerror or error}") from None
    if len(raw) > MAX_LABELS_BYTES:
        raise InspectionError(f"the labels file {path} has over {MAX_LABELS_BYTES} bytes")
    for mark, name in _OTHER_MARKS:
        if raw.startswith(mark):
            raise InspectionError(f"the labels file {path} is {name}: save it as UTF-8")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise InspectionError(f"the labels file {path} is not UTF-8 (line {line}): save it as UTF-8") from None


def split_labels(text: str) -> tuple[str, ...]:
    """The labels of a text. Raises ValueError."""
    ending = "\n" if "\n" in text or "\r" not in text else "\r"
    lines = text.split(ending)
    if lines[-1] == "":
        lines.pop()
    if ending == "\n":
        lines = [line.removesuffix("\r") for line in lines]
    if not lines:
        raise ValueError("it is empty: one label a line")
    odd = next((number for number, line in enumerate(lines, 1) if "\r" in line or "\0" in line), None)
    if odd is not None:
        raise ValueError(f"line {odd} has a carriage return or a NUL within a label")
    return tuple(lines)
