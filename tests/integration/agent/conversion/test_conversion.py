"""Conversions with real processes: ONNX Runtime's quantisation and MindSpore's export for real, ATC SIMULATED."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from agent.conversion import tool
from agent.conversion.base import SOURCE, ConversionRequest, Tools
from agent.conversion.convert import Converted, convert
from agent.conversion.tool import HEAD_BYTES, TAIL_BYTES, CancelledError
from agent.errors import AgentError
from registry.contracts.catalogue.manifest import FileRef, Format, Network, Target, TensorSpec, Variant
from registry.contracts.wire import digest_of
from registry.inspection import om
from tests.fakes.simulated_atc import running, simulated_atc
from tests.support.models import onnx_models
from tests.support.models.mindspore_python import PYTHON, needs_mindspore
from tests.support.paths import LENET, ROOT

X, Y = ("x", (-1, 3)), ("y", (-1, 2))


def specs(name: str, shape: tuple[int, ...]) -> tuple[TensorSpec, ...]:
    return (TensorSpec(name=name, datatype="FP32", shape=shape),)


def source(folder: Path, content: bytes, kind: Format = Format.ONNX, file: str = "model.onnx") -> Variant:
    (folder / SOURCE).mkdir(parents=True)
    (folder / SOURCE / file).write_bytes(content)
    ref = FileRef(path=file, digest=digest_of(content), size=len(content))
    return Variant(
        name="cpu",
        format=kind,
        target=Target.CPU,
        entry=file,
        files=(ref,),
        inputs=specs(*X),
        outputs=specs(*Y),
    )


def run(
    request: ConversionRequest, folder: Path, timeout_s: float = 60.0, cancel: threading.Event | None = None
) -> Converted:
    return convert(request, folder, timeout_s=timeout_s, cancel=cancel or threading.Event())


def with_atc(folder: Path, mode: str = "", kind: Format = Format.ONNX, **options: str) -> ConversionRequest:
    program = simulated_atc(folder / "tool", mode)
    tools = Tools(python=sys.executable, atc=str(program), soc="Ascend310P3", cann="8.0.RC1", device="edge-1")
    return ConversionRequest(source(folder / "work", onnx_models.linear(), kind), Format.OM, tools, options)


def test_a_simulated_atc_makes_an_om_whose_build_says_how(tmp_path: Path) -> None:
    request = with_atc(tmp_path, dynamic_batch_size="1,2,4")
    made = run(request, tmp_path / "work")
    variant = made.variant
    assert om.inspect(made.folder / "model.om", atc="").format is Format.OM
    assert (variant.format, variant.entry, variant.target) == (Format.OM, "model.om", Target.ASCEND310)
    assert variant.requirements.soc_version == "Ascend310P3"
    assert variant.requirements.cann_version == "8.0.RC1"
    assert (variant.inputs[0].shape, variant.outputs[0].shape) == ((-1, 3), (-1, 2))
    assert variant.build is not None
    assert variant.build.parent == request.source.canonical_digest()
    assert (variant.build.tool, variant.build.built_on) == ("atc", "edge-1")
    assert variant.build.command[1:5] == (
        "--model=source/model.onnx",
        "--framework=5",
        "--output=out/model",
        "--soc_version=Ascend310P3",
    )
    assert variant.build.versions == {"cann": "8.0.RC1"}
    assert variant.files[0].digest == digest_of((made.folder / "model.om").read_bytes())


@pytest.mark.parametrize(
    ("mode", "code", "says"),
    [
        ("E19010: No parser is registered for Op [Div, optype [ai.onnx::23::Div]].", "tool_failed", "opset"),
        ("EC0005: SoC version [Ascend310P3] is not supported.", "tool_failed", "soc_version"),
        ("EZ3003: No supported Ops kernel and engine are found for [x].", "tool_failed", "not supported on this chip"),
        ("library", "tool_failed", "libascend_hal.so"),
        ("silent", "tool_no_output", "model.om is not there"),
        ("truncated", "tool_no_output", "cut short"),
    ],
)
def test_a_simulated_atc_that_fails_is_a_clear_error_and_leaves_nothing(
    tmp_path: Path, mode: str, code: str, says: str
) -> None:
    with pytest.raises(AgentError) as caught:
        run(with_atc(tmp_path, mode), tmp_path / "work")
    assert caught.value.code == code
    assert says in caught.value.message
    assert not (tmp_path / "work" / "out").exists()


def until(condition: object, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("how", ["timeout", "cancelled"])
def test_a_simulated_atc_that_hangs_is_killed_with_all_that_it_started(tmp_path: Path, how: str) -> None:
    request, cancel, failed = with_atc(tmp_path, "hang"), threading.Event(), []

    def work() -> None:
        try:
            run(request, tmp_path / "work", 3.0 if how == "timeout" else 60.0, cancel)
        except AgentError as error:
            failed.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    until(lambda: len(running(tmp_path / "tool")) == 2)
    if how == "cancelled":
        cancel.set()
    thread.join(30)
    assert [error.code for error in failed] == ["tool_timeout" if how == "timeout" else "job_cancelled"]
    assert isinstance(failed[0], CancelledError) == (how == "cancelled")
    until(lambda: not running(tmp_path / "tool"))
    assert not (tmp_path / "work" / "out").exists()


def test_of_a_tool_that_says_very_much_the_beginning_and_the_end_are_kept(tmp_path: Path) -> None:
    made = run(with_atc(tmp_path, "noisy"), tmp_path / "work")
    assert len(made.output) < HEAD_BYTES + TAIL_BYTES + 100
    assert made.output.startswith("x" * 79)
    assert "ATC run success" in made.output


@pytest.fixture
def disk() -> Iterator[Path]:
    """A folder that is not below /dev, which tools may use, as the folders of tests are where they lie in memory."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        yield Path(folder)


