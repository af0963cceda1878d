"""What is to be published, as a program or a publish file (TOML) says it. Commented example: docs/publish.toml.

Paths in a publish file are relative to its own folder. A key that is not known is refused, with the nearest known one:
a misspelt `normalise` must not publish a model that sees its pictures wrongly.
"""

from __future__ import annotations

import re
import sys
import unicodedata
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import ConfigDict, Field, ValidationError

from registry.client.errors import UsageFault
from registry.contracts.catalogue.batching import MAX_JOINED
from registry.contracts.catalogue.detection import DetectionPart, Labels
from registry.contracts.catalogue.manifest import (
    MAX_GOLDEN_CASES,
    Classification,
    Format,
    ImageInput,
    Network,
    Origin,
    Requirements,
    Target,
    TensorSpec,
    Tolerance,
)
from registry.contracts.faults import NAME_RULE, VERSION_RULE, fault_text
from registry.contracts.wire import Wire
from registry.inspection.class_names import read_class_names
from registry.inspection.facts import InspectionError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # type: ignore[import-not-found,unused-ignore]

MAX_FILE_BYTES = 1 << 20
S = TypeVar("S", bound="PublishTable")


class PublishTable(Wire):
    """A part of the request, and a table of the file; unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class RequirementsSection(Requirements):
    """What a host must have. What the file says is read from it: IR and opsets of ONNX, MindSpore of MindIR."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    memory_bytes: int | None = Field(default=None, ge=1)
    disk_bytes: int | None = Field(default=None, ge=1)

    @property
    def given(self) -> dict[str, object]:
        """What the publisher said, by its key."""
        said = (key for key in type(self).model_fields if key in self.model_fields_set)
        return {key: value for key in said if (value := getattr(self, key)) is not None}


class EntryPointSection(PublishTable):
    """`[variant.entry_point]`: code that builds the network that a checkpoint's parameters belong to."""

    module: Path
    """A Python file, relative to the publish file; in the artifact it has its own name only."""
    function: str
    arguments: dict[str, int | float | bool | str] = Field(default_factory=dict)


class BatchingSection(PublishTable):
    """`[variant.batching]`: may requests be joined into one run? Left out, an ONNX graph is asked, else not."""

    independent: bool | None = None
    """True: the publisher declares that the items of one run do not influence each other. False: one at a time."""
    axis: int = Field(default=0, ge=0, le=15)
    max_size: int | None = Field(default=None, ge=1, le=MAX_JOINED)


class VariantSection(PublishTable):
    """`[[variant]]`: one form of the version."""

    file: Path
    target: Target
    name: str | None = None
    """Default: `<format>-<target>`."""
    format: Format | None = None
    """Default: by the file's content."""
    files: tuple[str, ...] = ()
    """Files beside it that belong to it, besides an ONNX model's external data, which is found by itself."""
    requirements: RequirementsSection = RequirementsSection()
    network: Network | None = None
    """The architecture that a checkpoint's parameters belong to. Of a checkpoint only."""
    entry_point: EntryPointSection | None = None
    """Of a checkpoint only, instead of `network`."""
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    batching: BatchingSection = BatchingSection()
    links_within: Path | None = None
    """Symbolic links of the files beside an ONNX model are followed if they stay in this folder. Default: none is."""


class GoldenSection(PublishTable):
    """`[golden]`: what every variant must answer. Given in a file, or made here from one variant."""

    file: Path | None = None
    """.safetensors or .npz: `<case>/in/<input>` and `<case>/out/<output>`."""
    reference: str | None = None
    """The variant that makes the outputs; default: the first that runs here."""
    inputs: Path | None = None
    """To make the outputs from: .safetensors or .npz with `<case>/in/<input>`, or one case of plain input names."""
    random: int | None = Field(default=None, ge=0, le=MAX_GOLDEN_CASES)
    """As many random cases for the reference; 0: no golden vectors, and nothing is run here."""
    of: str | None = None
    """MODEL@VERSION: the golden vectors that it carries."""
    compare_with: str | None = None
    """MODEL@VERSION: its model makes the outputs here, instead of a variant."""
    tolerance: Tolerance = Tolerance()
    """How far an output may be from the golden one."""

    @property
    def says_more(self) -> bool:
        """Does the publisher want golden vectors, or none, beyond what is done without a word?"""
        return self != GoldenSection(tolerance=self.tolerance)


