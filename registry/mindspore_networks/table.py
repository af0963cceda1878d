"""THE table of networks that checkpoints can be filled into. Adding one is a row here and a function beside it.

Names, arguments and names of parameters are those of MindSpore's model repository (gitee.com/mindspore/models); their
shapes, for publishing without MindSpore, are in registry/contracts/catalogue/networks.py. A test compares both.

MindSpore reports what a checkpoint lacks only in a return value and leaves random weights in its place, so names and
shapes are compared before a network is filled. Left out is what a training saved beside the network: an optimizer's
state.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

MAX_LISTED = 5
TRAINING_STATE = frozenset(
    {
        *("global_step", "learning_rate", "momentum", "weight_decay", "beta1_power", "beta2_power"),
        *("epoch_num", "step_num", "batch_num", "loss_scale", "scale_sense", "current_iterator_step"),
    }
)
"""Single parameters that MindSpore's optimizers and training loops save beside the network's; they are left out."""
TRAINING_PREFIXES = (
    *("moments.", "moment1.", "moment2.", "moment.", "accum.", "stat.", "vhat.", "linear.", "mean_grad."),
    *("mean_square.", "rms.", "adam_m.", "adam_v.", "lamb_m.", "lamb_v."),
)
"""An optimizer's state for one parameter has that parameter's name behind one of these; it is left out."""


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


def mismatches(wanted: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]]) -> tuple[str, ...]:
    """What keeps a checkpoint's parameters from filling a network, one line a kind; empty: they fit.

    Args:
        wanted: Shapes of the network's parameters, by name.
        found: Shapes of the checkpoint's.
    """
    kinds = {
        "missing": [name for name in wanted if name not in found],
        "not of this network": [name for name in found if name not in wanted and not _is_training_state(name, wanted)],
        "of another shape": [
            f"{name} is {list(found[name])}, not {list(shape)}"
            for name, shape in wanted.items()
            if name in found and found[name] != shape
        ],
    }
    return tuple(f"{kind}: {_listed(names)}" for kind, names in kinds.items() if names)


def fill(mindspore: Any, network: Any, path: str) -> tuple[str, ...]:
    """Fill a network with the parameters of a checkpoint file.

    Args:
        mindspore: The imported package.
        network: A mindspore.nn.Cell.
        path: A `.ckpt` or `.safetensors` file.

    Returns:
        As `mismatches`: where it is not empty nothing was filled.

    Raises:
        ValueError: MindSpore cannot read the file; the message is MindSpore's.
    """
    kind = "safetensors" if path.endswith(".safetensors") else "ckpt"
    try:
        found = mindspore.load_checkpoint(path, format=kind)
    except Exception as error:  # MindSpore raises whatever its C++ threw
        raise ValueError(" ".join(str(error).split())) from error
    wanted = {parameter.name: parameter for parameter in network.get_parameters()}
    shapes = {key: tuple(parameter.shape) for key, parameter in wanted.items()}
    wrong = mismatches(shapes, {key: tuple(value.shape) for key, value in found.items()})
    if not wrong:
        for key, parameter in wanted.items():
            parameter.set_data(mindspore.Tensor(found[key].asnumpy(), parameter.dtype))
    return wrong


def _is_training_state(name: str, wanted: Mapping[str, tuple[int, ...]]) -> bool:
    return name in TRAINING_STATE or any(
        name.startswith(prefix) and name[len(prefix) :] in wanted for prefix in TRAINING_PREFIXES
    )


def _listed(names: list[str]) -> str:
    """The first few, and how many more there are."""
    more = f" and {len(names) - MAX_LISTED} more" if len(names) > MAX_LISTED else ""
    return ", ".join(name[:128] for name in names[:MAX_LISTED]) + more


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