def test_a_tool_reads_and_writes_its_folder_and_no_secret(disk: Path) -> None:
    secret, folder = disk / "secret", disk / "work"
    secret.write_text("token")
    folder.mkdir()
    script = f"""
import os, pathlib, subprocess, tempfile
pathlib.Path("made").write_text("here")
tempfile.NamedTemporaryFile().write(b"x")
pathlib.Path.home().joinpath("kept").write_text("here, too")
subprocess.run(["/bin/true"], check=True)
print(os.path.exists("/etc/hostname"), "NoNewPrivs:\\t1" in open("/proc/self/status").read())
acts = (lambda: open({str(secret)!r}), lambda: open({str(disk / "new")!r}, "w"), lambda: os.kill({os.getpid()}, 0))
for act in acts:
    try:
        act()
        print("allowed")
    except PermissionError:
        print("refused")
"""
    ran = tool.run([sys.executable, "-c", script], folder=folder, timeout_s=60, cancel=threading.Event())
    said = ran.output.split()
    assert ran.code == 0, ran.output
    assert said[:2] == ["True", "True"]
    with subprocess.Popen([sys.executable, "-c", "from registry.sandbox import confine; print(confine([]))"],
                          stdout=subprocess.PIPE, text=True) as process:  # fmt: skip
        landlock = process.communicate()[0].replace(",", "").split()
    if landlock[0] != "landlock":
        pytest.skip("this kernel has no Landlock: only the limits hold")
    assert said[2:4] == ["refused", "refused"]
    assert said[4] == "refused" or int(landlock[1]) < 6
    assert sorted(path.name for path in folder.iterdir()) == ["kept", "made"]


def test_a_tool_that_is_not_there_is_said_to_be_missing(tmp_path: Path) -> None:
    request = ConversionRequest(
        source(tmp_path, onnx_models.linear()),
        Format.OM,
        Tools("python", atc=str(tmp_path / "no-such-atc"), soc="Ascend310P3", cann="8.0.RC1"),
    )
    with pytest.raises(AgentError) as caught:
        run(request, tmp_path)
    assert caught.value.code == "tool_missing"


def answers(path: Path, batch: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {session.get_inputs()[0].name: batch})[0])


@pytest.mark.parametrize("mode", ["dynamic", "static"])
def test_quantised_lenet_keeps_its_signature_and_nearly_its_answers(tmp_path: Path, mode: str) -> None:
    lenet = source(tmp_path, LENET.read_bytes())
    batch = np.random.default_rng(1).random((32, 1, 28, 28), np.float32)
    with (tmp_path / "calibration.npz").open("wb") as stream:
        np.savez(stream, **{f"{number}/x": batch[number : number + 1] for number in range(32)})
    request = ConversionRequest(lenet, Format.ONNX, Tools(python=sys.executable), {"mode": mode}, calibration=True)
    made = run(request, tmp_path)
    quantised = made.folder / made.variant.entry
    assert (made.variant.name, made.variant.format) == ("cpu-int8", Format.ONNX)
    assert [spec.name for spec in made.variant.inputs] == ["x"]
    assert made.variant.requirements.onnx_opsets
    assert made.variant.build is not None
    assert made.variant.build.versions["onnxruntime"] == onnxruntime.__version__
    assert quantised.stat().st_size < LENET.stat().st_size / 2
    assert (answers(quantised, batch).argmax(1) == answers(LENET, batch).argmax(1)).mean() > 0.9


