"""Files of every format: what they say is read, what they cannot say is asked, what they are not is refused."""

from __future__ import annotations

import json
import shutil
import stat
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import pytest

from registry.inspection import air, checkpoint, mindir, om
from registry.inspection.detect import OM_MAGIC, detect
from registry.inspection.facts import InspectionError
from registry.inspection.protobuf import Field, ProtobufWalk
from tests.support.models import onnx_models
from tests.support.models.protobuf import message, number
from tests.support.paths import DATA
from tests.support.programs.cli import Cli, Ran
from tests.support.programs.registry_process import RegistryProcess

"""Files that MindSpore wrote; see the README there."""
SIGNATURE = """
[[variant.inputs]]
name = "x"
datatype = "FP32"
shape = [-1, 1, 8, 8]
[[variant.outputs]]
name = "y"
datatype = "FP32"
shape = [-1, 3]
"""
OM_BUILD = '[variant.requirements]\nsoc_version = "Ascend310P3"\ncann_version = "8.0.RC1"\n'
AIR = message(7, message(1, "g") + message(6, message(1, "x") + message(2, "Data")))
"""As Graph Engine's published source writes it; no file of a real Ascend is at hand."""


@pytest.fixture
def cli(server: RegistryProcess, tmp_path: Path) -> Cli:
    """An administrator's shell in an empty folder."""
    return Cli(tmp_path, server.url, server.admin_token)


def publish(cli: Cli, *variants: str, code: int = 1) -> Ran:
    text = 'model = "m"\nversion = "1"\n' + "".join(f"[[variant]]\n{variant}\n" for variant in variants)
    (cli.folder / "m.toml").write_text(text)
    return cli("publish", "m.toml", code=code)


def put(cli: Cli, name: str, content: bytes | None = None) -> str:
    """A file in the folder, and its line in a publish file."""
    if content is None:
        shutil.copy(DATA / name, cli.folder / name)
    else:
        (cli.folder / name).write_bytes(content)
    return f'file = "{name}"\n'


@pytest.mark.parametrize(
    ("name", "inputs", "outputs"),
    [
        ("conv.mindir", [("x", (1, 1, 8, 8))], [("output", (1, 3))]),
        ("conv-dynamic.mindir", [("x", (-1, 1, 8, 8))], [("output", (-1, 3))]),
        ("two.mindir", [("a", (2, 3)), ("b", (2, 3))], [("output_0", (2, 3)), ("output_1", (2, 3))]),
    ],
)
def test_a_mindir_of_mindspore_tells_its_signature_and_version(name: str, inputs: object, outputs: object) -> None:
    facts = mindir.inspect(DATA / name)
    assert detect(DATA / name) == "mindir"
    assert [(spec.name, spec.shape) for spec in facts.inputs] == inputs
    assert [(spec.name, spec.shape) for spec in facts.outputs] == outputs
    assert facts.requirements.mindspore_version == "2.10.0"
    assert facts.warnings == ()


def test_the_operators_of_a_mindir_are_read() -> None:
    with (DATA / "conv.mindir").open("rb") as file:
        found = mindir.read(file, (DATA / "conv.mindir").stat().st_size, "conv.mindir")
    assert {"Conv2D", "ReLU", "Flatten", "MatMul", "BiasAdd"} <= found.operators


@pytest.mark.parametrize("name", ["conv.ckpt", "conv-crc.ckpt", "conv-appended.ckpt", "conv.safetensors"])
def test_a_checkpoint_of_mindspore_tells_its_parameters(name: str) -> None:
    found = {parameter.name: parameter for parameter in checkpoint.inspect(DATA / name).parameters}
    assert detect(DATA / name) == "mindspore-ckpt"
    assert {name: found[name].shape for name in ("conv.weight", "fc.weight", "fc.bias")} == {
        "conv.weight": (2, 1, 3, 3),
        "fc.weight": (3, 72),
        "fc.bias": (3,),
    }
    assert found["fc.weight"].size == 864


@pytest.mark.parametrize("name", ["conv.mindir", "conv.ckpt", "conv-crc.ckpt", "conv.safetensors"])
def test_no_cut_of_a_real_file_passes(tmp_path: Path, name: str) -> None:
    whole = (DATA / name).read_bytes()
    form = mindir if name.endswith(".mindir") else checkpoint
    cut = tmp_path / name
    ends = {0, *_whole_ends(name, whole)}
    parts = [field.start + field.length for field in _fields(whole) if field.start]
    for end in [*range(1, len(whole), 37), *parts[:-1], len(whole) - 1]:
        cut.write_bytes(whole[:end])
        if end not in ends:
            with pytest.raises(InspectionError):
                form.inspect(cut)


