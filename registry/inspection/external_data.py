"""Files that an ONNX model refers to: inside its own folder, and nobody else's.

A model that names `../../etc/shadow`, or a link to it, would have that file uploaded and served.
So every level of the path is looked at without following links, the file must be a regular one, and
it may have one name only: ONNX Runtime reads a hard link like any other file.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from registry.contracts.wire import RelativePath
from registry.inspection.facts import InspectionError

MAX_COMPANIONS = 63
"""A variant has at most 64 files, one of them the model."""

_PATH: TypeAdapter[str] = TypeAdapter(RelativePath)


@dataclass(frozen=True)
class ExternalTensor:
    """Where a tensor's bytes lie outside the model file."""

    tensor: str
    location: str
    offset: int = 0
    length: int | None = None
    """None: to the end of the file."""


def companions(folder: Path, tensors: Iterable[ExternalTensor], links_within: Path | None = None) -> tuple[str, ...]:
    """The distinct files that `tensors` lie in, checked as `checked_size` does.

    Raises:
        InspectionError: a location leaves the folder, is a link, is missing or too short, or there are too many.
    """
    sizes: dict[str, int] = {}
    for tensor in tensors:
        location = plain_path(tensor.location)
        if location not in sizes:
            if len(sizes) == MAX_COMPANIONS:
                raise InspectionError(
                    f"the model's weights are spread over more than {MAX_COMPANIONS} files. Save them as one: "
                    "onnx.save(model, path, save_as_external_data=True, all_tensors_to_one_file=True)"
                )
            sizes[location] = checked_size(folder, location, f"tensor {tensor.tensor!r}", links_within)
        size = sizes[location]
        end = tensor.offset + (tensor.length or 0)
        if tensor.offset < 0 or (tensor.length or 0) < 0 or end > size:
            raise InspectionError(
                f"tensor {tensor.tensor!r} lies at bytes {tensor.offset} to {end} of {tensor.location}, "
                f"which has only {size}: the file is cut short or belongs to another model"
            )
    return tuple(sorted(sizes))


def plain_path(location: str) -> str:
    """The same file without `./` and doubled slashes; what leaves the folder does so still."""
    levels = [level for level in location.split("/") if level not in ("", ".")]
    return "/".join(levels) if levels and not location.startswith("/") else location


def checked_size(folder: Path, location: str, wanted_by: str, links_within: Path | None = None) -> int:
    """The size of the file at `location` below `folder`.

    Args:
        links_within: Links are followed as long as what they lead to lies in this folder; None: no link is followed.

    Raises:
        InspectionError: it may not be published, with the reason.
    """
    who = f"{wanted_by} refers to the file {location[:200]!r}"
    try:
        _PATH.validate_python(location)
    except ValidationError as error:
        raise InspectionError(
            f"{who}, which is not a plain path below the model's folder (no `..`, no leading `/` or `.`, no backslash, "
            "no `*`, no control characters, at most 8 levels). Save the model again with its data beside it"
        ) from error
    path = folder
    for level in location.split("/"):
        path = path / level
        try:
            status = path.lstat()
        except OSError as error:
            raise InspectionError(f"{who}, which cannot be read: {error.strerror}. Put it beside the model") from error
        if stat.S_ISLNK(status.st_mode) and links_within is not None:
            status = _linked(path, links_within, who)
        elif stat.S_ISLNK(status.st_mode):
            raise InspectionError(f"{who}, but {path.name} is a symbolic link. Copy the file itself (cp -L)")
    if not stat.S_ISREG(status.st_mode):
        raise InspectionError(f"{who}, which is not a regular file")
    if status.st_nlink != 1:
        raise InspectionError(
            f"{who}, which has {status.st_nlink} names (hard links), so it may be another file of this machine. "
            "Copy it to a file of its own (cp)"
        )
    return status.st_size


def _linked(path: Path, root: Path, who: str) -> os.stat_result:
    try:
        target = path.resolve(strict=True)
        if target.is_relative_to(root.resolve()):
            return target.lstat()
    except (OSError, RuntimeError) as error:
        raise InspectionError(f"{who}, and the link {path.name} leads nowhere: {error}") from error
    raise InspectionError(f"{who}, but the link {path.name} leaves {root}")