@pytest.mark.parametrize("feeds", ["Constant", "Identity", "Transpose", "Reshape"])
@pytest.mark.parametrize("per_channel", ["false", "true"])
def test_weights_that_are_no_initializers_are_quantised_all_the_same(
    tmp_path: Path, feeds: str, per_channel: str
) -> None:
    folder = tmp_path / "work"
    model = onnx_models.linear_fed_by(feeds)
    options = {"per_channel": per_channel}
    made = run(ConversionRequest(source(folder, model), Format.ONNX, Tools(python=sys.executable), options), folder)
    x = np.array([[1, 2, 3], [-1, 0, 2]], np.float32)
    int8, fp32 = (
        onnxruntime.InferenceSession(content).run(None, {"x": x})[0]
        for content in ((made.folder / "model.onnx").read_bytes(), model)
    )
    assert b"MatMulInteger" in (made.folder / "model.onnx").read_bytes()
    np.testing.assert_allclose(int8, fp32, rtol=0.05, atol=0.5)


def test_weights_in_another_file_are_quantised_too(tmp_path: Path) -> None:
    folder = tmp_path / "work"
    plain = source(folder, onnx_models.external_linear("my weights.bin"))
    weights = np.arange(300, dtype=np.float32).reshape(3, 100)
    (folder / SOURCE / "my weights.bin").write_bytes(weights.tobytes())
    made = run(ConversionRequest(plain, Format.ONNX, Tools(python=sys.executable), {}), folder)
    x = np.ones((1, 3), np.float32)
    session = onnxruntime.InferenceSession((made.folder / "model.onnx").read_bytes())
    np.testing.assert_allclose(session.run(None, {"x": x})[0], x @ weights, rtol=0.02)


def test_a_model_of_which_nothing_can_be_quantised_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "work"
    request = ConversionRequest(
        source(folder, onnx_models.linear_in_a_branch()), Format.ONNX, Tools(python=sys.executable), {}
    )
    with pytest.raises(AgentError) as caught:
        run(request, folder)
    assert caught.value.code == "tool_failed"
    assert "weights inside branches of If" in caught.value.message


def test_a_model_that_onnx_runtime_cannot_quantise_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(AgentError) as caught:
        run(ConversionRequest(source(tmp_path, b"no model"), Format.ONNX, Tools(python=sys.executable)), tmp_path)
    assert caught.value.code == "tool_failed"
    assert not (tmp_path / "out").exists()


def checkpoint(folder: Path) -> Variant:
    """LeNet-5 with random weights, saved by MindSpore."""
    (folder / SOURCE).mkdir()
    path = folder / SOURCE / "lenet.ckpt"
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import mindspore; "
        "from registry.mindspore_networks import table; "
        "mindspore.save_checkpoint(table.build('lenet5', {}), sys.argv[2])"
    )
    root = str(ROOT)
    assert os.spawnv(os.P_WAIT, PYTHON, [PYTHON, "-c", code, root, str(path)]) == 0
    content = path.read_bytes()
    return Variant(
        name="ckpt",
        format=Format.MINDSPORE_CKPT,
        target=Target.CPU,
        entry=path.name,
        files=(FileRef(path=path.name, digest=digest_of(content), size=len(content)),),
        inputs=specs("x", (-1, 1, 32, 32)),
        outputs=specs("logits", (-1, 10)),
        network=Network(name="lenet5"),
    )


@needs_mindspore
def test_a_checkpoint_becomes_an_onnx_with_an_open_batch_and_the_names_of_the_manifest(tmp_path: Path) -> None:
    tools = Tools(python=sys.executable, mindspore=PYTHON)
    made = run(ConversionRequest(checkpoint(tmp_path), Format.ONNX, tools), tmp_path, 120)
    assert made.variant.inputs == specs("x", (-1, 1, 32, 32))
    assert made.variant.outputs == specs("logits", (-1, 10))
    assert made.variant.build is not None
    assert made.variant.build.versions["mindspore"]
    batch = np.random.default_rng(1).random((5, 1, 32, 32), np.float32)
    together = answers(made.folder / made.variant.entry, batch)
    alone = [answers(made.folder / made.variant.entry, batch[i : i + 1])[0] for i in range(5)]
    assert np.allclose(together, alone, atol=1e-5)


@needs_mindspore
def test_a_checkpoint_becomes_a_mindir(tmp_path: Path) -> None:
    tools = Tools(python=sys.executable, mindspore=PYTHON)
    made = run(ConversionRequest(checkpoint(tmp_path), Format.MINDIR, tools), tmp_path, 120)
    assert made.variant.name == "mindir-cpu"
    assert made.variant.requirements.mindspore_version
    assert made.variant.outputs == specs("logits", (-1, 10))


@needs_mindspore
def test_air_without_an_ascend_is_refused_with_mindspores_own_reason(tmp_path: Path) -> None:
    tools = Tools(python=sys.executable, mindspore=PYTHON)
    with pytest.raises(AgentError) as caught:
        run(ConversionRequest(checkpoint(tmp_path), Format.AIR, tools), tmp_path, 120)
    assert caught.value.code == "tool_failed"
    assert "Only support export file in 'AIR' format with Ascend backend" in caught.value.message
    assert "--on DEVICE" in caught.value.message
