"""scikit-learn models: exported to ONNX on the publisher's machine, in a process of its own with a sandbox.

A .skops file is read without running code. A pickle runs whatever its author put into it: only with `--trust-pickle`,
and in the sandbox all the same. The Python that has scikit-learn and skl2onnx is this one, or the one that
MODELFLEET_SKLEARN_PYTHON names.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from registry.contracts.catalogue.manifest import Origin
from registry.publishing.request import near_name
from registry.publishing.sources.exporters import Exporter, require_none_to_publish
from registry.publishing.sources.found import (
    FoundFile,
    FoundModel,
    SourceChoice,
    SourceMissingError,
    SourceUsageError,
)

PYTHON_VARIABLE = "MODELFLEET_SKLEARN_PYTHON"
_EXPORTER = Exporter(
    "export_sklearn.py",
    PYTHON_VARIABLE,
    "skl2onnx",
    "scikit-learn models are exported with skl2onnx, which is not installed here: pip install skl2onnx scikit-learn in "
    "any environment",
)
Inputs = Sequence[tuple[str, str, int]]
"""Name, NumPy type, number of columns."""


def read_sklearn(path: Path, choice: SourceChoice) -> FoundModel:
    """The model of a .skops, .pkl or .joblib file. Raises InspectionError."""
    if not path.is_file():
        raise SourceMissingError(f"{path} does not exist, or is not a file")
    require_none_to_publish(path, "scikit-learn")
    origin = Origin(kind="sklearn", source=path.name[:512])
    return exported(path, origin, near_name(path.stem), None, choice)


def exported(path: Path, origin: Origin, name: str, inputs: Inputs | None, choice: SourceChoice) -> FoundModel:
    """What skl2onnx makes of the model, in a folder that `keep` holds. Raises InspectionError: it makes nothing."""
    if path.suffix != ".skops" and not choice.trust_pickle:
        raise SourceUsageError(
            f"{path} is a pickle: reading it runs whatever code its author put into it. If you trust the author, give "
            "--trust-pickle; or save the model with skops (skops.io.dump), which holds no code"
        )
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="modelfleet-import-")))
        order = {
            "file": str(path.resolve()),
            "out": str(folder / "model.onnx"),
            "pickle": choice.trust_pickle,
            "inputs": inputs,
        }
        said = _EXPORTER.run(order)
        note = f"exported by skl2onnx from scikit-learn {said['version']}, compared on {said['compared']} random rows"
        return FoundModel(
            origin=origin, files=(FoundFile(folder / "model.onnx"),), name=name,
            notes=(f"{note}: at most {said['difference']:.2g} from the model itself",), keep=stack.pop_all(),
        )  # fmt: skip
