"""PyTorch models: exported to ONNX on the publisher's machine, in a process of its own with a sandbox.

What a file is, its content says:

- A TorchScript archive is read without Python code: PyTorch's interpreter runs what it holds, which are PyTorch's own
  operators. It does not say its inputs.
- An exported program (.pt2) says its inputs. `torch.export.load` unpickles parts of it, imports what it names and
  evaluates expressions in it: it needs `--trust-pickle` as a pickle does.
- A pickle (torch.save) of a module: with `--trust-pickle`, and where its classes can be imported. A state_dict holds no
  network, and is refused.

Sources: PyTorch, torch/export/pt2_archive/_package.py and torch/_export/serde/serialize.py (2.13); "TorchScript
serialization" (torch/csrc/jit/docs/serialization.md). The Python that has PyTorch is this one, or the one that
MODELFLEET_TORCH_PYTHON names.
"""

from __future__ import annotations

import re
import tempfile
import zipfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from registry.contracts.catalogue.manifest import Origin, TensorSpec
from registry.contracts.tensors import Datatype
from registry.publishing.request import near_name
from registry.publishing.sources.exporters import Exporter, require_none_to_publish
from registry.publishing.sources.found import (
    FoundFile,
    FoundModel,
    SourceChoice,
    SourceError,
    SourceMissingError,
    SourceUsageError,
)

PYTHON_VARIABLE = "MODELFLEET_TORCH_PYTHON"
_EXPORTER = Exporter(
    "export_torch.py",
    PYTHON_VARIABLE,
    "torch",
    "PyTorch models are exported with torch.onnx, and PyTorch is not installed here: pip install torch onnx onnxscript "
    "onnxruntime in any environment",
)
_MAX_ENTRIES = 100_000
_TYPES = {Datatype.FP16: "float16", Datatype.FP32: "float32", Datatype.FP64: "float64", Datatype.BOOL: "bool"} | {
    Datatype(f"{sign}INT{bits}"): f"{sign.lower()}int{bits}"
    for sign, bits in (("", 8), ("", 16), ("", 32), ("", 64), ("U", 8))
}
"""Datatypes that PyTorch computes with, as NumPy has them."""


def read_torch(path: Path, choice: SourceChoice) -> FoundModel:
    """The model of a file of PyTorch. Raises InspectionError."""
    if not path.is_file():
        raise SourceMissingError(f"{path} does not exist, or is not a file")
    require_none_to_publish(path, "PyTorch")
    return exported_torch(path, Origin(kind="torch", source=path.name[:512]), near_name(path.stem), choice)


def exported_torch(
    path: Path, origin: Origin, name: str, choice: SourceChoice, inputs: Sequence[TensorSpec] = ()
) -> FoundModel:
    """What torch.onnx makes of the model, in a folder that `keep` holds. Raises InspectionError: it makes nothing.

    `inputs`: of a description beside the file, where the publisher says none.
    """
    kind = _kind(path)
    if kind == "program" and not choice.trust_pickle:
        raise SourceUsageError(
            f"{path} is an exported program (.pt2): PyTorch unpickles parts of it and evaluates expressions in it, "
            "which may run whatever code its author put there. If you trust the author, give --trust-pickle; or save "
            "the model as TorchScript: torch.jit.trace(model, example).save(FILE)"
        )
    inputs = choice.inputs or (() if kind == "program" else inputs)
    for spec in inputs:
        if spec.datatype not in _TYPES:
            raise SourceUsageError(f"--input {spec.name}: PyTorch models here take {', '.join(_TYPES)}")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="modelfleet-import-")))
        said = _EXPORTER.run(
            {
                "file": str(path.resolve()),
                "out": str(folder / "model.onnx"),
                "kind": kind,
                "pickle": choice.trust_pickle,
                "inputs": [(spec.name, _TYPES[spec.datatype], list(spec.shape)) for spec in inputs],
            }
        )
        note = f"exported by torch.onnx from PyTorch {said['version']}, compared on {said['compared']} random inputs"
        notes = [f"{note}: at most {said['difference']:.2g} from the model itself"]
        if said["empty"]:
            places = ", ".join(map(str, said["empty"]))
            notes.append(f"outputs at {places} were empty for each of these inputs: nothing of them was compared")
        return FoundModel(
            origin=origin, files=(FoundFile(folder / "model.onnx"),), name=name,
            notes=tuple(notes), keep=stack.pop_all(),
        )  # fmt: skip


def _kind(path: Path) -> str:
    """`torchscript`, `program` or `pickle`, by the content."""
    with path.open("rb") as file:
        head = file.read(4)
    if head[:1] == b"\x80":  # the form before PyTorch 1.6
        return "pickle"
    if head != b"PK\x03\x04":
        raise SourceError(
            f"{path} is no file of PyTorch: neither an archive, as torch.jit.save, torch.export.save and torch.save "
            "write it, nor a pickle"
        )
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise SourceError(f"{path} is a damaged archive: {error}. Copy it again") from None
    if len(names) > _MAX_ENTRIES:
        raise SourceError(f"{path} is an archive of {len(names)} files: not a model of PyTorch")
    for kind, mark in (
        ("program", r"[^/]+/archive_format|[^/]+/models/[^/]+\.json|serialized_exported_program\.json"),
        ("torchscript", r"[^/]+/constants\.pkl|[^/]+/code/.*"),
        ("pickle", r"[^/]+/data\.pkl"),
    ):
        if any(re.fullmatch(mark, name) for name in names):
            return kind
    raise SourceError(f"{path} is an archive of something else than a model of PyTorch")