def _whole_ends(name: str, whole: bytes) -> Iterator[int]:
    """Where a cut leaves a smaller file of the same format: after any parameter of a checkpoint."""
    if name.endswith(".ckpt"):
        yield from (field.start + field.length for field in _fields(whole))


def _fields(whole: bytes) -> list[Field]:
    """The outermost fields of a protobuf file; none of another."""
    if whole[8:9] == b"{":
        return []
    return list(ProtobufWalk(BytesIO(whole), checkpoint.payload_bytes(BytesIO(whole), len(whole))).fields())


def test_weights_of_a_mindir_that_leave_its_folder_are_refused(tmp_path: Path) -> None:
    output = message(6, message(1, "y") + message(2, number(1, 1) + number(2, 1)))
    weights = message(3, message(7, "w") + message(12, message(1, "../secret"))) + output
    (tmp_path / "m.mindir").write_bytes(message(2, "MindSpore") + message(7, weights))
    with pytest.raises(InspectionError, match="not a plain path below the model's folder"):
        mindir.inspect(tmp_path / "m.mindir")


def test_a_checkpoint_keeps_the_name_that_mindspore_reads_its_form_by(tmp_path: Path) -> None:
    shutil.copy(DATA / "conv.ckpt", tmp_path / "a.safetensors")
    shutil.copy(DATA / "conv.safetensors", tmp_path / "a.ckpt")
    with pytest.raises(InspectionError, match=r"Call it \.ckpt"):
        checkpoint.inspect(tmp_path / "a.safetensors")
    with pytest.raises(InspectionError, match=r"Call it \.safetensors"):
        checkpoint.inspect(tmp_path / "a.ckpt")


def test_air_is_told_by_its_graphs_and_another_protobuf_only_by_who_says_so(tmp_path: Path) -> None:
    (tmp_path / "m.air").write_bytes(AIR)
    (tmp_path / "other.air").write_bytes(message(1, "main") + number(2, 1) + message(7, message(1, "g")))
    assert (detect(tmp_path / "m.air"), detect(tmp_path / "other.air")) == ("air", None)
    assert air.inspect(tmp_path / "m.air").warnings == ()
    assert "because you say so" in air.inspect(tmp_path / "other.air").warnings[0]
    (tmp_path / "m.air").write_bytes(AIR[:-1])
    with pytest.raises(InspectionError, match="cut short"):
        air.inspect(tmp_path / "m.air")


def test_atc_is_asked_where_it_is(tmp_path: Path) -> None:
    """A stand-in for `atc` that writes the JSON of CANN's documentation; the real one was never run."""
    told = {
        "attr": [{"key": k, "value": {"s": v}} for k, v in (("soc_version", "Ascend310P3"), ("atc_version", "8.0"))]
    }
    model = tmp_path / "m.om"
    model.write_bytes(OM_MAGIC + bytes(248))

    def asked(script: str) -> tuple[str | None, str | None, int]:
        (tmp_path / "atc").write_text(
            f"#!/bin/sh\nfor a; do case $a in --json=*) out=${{a#--json=}};; esac; done\n{script}"
        )
        (tmp_path / "atc").chmod(stat.S_IRWXU)
        facts = om.inspect(model, str(tmp_path / "atc"))
        return facts.requirements.soc_version, facts.requirements.cann_version, len(facts.warnings)

    assert asked(f"echo '{json.dumps(told)}' > $out") == ("Ascend310P3", "8.0", 0)
    assert asked("exit 1") == (None, None, 1)
    assert asked("exit 0") == (None, None, 1)
    assert asked("echo '{' > $out") == (None, None, 1)


