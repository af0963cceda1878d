"""`registry publish` with golden vectors: variants are run here, and one that answers otherwise is not published."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from registry.contracts.golden_vectors import read_cases
from registry.contracts.paths import blob_path, version_path
from registry.contracts.tensor_file import Tensor, write_tensors
from registry.contracts.tensors import Datatype
from tests.support.models import onnx_models
from tests.support.models.mindspore_python import PYTHON, needs_mindspore
from tests.support.paths import ROOT
from tests.support.programs.cli import Cli
from tests.support.programs.registry_process import RegistryProcess, put_blob

LENET = ROOT / "scripts" / "models" / "lenet" / "lenet.onnx"
WEIGHTS = np.array([[1, 10], [2, 20], [3, 30]], "<f4")


def linear(folder: Path, name: str, off: float = 0.0) -> str:
    """y = x @ WEIGHTS, every weight off by `off`."""
    weights = numpy_helper.from_array((WEIGHTS + np.float32(off)).astype(np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 2])],
        [weights],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (folder / f"{name}.onnx").write_bytes(model.SerializeToString())
    return f"{name}.onnx"


def described(folder: Path, model: str, *variants: tuple[str, str, str], extra: str = "") -> Path:
    """A publish file with (name, file, target) each."""
    tables = [f'[[variant]]\nname = "{name}"\nfile = "{file}"\ntarget = "{kind}"\n' for name, file, kind in variants]
    path = folder / f"{model}.toml"
    path.write_text(f'model = "{model}"\nversion = "1"\n' + "\n".join(tables) + extra)
    return path


def manifest_of(cli: Cli, model: str) -> Any:
    return cli("show", f"{model}@1", "--json").document["manifest"]


def golden_npz(folder: Path, *, off: float = 0.0, dtype: str = "<f4") -> Path:
    x = np.array([[1, 2, 3]], dtype)
    np.savez(folder / "golden.npz", **{"0/in/x": x, "0/out/y": (x @ WEIGHTS + off).astype(dtype)})
    return folder / "golden.npz"


def test_two_variants_that_agree_are_measured_and_carry_golden_vectors(cli: Cli, server: RegistryProcess) -> None:
    one, other = linear(cli.folder, "one"), linear(cli.folder, "other", off=1e-6)
    file = described(cli.folder, "pair", ("a", one, "cpu"), ("b", other, "cpu"))
    ran = cli("publish", file)
    assert "a: measured here on onnxruntime/CPUExecutionProvider" in ran.err
    manifest = manifest_of(cli, "pair")
    assert (manifest["golden"]["cases"], manifest["golden"]["reference"]) == (8, "a")
    a, b = (variant["parity"] for variant in manifest["variants"])
    assert (a["parity"]["max_abs"], a["parity"]["passed"], b["parity"]["passed"]) == (0.0, True, True)
    assert 0 < b["parity"]["max_abs"] < 1e-4
    assert b["parity"]["run_us"] > 0
    assert b["parity"]["top1_agreement"] == 1.0
    with server.client() as http:
        content = http.get(blob_path(manifest["golden"]["file"]["digest"])).content
    cases = read_cases(content, len(content))
    spans = cases[7].inputs["x"], cases[7].outputs["y"]
    x, y = (np.frombuffer(content[s.begin : s.end], "<f4").reshape(s.shape) for s in spans)
    np.testing.assert_allclose(y, x @ WEIGHTS, rtol=1e-5)

    shown = cli("show", "pair@1").out
    assert "Golden vectors: 8, made by a; tolerance 0.0001 + 0.001 * |want|, top class of 100.00%" in shown
    assert "publisher" in shown
    assert "100.00%" in shown.splitlines()[-1]

    again = cli("publish", file, "--json").document
    assert (again["created"], again["sent_bytes"]) == (False, 0), "what is measured anew each time is no new content"
    assert again["manifest"]["golden"]["file"] == manifest["golden"]["file"]
    refused = cli("publish", described(cli.folder, "pair", ("a", one, "cpu")), code=4)
    assert "variants.b" in refused.err


def test_a_variant_over_the_tolerance_is_not_published(cli: Cli, server: RegistryProcess) -> None:
    files = linear(cli.folder, "right"), linear(cli.folder, "wrong", off=0.25)
    file = described(cli.folder, "apart", ("right", files[0], "cpu"), ("wrong", files[1], "cpu"))
    refused = cli("publish", file, code=1)
    assert "is not published: a variant does not answer the golden vectors" in refused.err
    assert "wrong: case 0, output 'y'" in refused.err
    assert cli("publish", file, "--json", code=1).error["code"] == "golden_mismatch"
    cli("show", "apart@1", code=3)
    cli("publish", file, "--tolerance", "absolute=10,relative=0", "--dry-run")
    cli("show", "apart@1", code=3)
    cli("publish", file, "--tolerance", "absolute=10,relative=0")
    parity = manifest_of(cli, "apart")["variants"][1]["parity"]["parity"]
    assert parity["passed"]
    assert parity["max_abs"] > 0.1


def test_one_variant_has_golden_vectors_only_when_asked(cli: Cli) -> None:
    model = linear(cli.folder, "model")
    cli("publish", "silent", model, "--version", "1", "--target", "cpu")
    assert manifest_of(cli, "silent")["golden"] is None
    cli("publish", "asked", model, "--version", "1", "--target", "cpu", "--golden-random", "3")
    assert manifest_of(cli, "asked")["golden"]["cases"] == 3
    file = described(cli.folder, "off", ("a", model, "cpu"), ("b", model, "cpu"), extra="[golden]\nrandom = 0\n")
    cli("publish", file)
    assert manifest_of(cli, "off")["golden"] is None


def test_a_published_version_is_not_the_same_when_other_golden_vectors_are_asked_for(cli: Cli) -> None:
    model = linear(cli.folder, "model")
    command = ("publish", "strict", model, "--version", "1", "--target", "cpu")
    cli(*command, "--golden-random", "3")
    cli(*command)
    cli(*command, "--golden-random", "3", "--golden-from", "onnx-cpu")
    for asked, says in (
        (("--tolerance", "absolute=1e-9"), "absolute=1e-09,relative=0.001,top1=1 is asked for"),
        (("--golden-random", "0"), "none are asked for"),
        (("--golden-from", "other"), "other is asked for"),
    ):
        refused = cli(*command, *asked, code=4).err
        assert "published with other golden vectors" in refused
        assert says in refused
    plain = ("publish", "plain", model, "--version", "1", "--target", "cpu")
    cli(*plain)
    assert "has none; some are asked for" in cli(*plain, "--golden-random", "2", code=4).err


def test_given_vectors_are_what_the_variant_must_answer(cli: Cli) -> None:
    model = linear(cli.folder, "model")
    arguments = ("publish", "given", model, "--version", "1", "--target", "cpu", "--golden", golden_npz(cli.folder))
    cli(*arguments)
    manifest = manifest_of(cli, "given")
    assert (manifest["golden"]["cases"], manifest["golden"]["reference"]) == (1, None)
    assert manifest["variants"][0]["parity"]["parity"]["passed"]
    assert "nothing to do" in cli(*arguments).out
    golden_npz(cli.folder, off=0.5)
    assert "golden.file.digest" in cli(*arguments, code=4).err
    other = ("publish", "given", model, "--version", "2", "--target", "cpu", "--golden", "golden.npz")
    assert "is not published" in cli(*other, code=1).err


def test_the_reference_answers_given_inputs(cli: Cli) -> None:
    model = linear(cli.folder, "model")
    np.savez(cli.folder / "inputs.npz", x=np.ones((2, 3), "<f4"))
    file = described(
        cli.folder, "told", ("a", model, "cpu"), extra='[golden]\nreference = "a"\ninputs = "inputs.npz"\n'
    )
    cli("publish", file)
    assert manifest_of(cli, "told")["golden"]["cases"] == 1
    assert "no variant 'b'" in cli("publish", file, "--version", "2", "--golden-from", "b", code=2).err


def test_what_cannot_run_here_is_named_and_left_to_its_devices(cli: Cli) -> None:
    model = linear(cli.folder, "model")
    file = described(cli.folder, "mixed", ("cpu", model, "cpu"), ("gpu", model, "gpu"))
    ran = cli("publish", file)
    variants = {variant["name"]: variant for variant in manifest_of(cli, "mixed")["variants"]}
    assert variants["cpu"]["parity"]["parity"]["passed"]
    if variants["gpu"]["parity"] is None:
        assert "gpu: not measured here: " in ran.err


def test_one_of_several_variants_that_runs_here_makes_golden_vectors_for_all(cli: Cli) -> None:
    """The first is for a chip that no publisher's machine has."""
    model = linear(cli.folder, "model")
    ran = cli("publish", described(cli.folder, "one-here", ("npu", model, "ascend310"), ("cpu", model, "cpu")))
    manifest = manifest_of(cli, "one-here")
    assert (manifest["golden"]["cases"], manifest["golden"]["reference"]) == (8, "cpu")
    assert "npu: not measured here: ONNX for ascend310 runs on such a device only" in ran.err


