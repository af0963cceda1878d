"""THE table of networks that checkpoints can be filled into. Adding one is a row here and a function beside it.

Names, arguments and names of parameters are those of MindSpore's model repository (gitee.com/mindspore/models); their
shapes, for publishing without MindSpore, are in registry/contracts/catalogue/networks.py. A test compares both.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

_HERE = "registry.mindspore_networks."
NETWORKS = {
    "alexnet": "alexnet:AlexNet",
    "lenet5": "lenet:LeNet5",
    "mobilenet_v2": "mobilenet:MobileNetV2",
    "resnet18": "resnet:resnet18",
    "resnet34": "resnet:resnet34",
    "resnet50": "resnet:resnet50",
    "vgg11": "vgg:vgg11",
    "vgg16": "vgg:vgg16",
}
"""`module:function`, imported in the worker only; each module imports MindSpore."""


def build(name: str, arguments: Mapping[str, Any]) -> Any:
    """The network, a Cell whose `takes` is the shape of its input (FP32). Raises ValueError, saying why not."""
    place = NETWORKS.get(name)
    if place is None:
        raise ValueError(f"no network is called {name!r} here; the catalogue has {', '.join(sorted(NETWORKS))}")
    module, _, attribute = place.partition(":")
    try:
        return getattr(import_module(_HERE + module), attribute)(**arguments)
    except (TypeError, ValueError) as error:  # an argument that it does not have, or cannot use
        raise ValueError(f"the network {name} cannot be built: {error}") from None
