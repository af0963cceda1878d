"""The catalogue of network architectures: which parameters a checkpoint must hold, and what goes in and out. Pure.

A checkpoint has no architecture inside. The agent builds the network of the manifest's name and arguments from its own
catalogue (registry/mindspore_networks); here are the same networks as names and shapes of parameters, so that
publishing needs no MindSpore. Names are those of MindSpore's model repository (gitee.com/mindspore/models); a test
with MindSpore holds both sides against each other. To add one: its file there, its line in the agent's table, its
shapes here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from registry.contracts.catalogue.manifest import Network, TensorSpec
from registry.contracts.tensors import Datatype

Shape = tuple[int, ...]
Shapes = dict[str, Shape]
Value = int | float | bool | str
Values = Mapping[str, Value]

INPUT, OUTPUT = "x", "y"
"""A checkpoint names no tensors; the publisher, or a sibling variant, may."""


class NetworkError(ValueError):
    """No network has that name, or it does not take those arguments; the message says what there is."""


class Argument(NamedTuple):
    """One keyword argument of a network."""

    default: Value
    """Its type is the argument's."""
    low: float = 1
    """The least value of a number."""
    high: float = 1_000_000
    """The greatest value of a number."""


class Architecture(NamedTuple):
    """One network of the catalogue."""

    arguments: Mapping[str, Argument]
    """By name."""
    shapes: Callable[[Values], Shapes]
    """The parameters' shapes for given arguments."""
    takes: Callable[[Values], Shape]
    """The input's shape; -1 where the network takes any size."""
    usual: Shape
    """Height and width that are declared where nobody says others."""
    classes: str
    """The argument that is the number of outputs."""


def networks() -> tuple[str, ...]:
    """The names, sorted."""
    return tuple(sorted(_CATALOGUE))


def arguments(network: Network) -> dict[str, Value]:
    """Every argument with its value. Raises NetworkError for an unknown network, argument, type or size."""
    known = _architecture(network.name).arguments
    for name, value in network.arguments.items():
        argument = known.get(name)
        if argument is None:
            raise NetworkError(f"the network {network.name} has no argument {name!r}; it has {', '.join(known)}")
        if type(value) is not type(argument.default) and not (type(argument.default) is float and type(value) is int):
            kind = type(argument.default).__name__
            raise NetworkError(f"{name} of {network.name} is of type {kind}, not {value!r}")
        if not isinstance(value, (bool, str)) and not argument.low <= value <= argument.high:
            raise NetworkError(f"{name} of {network.name} is from {argument.low:g} to {argument.high:g}, not {value}")
    return {name: argument.default for name, argument in known.items()} | dict(network.arguments)


def parameters(network: Network) -> Shapes:
    """Every parameter that a checkpoint of this network holds, with its shape. Raises NetworkError."""
    return _architecture(network.name).shapes(arguments(network))


def takes(network: Network) -> Shape:
    """The shape of its input, FP32; -1 where it takes any size. Raises NetworkError."""
    return _architecture(network.name).takes(arguments(network))