def test_where_no_variant_runs_it_is_said_once_that_there_are_no_golden_vectors(cli: Cli) -> None:
    model = linear(cli.folder, "model")
    file = described(cli.folder, "none-here", ("a", model, "ascend310"), ("b", model, "ascend910"))
    ran = cli("publish", file)
    said = "no golden vectors: no variant runs here (a: ONNX for ascend310 runs on such a device only; b: ONNX for"
    assert ran.err.count(said) == ran.err.count("golden vectors") == 1
    assert manifest_of(cli, "none-here")["golden"] is None
    assert "no variant runs here" in cli("publish", file, "--version", "2", "--golden-random", 2, code=1).err


def test_an_answer_of_which_nothing_is_finite_makes_no_golden_vectors(cli: Cli) -> None:
    model = linear(cli.folder, "model")
    np.savez(cli.folder / "inputs.npz", x=np.full((1, 3), np.nan, "<f4"))
    single = ("publish", "nan", model, "--version", "1", "--target", "cpu")
    refused = cli(*single, "--golden-inputs", "inputs.npz", code=1).err
    assert "What onnx-cpu answers cannot be compared with: output 'y' has no finite element" in refused
    nothing = linear(cli.folder, "nothing", off=float("nan"))
    ran = cli("publish", described(cli.folder, "nans", ("a", nothing, "cpu"), ("b", nothing, "cpu")))
    assert "no golden vectors: What a answers cannot be compared with" in ran.err
    assert manifest_of(cli, "nans")["golden"] is None