LayoutName = Literal["yolov5", "yolov8", "yolo-end-to-end", "torchvision", "tensorflow", "detr", "rt-detr"]
"""Of a detector's outputs: `registry.publishing.detectors`."""


class DetectionSection(PublishTable):
    """`[detection]`: a layout by its name, with what is otherwise; or all of a manifest's `Detection`, without one."""

    layout: LayoutName | None = None
    """What the exporter writes."""
    boxes: DetectionPart | None = None
    """As the following, see `registry.contracts.catalogue.detection`."""
    format: Literal["xyxy", "yxyx", "xywh", "cxcywh"] | None = None
    normalised: bool | None = None
    scores: DetectionPart | None = None
    classes: DetectionPart | None = None
    objectness: DetectionPart | None = None
    activation: Literal["none", "sigmoid", "softmax"] | None = None
    background: Literal["none", "first", "last"] | None = None
    extra_values: int | None = Field(default=None, ge=0)
    count: str | None = None
    selected: str | None = None
    labels: Labels | None = None
    """In a file `labels_file` may stand for it. None: Ultralytics' own names, where the file has them."""
    nms: Literal["graph", "class", "agnostic"] | None = None
    iou_threshold: float | None = Field(default=None, ge=0, le=1)
    score_threshold: float | None = Field(default=None, ge=0, le=1)
    max_detections: int | None = Field(default=None, ge=1)
    multi_label: bool | None = None


class PublishRequest(PublishTable):
    """One version: its variants, and what belongs to all of them."""

    model: str
    version: str | None = None
    """May be given with --version instead."""
    licence: str | None = None
    origin: Origin | None = None
    """Where it comes from: told to people."""
    card: Path | None = None
    aliases: tuple[str, ...] = ()
    labels: dict[str, str] = Field(default_factory=dict)
    image: ImageInput | None = None
    """How a picture becomes the input."""
    classification: Classification | None = None
    """How an output becomes labels; in a file `labels_file` may stand for `labels`."""
    detection: DetectionSection | None = None
    """How outputs become boxes."""
    golden: GoldenSection = GoldenSection()
    signing_key: Path | None = None
    """Signs the entry points of all variants; a file of `registry key new`. May be given with --signing-key instead."""
    variant: tuple[VariantSection, ...] = Field(min_length=1)


def for_targets(section: VariantSection, targets: Sequence[Target]) -> tuple[VariantSection, ...]:
    """A variant of the same files for each target. With several, a name that was given gets the target behind it."""
    name = section.name
    return tuple(
        section.model_copy(update={"target": target, "name": f"{name}-{target}" if name and targets[1:] else name})
        for target in targets
    )


def load_publish_file(path: Path) -> PublishRequest:
    """Read and check a publish file; its paths come back relative to the working directory.

    Raises:
        UsageFault: it cannot be read, is no TOML, or breaks a rule; every fault is named.
    """
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise UsageFault(f"{path} is over {MAX_FILE_BYTES} bytes: not a publish file")
        raw = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError) as error:
        raise UsageFault(f"{path} cannot be read: {error}") from error
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise UsageFault(f"{path} is not valid TOML: {error}") from error
    _take_labels_file(raw, path)
    _take_targets(raw)
    try:
        parsed = PublishRequest.model_validate(raw, extra="forbid")
    except ValidationError as error:
        raise UsageFault(
            f"{path} is not a valid publish file", hint="A commented example: docs/publish.toml", errors=faults(error)
        ) from error
    return _relative_to(parsed, path.parent)


