"""A checkpoint is published with its network: what does not fit it is refused before a device sees it."""

from __future__ import annotations

from pathlib import Path

import pytest

from registry.contracts.catalogue import networks
from registry.contracts.catalogue.manifest import Network
from tests.support.models import checkpoints, onnx_models
from tests.support.programs.cli import Cli
from tests.support.programs.registry_process import RegistryProcess

LENET = networks.parameters(Network(name="lenet5"))
ONNX_SIBLING = '[[variant]]\nfile = "m.onnx"\ntarget = "cpu"\n'
CHECKPOINT = '[[variant]]\nfile = "lenet.safetensors"\ntarget = "cpu"\n[variant.network]\nname = "lenet5"\n'


@pytest.fixture
def cli(server: RegistryProcess, tmp_path: Path) -> Cli:
    """An administrator's shell in a folder with a checkpoint of LeNet-5."""
    (tmp_path / "lenet.safetensors").write_bytes(checkpoints.safetensors(LENET))
    return Cli(tmp_path, server.url, server.admin_token)


def publish(cli: Cli, *more: str, code: int = 0, model: str = "lenet") -> str:
    standard = ("publish", model, "lenet.safetensors", "--version", "1.0.0", "--target", "cpu")
    return " ".join(cli(*standard, *more, code=code).err.split())


def test_one_checkpoint_serves_several_targets_and_is_sent_once(cli: Cli) -> None:
    words = ("--network", "lenet5", "--network-arg", "num_class=10", "--target", "cpu,gpu,ascend910")
    told = cli(
        "publish", "several", "lenet.safetensors", "--version", "1", *words, "--golden-random", "0", "--json"
    ).document
    variants = told["manifest"]["variants"]
    assert [variant["target"] for variant in variants] == ["cpu", "gpu", "ascend910"]
    assert len({variant["files"][0]["digest"] for variant in variants}) == 1
    assert told["sent_bytes"] + told["present_bytes"] == variants[0]["files"][0]["size"]
    assert "tpu" in cli("publish", "several", "lenet.safetensors", "--version", "2", "--target", "cpu,tpu", code=2).err


def test_the_network_gives_inputs_and_outputs_and_stands_in_the_manifest(cli: Cli) -> None:
    told = publish(cli, "--network", "lenet5", "--network-arg", "num_class=10")
    assert "network lenet5(num_class=10)" in told
    (variant,) = cli("show", "lenet@1.0.0", "--json").document["manifest"]["variants"]
    assert variant["format"] == "mindspore-ckpt"
    assert variant["network"] == {"name": "lenet5", "arguments": {"num_class": 10}}
    assert [(t["name"], t["datatype"], t["shape"]) for t in variant["inputs"]] == [("x", "FP32", [-1, 1, 32, 32])]
    assert [(t["name"], t["datatype"], t["shape"]) for t in variant["outputs"]] == [("y", "FP32", [-1, 10])]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"fc1.bias": None}, "missing: fc1.bias"),
        ({"fc4.bias": (3,)}, "not of this network: fc4.bias"),
        ({"fc3.bias": (12,)}, "of another shape: fc3.bias is [12], not [10]"),
    ],
)
def test_a_checkpoint_of_another_network_is_refused(
    cli: Cli, change: dict[str, tuple[int, ...] | None], said: str
) -> None:
    shapes = {name: shape for name, shape in {**LENET, **change}.items() if shape is not None}
    (cli.folder / "lenet.safetensors").write_bytes(checkpoints.safetensors(shapes))
    assert said in publish(cli, "--network", "lenet5", code=1, model="broken")
    cli("show", "broken", code=3)


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["--network", "lenet"], 2, "the catalogue has alexnet, lenet5"),
        (["--network", "lenet5", "--network-arg", "classes=3"], 2, "it has num_class, num_channel"),
        (["--network", "lenet5", "--network-arg", "num_class"], 2, "NAME=VALUE"),
        (["--network-arg", "num_class=10"], 2, "--network-arg without --network"),
        (["--network", "lenet5", "--input", "x:FP32:-1,1,28,28"], 1, "takes FP32 [-1, 1, 32, 32]"),
        (["--network", "lenet5", "--input", "x:FP32"], 2, "NAME:TYPE:DIMS"),
        ([], 2, "a checkpoint holds weights only"),
    ],
)
def test_a_network_that_cannot_be_is_refused(cli: Cli, options: list[str], code: int, said: str) -> None:
    assert said in publish(cli, *options, code=code)


def test_an_onnx_file_brings_its_own_network(cli: Cli) -> None:
    (cli.folder / "m.onnx").write_bytes(onnx_models.linear())
    refused = cli("publish", "m", "m.onnx", "--version", "1", "--target", "cpu", "--network", "lenet5", code=2)
    assert "A network is for checkpoints" in refused.err


def test_a_checkpoint_takes_the_names_of_its_sibling(cli: Cli) -> None:
    (cli.folder / "m.onnx").write_bytes(onnx_models.one_op("Identity", ["N", 1, 32, 32]))
    (cli.folder / "m.toml").write_text('model = "m"\nversion = "1"\n' + ONNX_SIBLING + CHECKPOINT)
    refused = cli("publish", "m.toml", "--golden-random", "0", code=2)
    assert "disagree in inputs or outputs" in refused.err  # Identity gives pictures, LeNet classes
    given = '[[variant.inputs]]\nname = "picture"\ndatatype = "FP32"\nshape = [-1, 1, 32, 32]\n'
    outputs = '[[variant.outputs]]\nname = "digit"\ndatatype = "FP32"\nshape = [-1, 10]\n'
    (cli.folder / "m.toml").write_text('model = "m"\nversion = "1"\n' + CHECKPOINT + given + outputs)
    cli("publish", "m.toml")
    (variant,) = cli("show", "m@1", "--json").document["manifest"]["variants"]
    assert (variant["inputs"][0]["name"], variant["outputs"][0]["name"]) == ("picture", "digit")
