"""Which names are allowed. One gate for topics, URLs and file names, so none of them needs escaping."""

from __future__ import annotations

from typing import Annotated

from pydantic import StringConstraints

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9._-]{0,62}[a-z0-9])?$")]
"""A model, variant, device or alias: 1 to 64 of `a-z 0-9 . _ -`, starting and ending with a letter or digit.
No `/ + # $`: a name is one MQTT topic level and one URL path segment."""

VersionName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9]([A-Za-z0-9._+-]{0,62}[A-Za-z0-9])?$")]
"""A version: like a name, with capitals and `+`, so that SemVer with build data fits."""

LabelKey = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9]([A-Za-z0-9._/-]{0,62}[A-Za-z0-9])?$")]
LabelValue = Annotated[str, StringConstraints(max_length=256)]

RelativePath = Annotated[
    str,
    StringConstraints(max_length=255, pattern=r"^[A-Za-z0-9_-][A-Za-z0-9._+-]*(/[A-Za-z0-9_-][A-Za-z0-9._+-]*){0,7}$"),
]
"""A file inside an artifact: POSIX, relative, at most 8 levels, no level starts with a dot (so no `..`)."""