def test_random_inputs_that_the_model_refuses_do_not_hinder_publishing(cli: Cli) -> None:
    (cli.folder / "gather.onnx").write_bytes(onnx_models.gather_rows())
    file = described(cli.folder, "loops", ("a", "gather.onnx", "cpu"), ("b", "gather.onnx", "cpu"))
    cli("publish", file)
    assert manifest_of(cli, "loops")["version"] == "1"


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"x": np.ones((1, 3), "<f4")}, "is not named <case>/in/<input>"),
        ({"1/in/x": np.ones((1, 3), "<f4")}, "numbered from 0 without a gap"),
        ({"0/in/x": np.ones((1, 3), "<f4")}, "has no output"),
        ({"0/in/x": np.ones((1, 4), "<f4"), "0/out/y": np.ones((1, 2), "<f4")}, "is [1, 4], the model has [-1, 3]"),
        ({"0/in/x": np.ones((1, 3)), "0/out/y": np.ones((1, 2))}, "is FP64, the model has FP32"),
        ({"0/in/x": np.ones((0, 3), "<f4"), "0/out/y": np.ones((0, 2), "<f4")}, "[0, 3], without elements"),
        ({"0/in/x": np.ones((1, 3), "<f4"), "0/out/y": np.full((1, 2), np.inf, "<f4")}, "'y' has no finite element"),
        ({"0/in/x": np.array([object()])}, "no .npz file of plain arrays"),
        ({"0/in/x": np.array(["text"])}, "which no request can carry"),
    ],
)
def test_a_file_that_is_not_of_golden_vectors_is_refused(cli: Cli, arrays: Any, says: str) -> None:
    model = linear(cli.folder, "model")
    np.savez(cli.folder / "bad.npz", **arrays)
    arguments = ("publish", "bad", model, "--version", "1", "--target", "cpu", "--golden", "bad.npz")
    assert says in cli(*arguments, code=1).err


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"x": np.ones((1, 4), "<f4")}, "case 0: input 'x' is [1, 4], the model has [-1, 3]"),
        ({"x": np.ones((1, 3))}, "case 0: input 'x' is FP64, the model has FP32"),
        ({"x": np.ones((0, 3), "<f4")}, "without elements"),
        ({"x": np.ones((1, 3), "<f4"), "w": np.ones(1)}, "'w' belongs to no case; of each it has the inputs x"),
        ({"0/in/x": np.ones((1, 3), "<f4"), "2/in/x": np.ones((1, 3), "<f4")}, "'2/in/x' belongs to no case"),
        ({"0/in/x": np.ones((1, 3), "<f4"), "0/out/y": np.ones((1, 2), "<f4")}, "'0/out/y' belongs to no case"),
        ({"0/in/x": np.ones((1, 3), "<f4"), "1/in/x": np.ones(3, "<f4")}, "case 1: input 'x' is [3]"),
        ({"z": np.ones((1, 3), "<f4")}, "has neither the inputs x"),
    ],
)
def test_golden_inputs_that_are_not_the_models_are_refused_before_it_runs(cli: Cli, arrays: Any, says: str) -> None:
    model = linear(cli.folder, "model")
    np.savez(cli.folder / "inputs.npz", **arrays)
    arguments = ("publish", "bad", model, "--version", "1", "--target", "cpu", "--golden-inputs", "inputs.npz")
    assert says in cli(*arguments, code=1).err


