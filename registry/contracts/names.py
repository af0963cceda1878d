"""Which names are allowed. One gate for topics, URLs and file names, so none of them needs escaping."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, StringConstraints

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9._-]{0,62}[a-z0-9])?$")]
"""A model, variant, device or alias: 1 to 64 of `a-z 0-9 . _ -`, starting and ending with a letter or digit.
No `/ + # $`: a name is one MQTT topic level and one URL path segment."""

VersionName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9]([A-Za-z0-9._+-]{0,62}[A-Za-z0-9])?$")]
"""A version: like a name, with capitals and `+`, so that SemVer with build data fits."""

LabelKey = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9]([A-Za-z0-9._/-]{0,62}[A-Za-z0-9])?$")]
LabelValue = Annotated[str, StringConstraints(max_length=256)]

_UNSAFE = r"\x00-\x1f\x7f-\x9f\u2028\u2029\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\\\\*"
"""What no level of a path has: control characters, line separators, what turns the direction of text, backslashes, and
`*`: ONNX Runtime takes the path `*/_ORT_MEM_ADDR_/*` for an address in memory."""
_LEVEL = f"[^./{_UNSAFE}][^/{_UNSAFE}]*"
MAX_LEVEL_BYTES = 255
"""Of one level, in UTF-8: what the usual file systems take."""


def _levels_fit(path: str) -> str:
    long = next((level for level in path.split("/") if len(level.encode()) > MAX_LEVEL_BYTES), None)
    if long is not None:
        raise ValueError(f"{long[:40]!r}... has over {MAX_LEVEL_BYTES} bytes")
    return path


RelativePath = Annotated[
    str,
    StringConstraints(max_length=255, pattern=f"^{_LEVEL}(/{_LEVEL}){{0,7}}$"),
    AfterValidator(_levels_fit),
]
"""A file inside an artifact: POSIX, relative, at most 8 levels, no level starts with a dot (so no `..`).

Else as exporters name their files, spaces, accents and `#` too: a model finds its weights by that name."""
