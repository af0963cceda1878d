"""PyTorch models become ONNX on the publisher's machine: TorchScript without trust, programs and pickles with it.

The exports need PyTorch, onnx, onnxscript and onnxruntime: with --exporters they are installed into an environment of
their own, or MODELFLEET_TORCH_PYTHON names a Python that has them.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from registry.contracts.catalogue.manifest import TensorSpec
from registry.contracts.tensors import Datatype
from registry.inspection.facts import InspectionError
from registry.publishing.plan import make_plan
from registry.publishing.sources.found import FoundModel, SourceChoice, SourceUsageError
from registry.publishing.sources.pytorch import PYTHON_VARIABLE
from registry.publishing.sources.read import read_source, request_of
from tests.support.paths import LENET
from tests.support.programs.cli import Cli

pytestmark = pytest.mark.timeout(2000)  # PyTorch's wheel for GPUs is several GB
MAKE = '''
import sys, os, pickle, torch
folder = sys.argv[1]
torch.manual_seed(0)
class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.linear = torch.nn.Conv2d(1, 4, 3), torch.nn.Linear(4 * 6 * 6, 5)
    def forward(self, x):
        return self.linear(torch.relu(self.conv(x)).flatten(1))
class Two(torch.nn.Module):
    def forward(self, table, index):
        return table[index], table.sum(1)
class Fixed(torch.nn.Module):
    def forward(self, x):
        return x.view(2, -1).sum(1)
class Loops(torch.nn.Module):
    def forward(self, x):
        y = x
        for _ in range(int(x.size(1))):
            y = y + 1.0
        return y
class Noise(torch.nn.Module):
    def forward(self, x):
        return x + torch.rand_like(x)
class Writing(torch.nn.Module):
    def forward(self, x):
        return x.add_(1.0).sum(1)
class Apart(torch.nn.Module):
    def forward(self, left, right):
        return left - 2 * right
class Counting(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(1))
    def forward(self, x):
        self.calls.add_(1.0)
        return x + self.calls
class Picking(torch.nn.Module):
    def forward(self, x):
        return x[(x.sum(1) > 1e6).nonzero()[:, 0]]
with open(f"{folder}/secret", "wb") as file:
    file.write(bytes(range(1, 17)))
with open(f"{folder}/reading.py", "w") as file:
    file.write(f"""import torch
class Reading(torch.nn.Module):
    def forward(self, x):
        return x + torch.from_file("{folder}/secret", False, 16, dtype=torch.uint8).to(torch.float32).sum()
