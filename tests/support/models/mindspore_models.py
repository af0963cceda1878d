"""MindIR files for tests, written by MindSpore itself. Run by MindSpore's interpreter, never imported by ours:

PYTHON -I mindspore_models.py lenet WEIGHTS.npz OUT.mindir       LeNet-5 with these weights, any batch
PYTHON -I mindspore_models.py spoil IN.mindir FOLDER             hostile copies of a MindIR, one for each way
PYTHON -I mindspore_models.py checkpoints CATALOGUE FOLDER       LeNet-5 of that catalogue: good and bad checkpoints
PYTHON -I mindspore_models.py catalogue CATALOGUE OUT.json       names and shapes of every network's parameters
"""

from __future__ import annotations

import importlib
import json
import sys
import types
from pathlib import Path
from types import ModuleType

import mindspore
import numpy as np
from mindspore import Tensor, nn
from mindspore.train import mind_ir_pb2

CLASS_TYPE = 32
"""AttributeProto.AttributeType: a value that names a Python class."""


class LeNet(nn.Cell):  # type: ignore[misc]  # MindSpore is not where types are checked
    """The network of scripts/models/lenet/lenet.onnx; its names of weights."""

    def __init__(self, weights: dict[str, np.ndarray]) -> None:
        super().__init__()
        parts = {name: Tensor(array) for name, array in weights.items()}
        dense = {name: Tensor(np.ascontiguousarray(weights[name].T)) for name in ("f1", "f2", "f3")}
        given = {"pad_mode": "pad", "has_bias": True}
        self.conv1 = nn.Conv2d(1, 6, 5, padding=2, weight_init=parts["w1"], bias_init=parts["b1"], **given)
        self.conv2 = nn.Conv2d(6, 16, 5, padding=0, weight_init=parts["w2"], bias_init=parts["b2"], **given)
        self.dense1 = nn.Dense(400, 120, weight_init=dense["f1"], bias_init=parts["c1"])
        self.dense2 = nn.Dense(120, 84, weight_init=dense["f2"], bias_init=parts["c2"])
        self.dense3 = nn.Dense(84, 10, weight_init=dense["f3"], bias_init=parts["c3"])
        self.relu, self.pool, self.flatten = nn.ReLU(), nn.MaxPool2d(2, 2), nn.Flatten()

    def construct(self, x: Tensor) -> Tensor:
        """[N, 1, 28, 28] to [N, 10]."""
        x = self.pool(self.relu(self.conv1(x)))
        x = self.flatten(self.pool(self.relu(self.conv2(x))))
        return self.dense3(self.relu(self.dense2(self.relu(self.dense1(x)))))


def write_lenet(weights: Path, out: Path) -> None:
    """Exports with a dynamic batch; MindSpore leaves files of mode 0400, which are made readable."""
    with np.load(weights) as archive:
        network = LeNet(dict(archive)).set_train(False)
    example = Tensor(shape=(None, 1, 28, 28), dtype=mindspore.float32)
    mindspore.export(network, example, file_name=str(out), file_format="MINDIR")
    out.chmod(0o644)


def spoil(source: Path, folder: Path) -> None:
    """One file for each way in which a MindIR could run code, reach outside, or be something else."""

    def changed() -> mind_ir_pb2.ModelProto:
        model = mind_ir_pb2.ModelProto()
        model.ParseFromString(source.read_bytes())
        return model

    custom, python, inner, outside, hidden, disguised, empty = (changed() for _ in range(7))
    custom.primitives[0].op_type = "Custom"
    value = python.graph.node[0].attribute.add()
    value.name, value.type = "f", CLASS_TYPE
    inner.graph.node[0].attribute.add().g.node.add().op_type = "PyExecute"
    outside.graph.parameter[0].external_data.location = "../secret.bin"
    value = hidden.graph.node[0].attribute.add().values.add()
    value.g.parameter.add().external_data.location = "/etc/passwd"
    # A function that has the name of the operator does not hide it.
    disguised.functions.add().name = "Custom"
    disguised.graph.node[0].op_type = "Custom"
    del empty.graph.output[:]
    spoilt = {"custom": custom, "python": python, "inner": inner, "disguised": disguised}
    spoilt.update({"outside": outside, "hidden": hidden, "empty": empty})
    for name, model in spoilt.items():
        (folder / f"{name}.mindir").write_bytes(model.SerializeToString())


def networks(catalogue: Path) -> ModuleType:
    """The catalogue, imported as a worker does: this one package, not what lies beside it."""
    package = types.ModuleType("registry")
    package.__path__ = [str(catalogue.parent)]
    sys.modules["registry"] = package
    return importlib.import_module("registry.mindspore_networks.table")


def write_checkpoints(catalogue: Path, folder: Path) -> None:
    """One network, `good` in both forms, what it answers to `inputs`, and copies that do not fit it."""
    mindspore.set_seed(1)
    network = networks(catalogue).build("lenet5", {"num_class": 10, "num_channel": 1}).set_train(False)
    inputs = np.random.default_rng(0).random((5, 1, 32, 32), dtype=np.float32)
    np.savez(folder / "golden.npz", inputs=inputs, outputs=network(Tensor(inputs)).asnumpy())
    parts = [{"name": item.name, "data": Tensor(item.asnumpy())} for item in network.get_parameters()]
    state = [{"name": "moment1.fc1.bias", "data": Tensor(np.zeros(120, np.float32))}]
    half = [{"name": part["name"], "data": part["data"].astype(mindspore.float16)} for part in parts]
    shapes = [*parts[:-1], {"name": "fc3.bias", "data": Tensor(np.zeros(12, np.float32))}]
    extra = [*parts, {"name": "fc9.bias", "data": Tensor(np.zeros(1, np.float32))}]
    kinds = {"good": parts, "trained": parts + state, "half": half}
    kinds |= {"missing": parts[:-1], "shapes": shapes, "extra": extra}
    for name, content in kinds.items():
        mindspore.save_checkpoint(content, str(folder / f"{name}.ckpt"))
    mindspore.save_checkpoint(parts, str(folder / "good.safetensors"), format="safetensors")
    for file in folder.iterdir():
        file.chmod(0o644)
    (folder / "cut.ckpt").write_bytes((folder / "good.ckpt").read_bytes()[:100_000])


def write_catalogue(catalogue: Path, out: Path) -> None:
    """Every network with its default arguments, as MindSpore builds it."""
    table = networks(catalogue)
    found = {}
    for name in table.NETWORKS:
        network = table.build(name, {})
        shapes = {item.name: list(item.shape) for item in network.get_parameters()}
        found[name] = {"takes": network.takes, "parameters": shapes}
    out.write_text(json.dumps(found))


if __name__ == "__main__":
    orders = {"checkpoints": write_checkpoints, "catalogue": write_catalogue}
    {**orders, "lenet": write_lenet, "spoil": spoil}[sys.argv[1]](Path(sys.argv[2]), Path(sys.argv[3]))