@pytest.mark.parametrize(
    ("name", "content", "rest", "code", "said"),
    [
        ("conv.ckpt", None, 'target = "cpu"', 2, "a checkpoint holds weights only"),
        ("m.om", OM_MAGIC + bytes(248), 'target = "ascend310"', 2, "soc_version"),
        ("m.om", OM_MAGIC + bytes(248), 'target = "ascend310"\n' + OM_BUILD, 2, "[[variant.inputs]]"),
        ("m.om", OM_MAGIC + bytes(248), 'target = "cpu"\n' + SIGNATURE + OM_BUILD, 2, "does not run on the target cpu"),
        (
            "m.om",
            OM_MAGIC + bytes(248),
            'target = "ascend310"\n' + SIGNATURE + OM_BUILD.replace("8.0.RC1", "banana"),
            2,
            "cann_version 'banana' is no version",
        ),
        ("m.om", OM_MAGIC + bytes(100), 'target = "ascend310"', 1, "cut short inside its header"),
        ("m.om", b"IMOD" + bytes(300), 'target = "ascend310"\nformat = "om"', 1, "not a file of format om"),
        ("m.plan", b"ftrt" + bytes(10), 'target = "gpu"', 1, "cut short inside its header"),
        ("m.plan", b"ftrt" + bytes(20) + b"\x0a\x0d\x03\x09", 'target = "gpu"', 2, "compute_capability"),
        ("m.plan", b"ftrt" + bytes(99), 'target = "gpu"\nformat = "tensorrt-plan"', 2, "compute_capability"),
        (
            "m.plan",
            b"ftrt" + bytes(99),
            'target = "gpu"\nformat = "tensorrt-plan"\nrequirements = {compute_capability = "86"}',
            2,
            "compute_capability",
        ),
        ("m.air", b"not protobuf", 'target = "ascend310"\nformat = "air"', 1, "not an AIR file"),
        ("conv.mindir", None, 'target = "cpu"\nformat = "air"', 1, "is mindir by its content"),
        (
            "conv.mindir",
            None,
            'target = "cpu"\n[variant.requirements]\nmindspore_version = "2.9.0"',
            1,
            "says mindspore_version",
        ),
        ("conv.mindir", None, 'target = "cpu"\n' + SIGNATURE.replace("8, 8", "9, 9"), 1, "has the inputs: x FP32"),
        (
            "c.mindir",
            message(2, "MindSpore") + message(7, b"") + message(12, message(2, "Custom")),
            'target = "cpu"',
            1,
            "operator 'Custom'",
        ),
    ],
)
def test_what_a_file_is_not_or_does_not_say_ends_the_command(
    cli: Cli, name: str, content: bytes | None, rest: str, *, code: int, said: str
) -> None:
    refused = publish(cli, put(cli, name, content) + rest, code=code)
    assert said in " ".join(refused.err.split())


def test_siblings_that_disagree_are_refused(cli: Cli) -> None:
    mind = put(cli, "conv.mindir") + 'target = "cpu"\n' + SIGNATURE
    fits = put(cli, "conv.ckpt") + 'target = "ascend910"\n' + SIGNATURE
    for wrong in (SIGNATURE.replace("FP32", "FP16"), SIGNATURE.replace('"y"', '"z"'), SIGNATURE.replace("3]", "4]")):
        refused = publish(cli, mind, fits.replace(SIGNATURE, wrong), code=2)
        assert "variants mindir-cpu and mindspore-ckpt-ascend910 disagree" in " ".join(refused.err.split())
    other = put(cli, "other.onnx", onnx_models.one_op("Relu", [1, 3])) + 'target = "gpu"'
    assert "disagree in inputs or outputs" in " ".join(publish(cli, mind, other, code=2).err.split())


def test_one_version_holds_every_format(cli: Cli) -> None:
    plan_build = 'requirements = {tensorrt_version = "10.13.3.9", compute_capability = "8.6"}\n'
    ran = publish(
        cli,
        put(cli, "conv-dynamic.mindir") + 'target = "cpu"\n' + SIGNATURE,
        put(cli, "conv.ckpt") + 'target = "ascend910"\n' + SIGNATURE,
        put(cli, "conv.safetensors") + 'target = "gpu"\n' + SIGNATURE,
        put(cli, "m.om", OM_MAGIC + bytes(248)) + 'target = "ascend310"\n' + SIGNATURE + OM_BUILD,
        put(cli, "m.plan", b"ftrt" + bytes(99)) + 'target = "gpu"\nformat = "tensorrt-plan"\n' + plan_build + SIGNATURE,
        put(cli, "m.air", AIR) + 'target = "ascend310"',
        code=0,
    )
    for finding in ("MindSpore 2.10.0", "3 parameters, 948 bytes", "Ascend310P3, CANN 8.0.RC1"):
        assert finding in ran.err
    variants = {v["name"]: v for v in cli("show", "m@1", "--json").document["manifest"]["variants"]}
    assert {
        name: {key: value for key, value in v["requirements"].items() if value} for name, v in variants.items()
    } == {
        "mindir-cpu": {"mindspore_version": "2.10.0"},
        "mindspore-ckpt-ascend910": {},
        "mindspore-ckpt-gpu": {},
        "om-ascend310": {"soc_version": "Ascend310P3", "cann_version": "8.0.RC1"},
        "tensorrt-plan-gpu": {"tensorrt_version": "10.13.3.9", "compute_capability": "8.6"},
        "air-ascend310": {},
    }
    assert [spec["name"] for spec in variants["mindir-cpu"]["outputs"]] == ["y"]