def signature(network: Network) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Inputs and outputs where nobody declares others. Raises NetworkError."""
    architecture, values = _architecture(network.name), arguments(network)
    batch, channels, *_ = architecture.takes(values)
    shape = (batch, channels, *(_picture(values) or architecture.usual))
    classes = int(values[architecture.classes])
    return (
        (TensorSpec(name=INPUT, datatype=Datatype.FP32, shape=shape),),
        (TensorSpec(name=OUTPUT, datatype=Datatype.FP32, shape=(-1, classes)),),
    )


def _architecture(name: str) -> Architecture:
    found = _CATALOGUE.get(name)
    if found is None:
        raise NetworkError(f"no network is called {name!r}; the catalogue has {', '.join(networks())}")
    return found


def _picture(values: Values) -> Shape:
    """Height and width of networks that are built for one size."""
    side = int(values.get("image_size", 0))
    return (side, side) if side else ()


def _conv(name: str, outputs: int, inputs: int, kernel: int, *, bias: bool = False) -> Shapes:
    weight: Shapes = {f"{name}.weight": (outputs, inputs, kernel, kernel)}
    return weight | ({f"{name}.bias": (outputs,)} if bias else {})


def _norm(name: str, channels: int) -> Shapes:
    return {f"{name}.{part}": (channels,) for part in ("moving_mean", "moving_variance", "gamma", "beta")}


def _dense(name: str, outputs: int, inputs: int) -> Shapes:
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def _lenet5(values: Values) -> Shapes:
    classes, channels = int(values["num_class"]), int(values["num_channel"])
    return {
        **_conv("conv1", 6, channels, 5),
        **_conv("conv2", 16, 6, 5),
        **_dense("fc1", 120, 400),
        **_dense("fc2", 84, 120),
        **_dense("fc3", classes, 84),
    }


def _alexnet(values: Values) -> Shapes:
    sizes = ((64, int(values["channel"]), 11), (128, 64, 5), (192, 128, 3), (256, 192, 3), (256, 256, 3))
    shapes: Shapes = {}
    for number, (outputs, inputs, kernel) in enumerate(sizes, start=1):
        shapes |= _conv(f"conv{number}", outputs, inputs, kernel, bias=True)
    classes = int(values["num_classes"])
    return shapes | _dense("fc1", 4096, 9216) | _dense("fc2", 4096, 4096) | _dense("fc3", classes, 4096)


def _resnet(depths: Shape, expansion: int) -> Callable[[Values], Shapes]:
    def shapes(values: Values) -> Shapes:
        found = _conv("conv1", 64, 3, 7) | _norm("bn1", 64)
        inputs = 64
        for layer, depth in enumerate(depths, start=1):
            outputs = 64 * 2 ** (layer - 1) * expansion
            for block in range(depth):
                stride = 2 if layer > 1 and block == 0 else 1
                name = f"layer{layer}.{block}"
                found |= (_bottleneck if expansion == 4 else _basic)(name, inputs, outputs)
                if stride != 1 or inputs != outputs:
                    found |= _conv(f"{name}.down_sample_layer.0", outputs, inputs, 1)
                    found |= _norm(f"{name}.down_sample_layer.1", outputs)
                inputs = outputs
        return found | _dense("end_point", int(values["class_num"]), inputs)

    return shapes


def _basic(name: str, inputs: int, outputs: int) -> Shapes:
    first = _conv(f"{name}.conv1", outputs, inputs, 3) | _norm(f"{name}.bn1d", outputs)
    return first | _conv(f"{name}.conv2", outputs, outputs, 3) | _norm(f"{name}.bn2d", outputs)


def _bottleneck(name: str, inputs: int, outputs: int) -> Shapes:
    channels = outputs // 4
    first = _conv(f"{name}.conv1", channels, inputs, 1) | _norm(f"{name}.bn1", channels)
    second = _conv(f"{name}.conv2", channels, channels, 3) | _norm(f"{name}.bn2", channels)
    return first | second | _conv(f"{name}.conv3", outputs, channels, 1) | _norm(f"{name}.bn3", outputs)


def _vgg(plan: str) -> Callable[[Values], Shapes]:
    """`plan`: channels of each convolution, in units of 64; M is a pooling."""

    def shapes(values: Values) -> Shapes:
        found: Shapes = {}
        inputs, index = 3, 0
        for step in plan:
            if step == "M":
                index += 1
                continue
            outputs = 64 * int(step)
            found |= _conv(f"layers.{index}", outputs, inputs, 3, bias=bool(values["has_bias"]))
            if values["batch_norm"]:
                found |= _norm(f"layers.{index + 1}", outputs)
            index += 3 if values["batch_norm"] else 2
            inputs = outputs
        flat = 512 * (int(values["image_size"]) // 32) ** 2
        found |= _dense("classifier.0", 4096, flat) | _dense("classifier.3", 4096, 4096)
        return found | _dense("classifier.6", int(values["num_classes"]), 4096)

    return shapes


_MOBILENET_V2 = (
    *((1, 16, 1), (6, 24, 2), (6, 32, 3), (6, 64, 4)),
    *((6, 96, 3), (6, 160, 3), (6, 320, 1)),
)
"""Expansion, channels, blocks."""


def _mobilenet_v2(values: Values) -> Shapes:
    width = float(values["width_mult"])
    inputs, last = _divisible(32 * width), _divisible(1280 * max(1.0, width))
    found = _conv("features.0.features.0", inputs, 3, 3) | _norm("features.0.features.1", inputs)
    index = 1
    for expansion, channels, blocks in _MOBILENET_V2:
        for _ in range(blocks):
            outputs = _divisible(channels * width)
            found |= _inverted_residual(f"features.{index}.conv", inputs, outputs, expansion)
            inputs, index = outputs, index + 1
    found |= _conv(f"features.{index}.features.0", last, inputs, 1) | _norm(f"features.{index}.features.1", last)
    return found | _dense("dense", int(values["num_classes"]), last)


def _inverted_residual(name: str, inputs: int, outputs: int, expansion: int) -> Shapes:
    hidden, step = inputs * expansion, 0
    found: Shapes = {}
    if expansion != 1:
        found |= _conv(f"{name}.0.features.0", hidden, inputs, 1) | _norm(f"{name}.0.features.1", hidden)
        step = 1
    found |= _conv(f"{name}.{step}.features.0", hidden, 1, 3) | _norm(f"{name}.{step}.features.1", hidden)
    return found | _conv(f"{name}.{step + 1}", outputs, hidden, 1) | _norm(f"{name}.{step + 2}", outputs)


def _divisible(channels: float) -> int:
    """The nearest multiple of 8 that is not more than a tenth below."""
    near = max(8, int(channels + 4) // 8 * 8)
    return near + 8 if near < 0.9 * channels else near


def _any_size(_values: Values) -> Shape:
    return -1, 3, -1, -1


def _square(values: Values) -> Shape:
    return -1, 3, int(values["image_size"]), int(values["image_size"])


_RESNET = {"class_num": Argument(10)}
_VGG = {
    "num_classes": Argument(1000),
    "batch_norm": Argument(False),
    "has_bias": Argument(True),
    "image_size": Argument(224, 32, 1024),
}
_CATALOGUE = {
    "lenet5": Architecture(
        {"num_class": Argument(10), "num_channel": Argument(1, 1, 1024)},
        _lenet5, lambda values: (-1, int(values["num_channel"]), 32, 32), (32, 32), "num_class",
    ),
    "alexnet": Architecture(
        {"num_classes": Argument(10), "channel": Argument(3, 1, 1024)},
        _alexnet, lambda values: (-1, int(values["channel"]), 227, 227), (227, 227), "num_classes",
    ),
    "resnet18": Architecture(_RESNET, _resnet((2, 2, 2, 2), 1), _any_size, (224, 224), "class_num"),
    "resnet34": Architecture(_RESNET, _resnet((3, 4, 6, 3), 1), _any_size, (224, 224), "class_num"),
    "resnet50": Architecture(_RESNET, _resnet((3, 4, 6, 3), 4), _any_size, (224, 224), "class_num"),
    "mobilenet_v2": Architecture(
        {"num_classes": Argument(1000), "width_mult": Argument(1.0, 0.1, 4)},
        _mobilenet_v2, _any_size, (224, 224), "num_classes",
    ),
    "vgg11": Architecture(_VGG, _vgg("1M2M44M88M88M"), _square, (224, 224), "num_classes"),
    "vgg16": Architecture(_VGG, _vgg("11M22M444M888M888M"), _square, (224, 224), "num_classes"),
}  # fmt: skip