""")
sys.path.append(folder)
from reading import Reading
torch.jit.script(Writing()).save(f"{folder}/writing.pt")
torch.jit.script(Apart()).save(f"{folder}/apart.pt")
torch.jit.script(Counting()).save(f"{folder}/counting.pt")
torch.jit.script(Picking()).save(f"{folder}/picking.pt")
torch.jit.script(Reading()).save(f"{folder}/reading.pt")
net, x = Net().eval(), torch.randn(2, 1, 8, 8)
torch.jit.script(net).save(f"{folder}/scripted.pt")
torch.jit.trace(net, x).save(f"{folder}/traced.ts")
torch.jit.script(Two()).save(f"{folder}/two.pt")
torch.jit.trace(Fixed(), torch.ones(2, 3)).save(f"{folder}/fixed.pt")
torch.jit.script(Loops()).save(f"{folder}/loops.pt")
torch.jit.script(Noise()).save(f"{folder}/noise.pt")
shapes = ({0: torch.export.Dim("batch")},)
torch.export.save(torch.export.export(net, (x,), dynamic_shapes=shapes), f"{folder}/program.pt2")
torch.save(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3)).eval(), f"{folder}/module.pt")
torch.save(net, f"{folder}/elsewhere.pt")
torch.save(net.state_dict(), f"{folder}/weights.pt")
torch.save({"epoch": 3, "model": net.state_dict()}, f"{folder}/checkpoint.pt")
class Writes:
    def __reduce__(self):
        return (open, (f"{folder}/owned", "w"))
torch.save(Writes(), f"{folder}/writes.pt")
torch.save([1], f"{folder}/list.pt")
os.makedirs(f"{folder}/mlflow/data")
torch.save(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3)).eval(), f"{folder}/mlflow/data/model.pth")
'''
ROWS = TensorSpec(name="x", datatype=Datatype.FP32, shape=(-1, 3))
LEFT, RIGHT = (TensorSpec(name=name, datatype=Datatype.FP32, shape=(-1, 3)) for name in ("left", "right"))
PICTURES = TensorSpec(name="x", datatype=Datatype.FP32, shape=(-1, 1, 8, 8))
TRUSTED = SourceChoice(trust_pickle=True)
SAID = SourceChoice(inputs=(PICTURES,))


@pytest.fixture(scope="module")
def python(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A Python that can export."""
    if said := os.environ.get(PYTHON_VARIABLE):
        return said
    if not request.config.getoption("--exporters"):
        pytest.skip(f"no Python has PyTorch: name one in {PYTHON_VARIABLE}, or give --exporters, which installs it")
    folder = tmp_path_factory.mktemp("exporters")
    subprocess.run([sys.executable, "-m", "venv", folder], check=True, timeout=120)
    wanted = ["torch", "onnx", "onnxscript", "onnxruntime", "numpy"]
    subprocess.run([folder / "bin" / "pip", "install", "--quiet", *wanted], check=True, timeout=1800)
    return str(folder / "bin" / "python")


