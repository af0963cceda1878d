"""scikit-learn models: exported to ONNX on the publisher's machine, in a process of its own with a sandbox.

A .skops file is read without running code. A pickle runs whatever its author put into it: only with `--trust-pickle`,
and in the sandbox all the same. The Python that has scikit-learn and skl2onnx is this one, or the one that
MODELFLEET_SKLEARN_PYTHON names.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from registry.contracts.catalogue.manifest import Origin
from registry.inspection.detect import detect
from registry.inspection.facts import InspectionError
from registry.publishing.request import near_name
from registry.publishing.sources.found import (
    FoundFile,
    FoundModel,
    SourceChoice,
    SourceError,
    SourceMissingError,
    SourceUsageError,
)

PYTHON_VARIABLE = "MODELFLEET_SKLEARN_PYTHON"
TIMEOUT_S = 300.0
_CHILD = Path(__file__).with_name("export_sklearn.py")
_MAX_ANSWER = 1 << 16
_WORDS = 500
Inputs = Sequence[tuple[str, str, int]]
"""Name, NumPy type, number of columns."""


def read_sklearn(path: Path, choice: SourceChoice) -> FoundModel:
    """The model of a .skops, .pkl or .joblib file. Raises InspectionError."""
    if not path.is_file():
        raise SourceMissingError(f"{path} does not exist, or is not a file")
    _require_none_to_publish(path)
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
        said = _run(order)
        if "error" in said:
            raise SourceError(f"{path.name} cannot be exported to ONNX: {said['error']}")
        note = f"exported by skl2onnx from scikit-learn {said['version']}, compared on {said['compared']} random rows"
        return FoundModel(
            origin=origin, files=(FoundFile(folder / "model.onnx"),), name=name,
            notes=(f"{note}: at most {said['difference']:.2g} from the model itself",), keep=stack.pop_all(),
        )  # fmt: skip


def _require_none_to_publish(path: Path) -> None:
    """Raises SourceUsageError: by its content the file is a model that is published as it is."""
    kind = None
    with suppress(InspectionError, OSError):  # a pickle is none of the formats
        kind = detect(path)
    if kind is not None:
        raise SourceUsageError(
            f"{path} is a file of the format {kind}, not a model of scikit-learn: import it as a plain file, "
            f"registry import {path}"
        )


def _run(order: dict[str, Any]) -> dict[str, Any]:
    interpreter = os.environ.get(PYTHON_VARIABLE) or (sys.executable if find_spec("skl2onnx") else "")
    if not interpreter:
        raise SourceError(
            "scikit-learn models are exported with skl2onnx, which is not installed here: pip install skl2onnx "
            f"scikit-learn in any environment, and name its Python in {PYTHON_VARIABLE}"
        )
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MODELFLEET_")}
    with tempfile.TemporaryFile() as words, tempfile.TemporaryFile() as told:  # neither has to be short
        try:
            process = subprocess.Popen(
                [interpreter, "-I", str(_CHILD)], stdin=subprocess.PIPE, stdout=told, stderr=words,
                env=environment, start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            raise SourceError(f"{interpreter} ({PYTHON_VARIABLE}) cannot be started: {error.strerror}") from None
        try:
            process.communicate(json.dumps(order).encode(), TIMEOUT_S)
        except subprocess.TimeoutExpired:
            raise SourceError(f"the export took longer than {TIMEOUT_S:g} s") from None
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        try:
            told.seek(0)
            said = json.loads(told.read(_MAX_ANSWER))
        except ValueError:
            words.seek(max(0, words.seek(0, os.SEEK_END) - _WORDS))
            ended = words.read().decode("utf-8", "replace")
            raise SourceError(f"the export ended with status {process.returncode}: {' '.join(ended.split())}") from None
    return said if isinstance(said, dict) else {"error": "its answer cannot be read"}
