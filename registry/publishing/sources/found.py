"""What was found where a model lies, and how its small files are read: bounded, and refused with the reason."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from registry.contracts.catalogue.manifest import Classification, ImageInput, Origin, Target, TensorSpec
from registry.contracts.codes import ClientCode, ProblemCode
from registry.inspection.facts import InspectionError, ModelFacts
from registry.publishing.request import BatchingSection, DetectionSection

MAX_TEXT_BYTES = 4 << 20
"""Of a configuration file: a list of 65,536 labels takes 2 MiB."""


class SourceError(InspectionError):
    """What the source holds cannot be imported; the message says why, and what to do."""

    code: str = ClientCode.INVALID_SOURCE


class SourceMissingError(SourceError):
    """What the source names is not there."""

    code = ProblemCode.NOT_FOUND
    hint = "Check the path or the name."


class SourceUsageError(SourceError):
    """The command line says too little, or something else than the source needs."""

    code = ClientCode.USAGE


@dataclass(frozen=True)
class SourceChoice:
    """What the publisher says beside the source."""

    file: str | None = None
    """A file inside the source, where it holds several; of Triton: the number of a version."""
    trust_pickle: bool = False
    """A pickle may be read, which runs its author's code in a sandbox."""
    inputs: tuple[TensorSpec, ...] = ()
    """Of a model that does not say them itself, for its export; -1 is any size."""


@dataclass(frozen=True)
class FoundFile:
    """One model file of a source."""

    file: Path
    targets: tuple[Target, ...] = ()
    """Empty: the source does not say, and the publisher chooses."""
    batching: BatchingSection = field(default_factory=BatchingSection)
    links_within: Path | None = None
    """Symbolic links of its companions are followed as long as they stay inside this folder."""
    facts: ModelFacts | None = None
    """Where the source's reader has inspected the file, as publishing does."""


@dataclass(frozen=True)
class FoundModel:
    """A model as its source describes it. What the source says and this product cannot do as said is in `notes`."""

    origin: Origin
    files: tuple[FoundFile, ...]
    name: str = ""
    """Suggested, in the form of a model's name; empty: the source has none."""
    version: str | None = None
    licence: str | None = None
    card: Path | None = None
    image: ImageInput | None = None
    classification: Classification | None = None
    detection: DetectionSection | None = None
    notes: tuple[str, ...] = ()
    """What was left out, and why, a sentence each."""
    keep: ExitStack = field(default_factory=ExitStack)
    """Holds what was unpacked; closed by the caller when the model is published."""

    @property
    def inspected(self) -> dict[tuple[Path, Path | None], ModelFacts]:
        """For `make_plan`: what was inspected need not be inspected again."""
        return {(file.file, file.links_within): file.facts for file in self.files if file.facts is not None}


def version_from(text: str) -> str | None:
    """The nearest name that a version may have."""
    return re.sub(r"[^A-Za-z0-9._+-]+", "-", text).strip("._+-")[:64].strip("._+-") or None


def read_text(path: Path) -> str:
    """A configuration file in UTF-8. Raises InspectionError."""
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_TEXT_BYTES + 1)
        if len(raw) > MAX_TEXT_BYTES:
            raise SourceError(f"{path} has over {MAX_TEXT_BYTES} bytes: not a configuration file")
        return raw.decode("utf-8-sig")
    except OSError as error:
        raise SourceError(f"{path} cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise SourceError(f"{path} is not UTF-8") from None


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object from a file. Raises InspectionError."""
    try:
        value = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise SourceError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise SourceError(f"{path} is not a JSON object")
    return value


def inside(folder: Path, name: str, who: str, links_within: Path | None = None) -> Path:
    """The file below `folder`. Raises InspectionError: it leaves the folder, or by a link `links_within`."""
    path = folder / name
    leaves = Path(name).is_absolute() or ".." in Path(name).parts
    try:
        leaves = leaves or not path.resolve().is_relative_to((links_within or folder).resolve())
    except (OSError, RuntimeError, ValueError):  # links in a circle, a name with NUL
        leaves = True
    if leaves:
        raise SourceError(f"{who} names {name[:200]!r}, which lies outside {folder}")
    return path


def only_one(
    paths: Sequence[Path], folder: Path, chosen: str | None, what: str, links_within: Path | None = None
) -> Path:
    """The file that is meant. Raises InspectionError: there is none, or which one is not said."""
    if chosen is not None:
        path = inside(folder, chosen, "--file", links_within)
        if not path.is_file():
            raise SourceMissingError(f"{path} does not exist, or is not a file")
        return path
    if not paths:
        raise SourceError(f"{folder} holds {what}")
    if len(paths) > 1:
        names = ", ".join(path.relative_to(folder).as_posix() for path in paths[:8])
        raise SourceUsageError(f"{folder} holds {len(paths)} models ({names}): say which with --file")
    return paths[0]