@pytest.fixture(scope="module")
def models(python: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    (folder / "make.py").write_text(MAKE)  # torch.jit.script reads the source
    subprocess.run([python, folder / "make.py", folder], check=True, timeout=200)
    return folder


@pytest.fixture
def exporter(python: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PYTHON_VARIABLE, python)


def inputs_of(found: FoundModel) -> list[tuple[str, list[Any]]]:
    session = onnxruntime.InferenceSession(found.files[0].file, providers=["CPUExecutionProvider"])
    return [(each.name, each.shape) for each in session.get_inputs()]


@pytest.mark.usefixtures("exporter")
@pytest.mark.parametrize(
    ("name", "choice"),
    [
        ("scripted.pt", SAID),
        ("traced.ts", SAID),
        ("program.pt2", TRUSTED),
        ("module.pt", SourceChoice(trust_pickle=True, inputs=(PICTURES,))),
    ],
)
def test_a_model_is_exported_and_answers_as_it_does_itself(models: Path, name: str, choice: SourceChoice) -> None:
    found = read_source([f"torch:{models / name}"], choice)
    with found.keep:
        assert "compared on 64 random inputs" in found.notes[0]
        assert (found.origin.kind, found.origin.source) == ("torch", name)
        (plan,) = make_plan(request_of(found, model="net", version="1", targets=())).variants
        assert [(each.name, each.shape) for each in plan.facts.inputs] == [("x", (-1, 1, 8, 8))]
        assert plan.batching is not None
        assert plan.batching.independent
    assert not found.files[0].file.exists()


@pytest.mark.usefixtures("exporter")
def test_several_inputs_and_outputs_keep_their_order_and_their_open_sizes(models: Path) -> None:
    table = TensorSpec(name="table", datatype=Datatype.FP32, shape=(4, -1))
    index = TensorSpec(name="index", datatype=Datatype.INT64, shape=(-1,))
    found = read_source([f"torch:{models / 'two.pt'}"], SourceChoice(inputs=(table, index)))
    with found.keep:
        assert inputs_of(found) == [("table", [4, "table_1"]), ("index", ["batch"])]
        session = onnxruntime.InferenceSession(found.files[0].file, providers=["CPUExecutionProvider"])
        rows = np.arange(20, dtype=np.float32).reshape(4, 5)
        picked, total = session.run(None, {"table": rows, "index": np.array([3, 0, 3])})
        np.testing.assert_array_equal(picked, rows[[3, 0, 3]])
        np.testing.assert_array_equal(total, rows.sum(1))


@pytest.mark.usefixtures("exporter")
def test_a_model_that_writes_into_its_input_is_compared_on_what_was_given(models: Path) -> None:
    found = read_source([f"torch:{models / 'writing.pt'}"], SourceChoice(inputs=(ROWS,)))
    with found.keep:
        session = onnxruntime.InferenceSession(found.files[0].file, providers=["CPUExecutionProvider"])
        (answered,) = session.run(None, {"x": np.zeros((2, 3), np.float32)})
        np.testing.assert_array_equal(answered, [3, 3])


@pytest.mark.usefixtures("exporter")
def test_an_output_that_was_empty_each_time_is_said_to_be_not_compared(models: Path) -> None:
    found = read_source([f"torch:{models / 'picking.pt'}"], SourceChoice(inputs=(ROWS,)))
    with found.keep:
        assert found.notes[1].endswith("nothing of them was compared")


@pytest.mark.usefixtures("exporter")
def test_inputs_may_have_other_names_than_the_models_own(models: Path) -> None:
    swapped = [spec.model_copy(update={"name": f"my_{spec.name}"}) for spec in (LEFT, RIGHT)]
    found = read_source([f"torch:{models / 'apart.pt'}"], SourceChoice(inputs=tuple(swapped)))
    with found.keep:
        assert [name for name, _ in inputs_of(found)] == ["my_left", "my_right"]


@pytest.mark.usefixtures("exporter")
def test_a_loop_of_torchscript_is_exported_with_its_condition(models: Path) -> None:
    spec = TensorSpec(name="x", datatype=Datatype.FP32, shape=(-1, -1))
    found = read_source([f"torch:{models / 'loops.pt'}"], SourceChoice(inputs=(spec,)))
    with found.keep:
        session = onnxruntime.InferenceSession(found.files[0].file, providers=["CPUExecutionProvider"])
        (answered,) = session.run(None, {"x": np.zeros((1, 7), np.float32)})
        np.testing.assert_array_equal(answered, np.full((1, 7), 7, np.float32))


@pytest.mark.usefixtures("exporter")
@pytest.mark.parametrize(
    ("name", "choice", "said"),
    [
        ("scripted.pt", SourceChoice(), "--input NAME:TYPE:DIMS"),
        ("scripted.pt", SourceChoice(inputs=(PICTURES, PICTURES)), "cannot be exported"),
        (
            "fixed.pt",
            SourceChoice(inputs=(ROWS,)),
            "invalid for input of size 9",
        ),
        ("noise.pt", SAID, "otherwise the second time"),
        ("counting.pt", SourceChoice(inputs=(ROWS,)), "keeps a state"),
        ("apart.pt", SourceChoice(inputs=(RIGHT, LEFT)), "said as right, left, and the model takes left, right"),
        ("reading.pt", SourceChoice(inputs=(ROWS,)), "unable to open file .*secret"),
        ("program.pt2", SourceChoice(), "--trust-pickle"),
        ("program.pt2", SourceChoice(trust_pickle=True, inputs=(PICTURES,)), "leave out --input"),
        ("module.pt", SAID, "--trust-pickle"),
        ("elsewhere.pt", SourceChoice(trust_pickle=True, inputs=(PICTURES,)), "Net"),
        ("weights.pt", SAID, "conv.weight.*load_state_dict"),
        ("checkpoint.pt", TRUSTED, "epoch.*load_state_dict"),
        ("list.pt", SAID, "a list, not a module"),
        ("writes.pt", SAID, "--trust-pickle"),
        ("writes.pt", TRUSTED, "Permission denied"),
    ],
)
def test_what_is_not_trusted_or_cannot_be_exported_is_refused(
    models: Path, name: str, choice: SourceChoice, said: str
) -> None:
    with pytest.raises(InspectionError, match=said):
        read_source([f"torch:{models / name}"], choice)
    assert not (models / "owned").exists()


@pytest.mark.usefixtures("exporter")
def test_a_folder_of_mlflow_says_the_inputs_of_its_module(models: Path) -> None:
    spec = '[{"type": "tensor", "tensor-spec": {"dtype": "float32", "shape": [-1, 1, 8, 8]}}]'
    (models / "mlflow" / "MLmodel").write_text(
        f"flavors: {{pytorch: {{model_data: data}}}}\nartifact_path: net\nsignature: {{inputs: '{spec}'}}\n"
    )
    with pytest.raises(InspectionError, match="--trust-pickle"):
        read_source([f"mlflow:{models / 'mlflow'}"])
    found = read_source([f"mlflow:{models / 'mlflow'}"], TRUSTED)
    with found.keep:
        assert (found.origin.kind, found.name) == ("mlflow", "net")
        ((name, shape),) = inputs_of(found)
        assert (name, shape[1:]) == ("x", [1, 8, 8])


def test_an_imported_module_is_published_with_its_origin(models: Path, python: str, cli: Cli) -> None:
    source, said = f"torch:{models / 'traced.ts'}", {PYTHON_VARIABLE: python}
    cli("import", source, "--version", "1.0.0", "--input", "x:FP32:-1,1,8,8", **said)
    manifest = cli("show", "traced@1.0.0", "--json").document["manifest"]
    assert (manifest["origin"]["kind"], manifest["origin"]["source"]) == ("torch", "traced.ts")
    assert manifest["variants"][0]["inputs"][0]["shape"] == [-1, 1, 8, 8]


def archive(path: Path, *names: str) -> Path:
    with zipfile.ZipFile(path, "w") as made:
        for name in names:
            made.writestr(name, b"x")
    return path


def test_what_is_no_file_of_pytorch_is_refused_before_a_python_is_looked_for(tmp_path: Path) -> None:
    with pytest.raises(SourceUsageError, match=r"of the format onnx, .*as a plain file"):
        read_source([f"torch:{LENET}"])
    (tmp_path / "text.pt").write_text("not a model")
    with pytest.raises(InspectionError, match="no file of PyTorch"):
        read_source([f"torch:{tmp_path / 'text.pt'}"])
    with pytest.raises(InspectionError, match="something else"):
        read_source([f"torch:{archive(tmp_path / 'other.pt', 'a/b')}"])
    with pytest.raises(InspectionError, match="--trust-pickle"):
        read_source([f"torch:{archive(tmp_path / 'program.pt2', 'net/archive_format', 'net/data.pkl')}"])
    broken = tmp_path / "broken.pt"
    broken.write_bytes(b"PK\x03\x04" + bytes(100))
    with pytest.raises(InspectionError, match="damaged"):
        read_source([f"torch:{broken}"])


def test_inputs_are_of_types_that_pytorch_has_and_of_sources_that_do_not_say_them(tmp_path: Path) -> None:
    script = archive(tmp_path / "script.pt", "net/code/x.py", "net/constants.pkl", "net/data.pkl")
    text = TensorSpec(name="x", datatype=Datatype.BYTES, shape=(-1,))
    with pytest.raises(SourceUsageError, match="--input x: PyTorch models here take"):
        read_source([f"torch:{script}"], SourceChoice(inputs=(text,)))
    with pytest.raises(Exception, match="do not say their inputs"):
        read_source([f"sklearn:{script}"], SAID)
    with pytest.raises(Exception, match="do not say their inputs"):
        read_source([str(LENET)], SAID)


def test_without_an_exporter_it_is_said_how_to_get_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(PYTHON_VARIABLE, raising=False)
    (tmp_path / "model.pt").write_bytes(pickle.dumps([1]))
    with pytest.raises(InspectionError, match="pip install torch onnx onnxscript"):
        read_source([f"torch:{tmp_path / 'model.pt'}"])
    monkeypatch.setenv(PYTHON_VARIABLE, sys.executable)
    with pytest.raises(InspectionError, match="torch"):
        read_source([f"torch:{tmp_path / 'model.pt'}"])