def faults(error: ValidationError) -> tuple[str, ...]:
    """One line per fault: where, what; with the nearest known key for an unknown one."""
    found = [dict(fault) for fault in error.errors()]
    return tuple(_fault(fault) for fault in found if not _is_echo(fault, found))


def _is_echo(fault: dict[str, Any], found: Sequence[dict[str, Any]]) -> bool:
    """Items that are wrong are missing in their list as well; only what is wrong with them is of interest."""
    where = fault["loc"]
    inside = [other for other in found if len(other["loc"]) > len(where) and other["loc"][: len(where)] == where]
    return fault["type"] == "too_short" and bool(inside)


def _fault(fault: dict[str, Any]) -> str:
    where = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "value_error":
        return f"{where}: {fault_text(fault)}" if where else fault_text(fault)
    if fault["type"] == "string_pattern_mismatch" and fault["loc"][-1] in ("model", "name"):
        return f"{where}: {str(fault['input'])[:80]!r} is no name{_like(str(fault['input']))}"
    if fault["type"] == "string_pattern_mismatch" and where == "version":
        return f"version: {str(fault['input'])[:80]!r} is no version: {VERSION_RULE}; for example '1.2.0'"
    if fault["type"] != "extra_forbidden":
        return f"{where or 'the file'}: {fault_text(fault)}"
    near = get_close_matches(str(fault["loc"][-1]), _KNOWN_KEYS, n=1)
    return f"{where}: unknown key" + (f"; did you mean {near[0]!r}?" if near else "")


def near_name(text: str) -> str:
    """The nearest name that a model may have; empty where nothing is left of the text."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9._-]+", "-", plain).strip("._-")[:64].strip("._-")


def _like(text: str) -> str:
    """What a name may be, with one that is near."""
    near = near_name(text)
    return f": {NAME_RULE}; for example {near!r}" if near else f": {NAME_RULE}"


def _take_labels_file(raw: dict[str, Any], path: Path) -> None:
    for table in ("classification", "detection"):
        section = raw.get(table)
        if not isinstance(section, dict) or "labels_file" not in section:
            continue
        if "labels" in section:
            raise UsageFault(f"{path}: {table} has both labels and labels_file")
        source = path.parent / str(section.pop("labels_file"))
        try:
            section["labels"] = read_class_names(source)
        except InspectionError as error:
            raise UsageFault(f"{path}: {error.message}") from error


def _take_targets(raw: dict[str, Any]) -> None:
    """`target = ["cpu", "gpu"]` stands for a variant for each."""
    sections = raw.get("variant")
    if not isinstance(sections, list):
        return
    made: list[Any] = []
    for section in sections:
        targets = section.get("target") if isinstance(section, dict) else None
        if not isinstance(targets, list) or not targets:
            made.append(section)
            continue
        for target in targets:
            name = {"name": f"{section['name']}-{target}"} if "name" in section and targets[1:] else {}
            made.append({**section, **name, "target": target})
    raw["variant"] = made


def _relative_to(request: PublishRequest, folder: Path) -> PublishRequest:
    variants = []
    for section in request.variant:
        code = None if section.entry_point is None else _placed(section.entry_point, folder, "module")
        variants.append(_placed(section.model_copy(update={"entry_point": code}), folder, "file", "links_within"))
    update = {"variant": tuple(variants), "golden": _placed(request.golden, folder, "file", "inputs")}
    return _placed(request.model_copy(update=update), folder, "card", "signing_key")


def _placed(section: S, folder: Path, *names: str) -> S:
    """The section with these paths, where it has them, below `folder`."""
    given = {name: folder / path for name in names if (path := getattr(section, name)) is not None}
    return section.model_copy(update=given)


_SECTIONS = (
    *(PublishRequest, VariantSection, EntryPointSection, RequirementsSection, BatchingSection, TensorSpec),
    *(ImageInput, Classification, DetectionSection, DetectionPart, GoldenSection, Tolerance, Origin),
)
_KNOWN_KEYS = sorted({"labels_file", *(key for section in _SECTIONS for key in section.model_fields)})
