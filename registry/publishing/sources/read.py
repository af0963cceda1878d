"""Models from where they lie: which kind of source a text names, and the request that publishes what was found."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from registry.client.errors import UsageFault
from registry.contracts.catalogue.manifest import Classification, Format, Origin, Target
from registry.inspection.detect import detect
from registry.inspection.facts import ModelFacts
from registry.inspection.onnx import inspect
from registry.publishing.request import PublishRequest, VariantSection, for_targets, near_name
from registry.publishing.sources.found import (
    FoundFile,
    FoundModel,
    SourceChoice,
    SourceError,
    SourceUsageError,
)
from registry.publishing.sources.hub_snapshots import read_huggingface
from registry.publishing.sources.mlflow_folders import read_mlflow
from registry.publishing.sources.oci_layouts import read_oci
from registry.publishing.sources.pytorch import read_torch
from registry.publishing.sources.scikit_learn import read_sklearn
from registry.publishing.sources.triton_repositories import read_triton

NO_CHOICE = SourceChoice()

SOURCES: dict[str, Callable[[str, SourceChoice], FoundModel]] = {
    "mlflow": lambda rest, choice: read_mlflow(Path(rest), choice),
    "hf": read_huggingface,
    "triton": lambda rest, choice: read_triton(Path(rest), choice),
    "oci": read_oci,
    "sklearn": lambda rest, choice: read_sklearn(Path(rest), choice),
    "torch": lambda rest, choice: read_torch(Path(rest), choice),
}
"""What stands before the colon, and who reads what stands behind it."""
_EXPORTED = ("sklearn", "torch")
"""Those of one file, which is exported."""


def read_source(sources: Sequence[str], choice: SourceChoice = NO_CHOICE) -> FoundModel:
    """The model that the texts name: one of SOURCES, or files of the same model.

    Args:
        sources: `mlflow:FOLDER`, `hf:ORG/NAME[@REVISION]`, `triton:FOLDER`, `oci:FOLDER[:TAG]`, `sklearn:FILE`,
            `torch:FILE`, or paths of files.
        choice: What the publisher says beside it.

    Raises:
        UsageFault: several sources, or none of a known kind.
        InspectionError: what is there cannot be published.
    """
    kind, colon, rest = sources[0].partition(":")
    if colon and kind in SOURCES and not _exists(sources[0]):
        if len(sources) > 1:
            raise UsageFault(f"{kind}: takes one source, and there are {len(sources)}")
        if not rest:
            what = "file" if kind in _EXPORTED else "folder"
            raise UsageFault(f"No {what} after {kind}:", hint=f"{kind}:{what.upper()}; see registry import --help")
        if choice.inputs and kind not in ("torch", "mlflow"):
            raise UsageFault(f"--input is for models that do not say their inputs: torch:, mlflow:; {kind}: says them")
        return _read(kind, rest, choice)
    if choice.inputs:
        raise UsageFault("--input is for models that are exported and do not say their inputs: torch:, mlflow:")
    if choice.file is not None:
        raise UsageFault("--file names a file inside mlflow:, hf:, triton: or oci:; a path names the file itself")
    paths = [Path(source) for source in sources]
    if folder := next((path for path in paths if _exists(str(path)) and path.is_dir()), None):
        return _guessed(folder, len(paths), choice)
    for path, source in zip(paths, sources, strict=True):
        if not _exists(source) or not path.is_file():
            raise UsageFault(
                f"{source[:300]} is not a file, and begins with none of: {', '.join(f'{kind}:' for kind in SOURCES)}",
                hint="registry import --help shows each of them",
            )
    files = tuple(FoundFile(path, facts=_onnx_facts(path)) for path in paths)
    return FoundModel(
        origin=Origin(kind="files", source=paths[0].name[:512]),
        files=files,
        name=near_name(paths[0].stem),
        classification=_described_classes(files[0].facts),
    )


def _onnx_facts(path: Path) -> ModelFacts | None:
    """Of an ONNX file, which may name its classes; of others nothing is taken over."""
    return inspect(path) if detect(path) is Format.ONNX else None


def _described_classes(facts: ModelFacts | None) -> Classification | None:
    """The classes that ultralytics wrote into a classifier, whose one output is its probabilities."""
    said = facts.described if facts is not None else None
    if facts is None or said is None or said.task != "classify" or len(facts.outputs) != 1:
        return None
    (output,) = facts.outputs
    ends_in_softmax = facts.last_operators.get(output.name) == "Softmax"
    if not said.names or not ends_in_softmax or len(output.shape) != 2 or output.shape[1] != len(said.names):
        return None
    return Classification(output=output.name, softmax=False, labels=said.names, top_k=min(5, len(said.names)))


def _exists(path: str) -> bool:
    try:
        return Path(path).exists()
    except (OSError, ValueError):  # too long a name, or one with NUL
        return False


def _read(kind: str, rest: str, choice: SourceChoice) -> FoundModel:
    """Descriptions come from anywhere: whatever is not of the kind that is expected there refuses the source."""
    try:
        return SOURCES[kind](rest, choice)
    except (ArithmeticError, AttributeError, LookupError, OSError, RecursionError, TypeError, ValueError) as error:
        text = " ".join(str(error).split())[:300]
        raise SourceError(
            f"{kind}:{rest[:200]} is not described as expected: {type(error).__name__}: {text}"
        ) from error


def _guessed(folder: Path, count: int, choice: SourceChoice) -> FoundModel:
    """A folder without a word before it: what it holds shows what it is."""
    marks = {"mlflow": "MLmodel", "triton": "config.pbtxt", "oci": "oci-layout", "hf": "config.json"}
    kind = next((kind for kind, mark in marks.items() if (folder / mark).is_file()), None)
    if kind is None or count > 1:
        raise SourceUsageError(
            f"{folder} is a folder; say what it holds: {', '.join(f'{kind}:{folder}' for kind in SOURCES)}"
        )
    return _read(kind, str(folder), choice)


def request_of(
    found: FoundModel, *, model: str | None, version: str | None, targets: Sequence[Target]
) -> PublishRequest:
    """The request that publishes what was found, a variant for each file and target.

    Raises:
        UsageFault: the source gives no name or no version, and none was chosen; or two files have the same name.
    """
    if not (model or found.name):
        raise UsageFault("The source has no name for the model", hint="Give --model NAME")
    if not (version or found.version):
        raise UsageFault("The source names no version", hint="Give --version, for example --version 1.0.0")
    several = len(found.files) > 1
    names = [near_name(file.file.stem)[:50] for file in found.files]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UsageFault(
            f"Two of the files would become variants of the name {twice!r}, which comes from the file's name",
            hint="Give each file once, rename one of them, or name the variants in a publish file: registry publish",
        )
    variants: list[VariantSection] = []
    for file, name in zip(found.files, names, strict=True):
        aims = targets or file.targets or (Target.CPU,)
        section = VariantSection(
            file=file.file,
            target=aims[0],
            name=name if several else None,
            batching=file.batching,
            links_within=file.links_within,
        )
        variants += for_targets(section, aims)
    return PublishRequest(
        model=model or found.name, version=version or found.version, licence=found.licence, card=found.card,
        image=found.image, classification=found.classification, detection=found.detection, origin=found.origin,
        variant=tuple(variants),
    )  # fmt: skip
