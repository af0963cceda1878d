"""scikit-learn models become ONNX on the publisher's machine: read without code, or as a trusted pickle in a sandbox.

The exports need scikit-learn, skl2onnx and skops: with --exporters they are installed into an environment of their
own, or MODELFLEET_SKLEARN_PYTHON names a Python that has them.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from registry.inspection.facts import InspectionError
from registry.publishing.sources.found import SourceChoice, SourceUsageError
from registry.publishing.sources.read import read_source
from registry.publishing.sources.scikit_learn import PYTHON_VARIABLE
from tests.support.paths import LENET

TRUSTED = SourceChoice(trust_pickle=True)
MAKE = """
import sys, pickle, numpy as np, skops.io
from sklearn.datasets import load_iris
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
folder = sys.argv[1]
x, y = load_iris(return_X_y=True)
model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500)).fit(x, y)
skops.io.dump(model, f"{folder}/iris.skops")
pickle.dump(model, open(f"{folder}/iris.pkl", "wb"))
skops.io.dump(RandomForestClassifier(20, random_state=0).fit(x, np.array(["a", "b", "c"])[y]), f"{folder}/forest.skops")
skops.io.dump(make_pipeline(FunctionTransformer(np.fft.fft)).fit(x), f"{folder}/odd.skops")
class Writes:
    def __reduce__(self):
        return (open, (f"{folder}/owned", "w"))
pickle.dump(Writes(), open(f"{folder}/writes.pkl", "wb"))
"""


@pytest.fixture(scope="module")
def python(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A Python that can export."""
    if said := os.environ.get(PYTHON_VARIABLE):
        return said
    if not request.config.getoption("--exporters"):
        pytest.skip(f"no Python has skl2onnx: name one in {PYTHON_VARIABLE}, or give --exporters, which installs it")
    folder = tmp_path_factory.mktemp("exporters")
    subprocess.run([sys.executable, "-m", "venv", folder], check=True, timeout=120)
    wanted = ["scikit-learn", "skl2onnx", "skops"]
    subprocess.run([folder / "bin" / "pip", "install", "--quiet", *wanted], check=True, timeout=600)
    return str(folder / "bin" / "python")


@pytest.fixture(scope="module")
def models(python: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    subprocess.run([python, "-c", MAKE, folder], check=True, timeout=200)
    return folder


@pytest.fixture
def exporter(python: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PYTHON_VARIABLE, python)


@pytest.mark.usefixtures("exporter")
@pytest.mark.parametrize(
    ("name", "choice"), [("iris.skops", SourceChoice()), ("iris.pkl", TRUSTED), ("forest.skops", TRUSTED)]
)
def test_a_model_is_exported_and_answers_as_it_does_itself(models: Path, name: str, choice: SourceChoice) -> None:
    found = read_source([f"sklearn:{models / name}"], choice)
    with found.keep:
        assert found.files[0].file.read_bytes()
        assert "compared on 64 random rows" in found.notes[0]
        assert (found.origin.kind, found.origin.source) == ("sklearn", name)
    assert not found.files[0].file.exists()


@pytest.mark.usefixtures("exporter")
@pytest.mark.parametrize(
    ("name", "choice", "said"),
    [
        ("iris.pkl", SourceChoice(), "--trust-pickle"),
        ("forest.skops", SourceChoice(), "sklearn.tree._tree.Tree"),
        ("odd.skops", TRUSTED, "cannot be exported"),
        ("writes.pkl", TRUSTED, "Permission denied"),
    ],
)
def test_what_is_not_trusted_or_cannot_be_exported_is_refused(
    models: Path, name: str, choice: SourceChoice, said: str
) -> None:
    with pytest.raises(InspectionError, match=said):
        read_source([f"sklearn:{models / name}"], choice)
    assert not (models / "owned").exists()


def test_a_file_of_a_stored_format_is_no_model_of_scikit_learn() -> None:
    with pytest.raises(SourceUsageError, match=r"of the format onnx, .*as a plain file"):
        read_source([f"sklearn:{LENET}"])


def test_without_trust_nothing_is_read_and_without_an_exporter_it_is_said_how_to_get_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(PYTHON_VARIABLE, raising=False)
    (tmp_path / "model.pkl").write_bytes(pickle.dumps([1]))
    with pytest.raises(InspectionError, match="--trust-pickle"):
        read_source([f"sklearn:{tmp_path / 'model.pkl'}"])
    with pytest.raises(InspectionError, match="pip install skl2onnx"):
        read_source([f"sklearn:{tmp_path / 'model.pkl'}"], TRUSTED)
    monkeypatch.setenv(PYTHON_VARIABLE, "/nowhere/python")
    with pytest.raises(InspectionError, match="cannot be started"):
        read_source([f"sklearn:{tmp_path / 'model.pkl'}"], TRUSTED)
    monkeypatch.setenv(PYTHON_VARIABLE, sys.executable)
    with pytest.raises(InspectionError, match="sklearn"):
        read_source([f"sklearn:{tmp_path / 'model.pkl'}"], TRUSTED)