def test_files_that_are_no_archives_and_wrong_options_are_refused(cli: Cli) -> None:
    arguments = ("publish", "bad", linear(cli.folder, "model"), "--version", "1", "--target", "cpu")
    for name, content in (("a.npz", b"PK\3\4 not one"), ("b.safetensors", b"no"), ("c.txt", b"")):
        (cli.folder / name).write_bytes(content)
        cli(*arguments, "--golden", name, code=1)
    assert "cannot be read" in cli(*arguments, "--golden", "absent.npz", code=1).err
    cli(*arguments, "--golden", "a.npz", "--golden-random", 3, code=2)
    for wrong in ("absolut=1", "absolute=x", "top1=2", "absolute=nan"):
        assert "--tolerance" in cli(*arguments, "--tolerance", wrong, code=2).err


@needs_mindspore
def test_a_mindir_and_its_onnx_sibling_are_measured_against_each_other(cli: Cli) -> None:
    initializers = onnx.load(LENET).graph.initializer
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in initializers}
    np.savez(cli.folder / "weights.npz", **weights)  # type: ignore[arg-type]  # NumPy's stub takes them for its switch
    script = ROOT / "tests" / "support" / "models" / "mindspore_models.py"
    command = [PYTHON, "-I", script, "lenet", cli.folder / "weights.npz", cli.folder / "lenet.mindir"]
    subprocess.run([str(part) for part in command], check=True, timeout=100, capture_output=True)
    shutil.copy(LENET, cli.folder)
    signature = """
    [[variant.inputs]]
    name = "x"
    datatype = "FP32"
    shape = [-1, 1, 28, 28]
    [[variant.outputs]]
    name = "y"
    datatype = "FP32"
    shape = [-1, 10]
    """
    file = described(
        cli.folder, "forms", ("onnx", "lenet.onnx", "cpu"), ("mindir", "lenet.mindir", "cpu"), extra=signature
    )
    ran = cli("publish", file, MODELFLEET_MINDSPORE_PYTHON=PYTHON)
    assert "mindir: measured here on mindspore/CPU" in ran.err
    onnx_parity, mindir_parity = (variant["parity"]["parity"] for variant in manifest_of(cli, "forms")["variants"])
    assert onnx_parity["max_abs"] == 0.0
    assert 0 < mindir_parity["max_abs"] < 1e-4
    assert mindir_parity["top1_agreement"] == 1.0


def test_the_registry_checks_the_vectors_itself(admin: httpx.Client) -> None:
    good = write_tensors(
        {
            "0/in/x": Tensor(Datatype.FP32, (1, 3), bytes(12)),
            "0/out/y": Tensor(Datatype.FP32, (1, 2), bytes(8)),
        }
    )
    wrong = write_tensors({"0/in/x": Tensor(Datatype.FP32, (1, 3), bytes(12))})
    answer = _put(admin, "checked", good)
    assert answer.status_code == 201, answer.text
    for content, cases in ((wrong, 1), (good, 2), (good[:-1], 1), (b"nothing", 1)):
        answer = _put(admin, "unchecked", content, cases)
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid"), answer.text
        assert "golden vectors" in answer.json()["detail"]
    assert _put(admin, "unchecked", good, reference="b").status_code == 422


def _put(http: httpx.Client, model: str, golden: bytes, cases: int = 1, reference: str | None = None) -> httpx.Response:
    tensors = {"x": ("inputs", [-1, 3]), "y": ("outputs", [-1, 2])}
    variant: dict[str, Any] = {"name": "a", "format": "onnx", "target": "cpu", "entry": "m.onnx"}
    variant["files"] = [{"path": "m.onnx", "digest": put_blob(http, b"model"), "size": 5}]
    for name, (side, shape) in tensors.items():
        variant[side] = [{"name": name, "datatype": "FP32", "shape": shape}]
    file = {"path": "golden.safetensors", "digest": put_blob(http, golden), "size": len(golden)}
    manifest = {
        "model": model,
        "version": "1",
        "variants": [variant],
        "golden": {"file": file, "cases": cases, "reference": reference},
    }
    return http.put(version_path(model, "1"), json=manifest)
