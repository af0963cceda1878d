"""MindSpore checkpoints: weights, filled into a network of this project's own catalogue. No code of a model runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from agent.backends.base import BackendError, LoadOptions, TensorInfo
from registry.mindspore_networks import parameters, table

USUAL_SIDE = 224
"""Height and width of the trial where the network takes any and the manifest declares none."""


def load(mindspore: Any, path: str, options: LoadOptions) -> tuple[Any, tuple[TensorInfo, ...], tuple[TensorInfo, ...]]:
    """The filled network in graph mode, what goes in and what comes out.

    Raises BackendError: checkpoint_mismatch when the parameters are not the network's, else load_failed.
    """
    if options.network is None:
        message = "a checkpoint holds weights only, and the manifest names no network: publish it with --network"
        raise BackendError("load_failed", message)
    name, arguments = options.network
    mindspore.set_context(mode=mindspore.GRAPH_MODE)
    network = build(name, arguments)
    fill(mindspore, network, path, name)
    network.set_train(False)
    takes = declared(tuple(network.takes), options.input_shapes)
    shape = [None if dim == -1 else dim for dim in takes]
    network.set_inputs(mindspore.Tensor(shape=shape, dtype=mindspore.float32))
    return network, _input(takes, options.input_names), _outputs(mindspore, network, takes, options.output_names)


def build(name: str, arguments: Mapping[str, Any]) -> Any:
    """As `table.build`. Raises BackendError(load_failed)."""
    try:
        return table.build(name, arguments)
    except ValueError as error:
        raise BackendError("load_failed", str(error)) from None


def fill(mindspore: Any, network: Any, path: str, name: str) -> None:
    """Every parameter from the file. Raises BackendError."""
    try:
        wrong = parameters.fill(mindspore, network, path)
    except ValueError as error:
        raise BackendError("load_failed", f"MindSpore cannot read the checkpoint: {error}") from None
    if wrong:
        message = (
            f"the checkpoint is not one of the network {name}: {'; '.join(wrong)}. Publish it with the network and "
            "the arguments that it was trained with (--network, --network-arg)"
        )
        raise BackendError("checkpoint_mismatch", message)


def declared(takes: tuple[int, ...], shapes: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """The manifest's shape of the input, where the network takes such; else the network's, which the agent refuses."""
    if len(shapes) != 1 or len(shapes[0]) != len(takes):
        return takes
    return shapes[0] if all(own in (-1, said) for own, said in zip(takes, shapes[0])) else takes


def _input(takes: tuple[int, ...], names: Sequence[str]) -> tuple[TensorInfo, ...]:
    return (TensorInfo(names[0] if len(names) == 1 else "x", "FP32", takes),)


def _outputs(mindspore: Any, network: Any, takes: tuple[int, ...], names: Sequence[str]) -> tuple[TensorInfo, ...]:
    """From a run on zeros: a network does not declare what it gives."""
    usual = (1, 1, USUAL_SIDE, USUAL_SIDE)
    zeros = np.zeros([usual[axis] if dim == -1 else dim for axis, dim in enumerate(takes)], np.float32)
    try:
        result = network(mindspore.Tensor(zeros)).asnumpy()
    except Exception as error:  # noqa: BLE001 - as above
        raise BackendError("load_failed", f"the network fails on zeros: {' '.join(str(error).split())[:300]}") from None
    shape = (takes[0], *result.shape[1:])
    return (TensorInfo(names[0] if len(names) == 1 else "y", "FP32", shape),)
