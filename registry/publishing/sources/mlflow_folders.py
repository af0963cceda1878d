"""Model folders of MLflow: `MLmodel` (YAML) and the files of its flavours.

The flavour `onnx` is published as it is, `sklearn` and `pytorch` are exported. Others are pickles or code, which are
not run here: they are refused, and the message says how to export them. The signature is compared with what the ONNX
file says of itself; for `pytorch` it says the inputs.
Source: MLflow, "MLflow Models: storage format" and "Model signatures".
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from registry.contracts.catalogue.manifest import Origin, TensorSpec
from registry.contracts.tensors import Datatype
from registry.inspection.onnx import inspect
from registry.publishing.request import near_name
from registry.publishing.sources.found import (
    FoundFile,
    FoundModel,
    SourceChoice,
    SourceError,
    SourceMissingError,
    inside,
    only_one,
    read_text,
)
from registry.publishing.sources.pytorch import exported_torch
from registry.publishing.sources.scikit_learn import Inputs, exported

MLMODEL = "MLmodel"
_EXPORT = {
    "tensorflow": "convert it with tf2onnx, and log the result with mlflow.onnx.log_model",
    "keras": "convert it with tf2onnx, and log the result with mlflow.onnx.log_model",
    "xgboost": "convert it with onnxmltools, and log the result with mlflow.onnx.log_model",
    "lightgbm": "convert it with onnxmltools, and log the result with mlflow.onnx.log_model",
}
_TORCH_FILES = ("model.pth", "model.pt", "model.pt2")
"""In the folder `model_data` of the flavour `pytorch`."""
_COLUMNS = {"double": "float64", "float": "float32", "long": "int64", "integer": "int64"}
"""Types of columns as NumPy has them."""
_KINDS = {"float16": "FP16", "float32": "FP32", "float64": "FP64", "bool": "BOOL", "str": "BYTES", "object": "BYTES"}
_KINDS |= {f"{sign}int{bits}": f"{sign.upper()}INT{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)}


def read_mlflow(folder: Path, choice: SourceChoice) -> FoundModel:
    """The model of a folder with an `MLmodel` file, or of the file itself.

    Raises:
        InspectionError: it is none, or has no flavour that can be served without running its code.
    """
    folder = folder.parent if folder.name == MLMODEL else folder
    if not (folder / MLMODEL).is_file():
        if not folder.is_dir():
            raise SourceMissingError(f"{folder} is not a folder")
        raise SourceError(f"{folder} is no model folder of MLflow: it has no file {MLMODEL}")
    said = _yaml(folder / MLMODEL)
    flavours = said.get("flavors")
    if not isinstance(flavours, dict):
        raise SourceError(f"{folder / MLMODEL} names no flavors")
    origin = _origin(said, folder)
    name = near_name((_word(said.get("name")) or _title(said, folder)).rsplit("/", 1)[-1])
    flavour = flavours.get("onnx")
    if flavour is None and isinstance(model := flavours.get("sklearn"), dict):
        file = inside(folder, _word(model.get("pickled_model")) or "model.pkl", MLMODEL)
        return exported(file, origin, name, _matrix(said), choice)
    if flavour is None and isinstance(model := flavours.get("pytorch"), dict):
        data = inside(folder, _word(model.get("model_data")) or "data", MLMODEL)
        found = [path for name in _TORCH_FILES if (path := data / name).is_file()]
        file = only_one(found, folder, choice.file, f"none of {', '.join(_TORCH_FILES)} where its MLmodel says")
        inside(folder, file.relative_to(folder).as_posix(), MLMODEL)
        return exported_torch(file, origin, name, choice, _tensors(said))
    if not isinstance(flavour, dict):
        names = [str(name) for name in flavours if name != "python_function"] or ["python_function"]
        how = _EXPORT.get(names[0], "export it to ONNX, and log the result with mlflow.onnx.log_model")
        raise SourceError(f"{folder} holds the flavour {names[0]}, a pickle or code, which is not run here: {how}")
    data = inside(folder, _word(flavour.get("data")) or "model.onnx", MLMODEL)
    files = sorted(data.glob("*.onnx")) if data.is_dir() else [data]
    file = only_one(files, folder, choice.file, "no ONNX file where its MLmodel says")
    inside(folder, file.relative_to(folder).as_posix(), MLMODEL)
    if not file.is_file():
        raise SourceError(f"{file} does not exist, or is not a file, and {MLMODEL} names it")
    facts = inspect(file)
    notes = [*_disagreements("inputs", said, facts.inputs), *_disagreements("outputs", said, facts.outputs)]
    return FoundModel(origin=origin, files=(FoundFile(file, facts=facts),), name=name, notes=tuple(notes))


def _title(said: dict[str, Any], folder: Path) -> str:
    return _word(said.get("artifact_path")) or folder.resolve().name


def _word(value: object) -> str:
    """A text; nothing for whatever else stands there (a list of lists of lists takes minutes to write out)."""
    return value if isinstance(value, str) else ""


def _origin(said: dict[str, Any], folder: Path) -> Origin:
    words = (_word(said.get(key)) for key in ("run_id", "model_id", "model_uuid"))
    revision = next((word[:128] for word in words if word), None)
    return Origin(kind="mlflow", source=_title(said, folder)[:512], revision=revision)


def _tensors(said: dict[str, Any]) -> tuple[TensorSpec, ...]:
    """The inputs of a signature of tensors, in their order; none: it does not say them."""
    signature = said.get("signature")
    try:
        entries = json.loads(signature["inputs"]) if isinstance(signature, dict) else []
        return tuple(
            TensorSpec(
                name=entry.get("name") or ("x" if len(entries) == 1 else f"x{number}"),
                datatype=Datatype(_KINDS[entry["tensor-spec"]["dtype"]]),
                shape=tuple(entry["tensor-spec"]["shape"]),
            )
            for number, entry in enumerate(entries)
        )
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError):
        return ()


def _matrix(said: dict[str, Any]) -> Inputs | None:
    """The one matrix that a signature of tensors, or of columns of one type, describes; None: the model says it."""
    signature = said.get("signature")
    try:
        entries = json.loads(signature["inputs"]) if isinstance(signature, dict) else []
        if len(entries) == 1 and entries[0]["type"] == "tensor":
            spec = entries[0]["tensor-spec"]
            return [(entries[0].get("name") or "x", spec["dtype"], int(spec["shape"][1]))]
        kinds = {_COLUMNS[entry["type"]] for entry in entries}
        return [("x", kinds.pop(), len(entries))] if len(kinds) == 1 else None
    except (ValueError, KeyError, TypeError, IndexError, RecursionError):
        return None


def _yaml(path: Path) -> dict[str, Any]:
    import yaml  # noqa: PLC0415 - only of this source

    try:
        said = yaml.safe_load(read_text(path))
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise SourceError(f"{path} is not valid YAML: {str(error)[:300]}") from None
    if not isinstance(said, dict):
        raise SourceError(f"{path} is not the description of a model")
    return said


def _disagreements(side: str, said: dict[str, Any], specs: tuple[TensorSpec, ...]) -> list[str]:
    """Where the signature says something else than the file: the file is what runs."""
    signature = said.get("signature")
    text = signature.get(side) if isinstance(signature, dict) else None
    if not isinstance(text, str):
        return []
    try:
        entries = json.loads(text)
        tensors = [
            (e.get("name"), e["tensor-spec"]["dtype"], e["tensor-spec"]["shape"])
            for e in entries
            if e.get("type") == "tensor"
        ]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return [f"{MLMODEL}: the signature's {side} cannot be read; they are taken from the ONNX file"]
    by_name = {spec.name: spec for spec in specs}
    notes = []
    for name, kind, shape in tensors:
        spec = by_name.get(name) if name is not None else specs[0] if len(specs) == len(tensors) == 1 else None
        if spec is None:
            notes.append(f"{MLMODEL}: the signature's {side} have {name!r}, and the ONNX file has not; the file counts")
        elif _KINDS.get(str(kind)) != spec.datatype or len(shape) != len(spec.shape):
            have = f"{spec.datatype} {list(spec.shape)}"
            notes.append(f"{MLMODEL}: {spec.name!r} is {kind} {shape}, and {have} in the ONNX file; the file counts")
    return notes
