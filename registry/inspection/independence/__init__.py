"""Are the items of a run independent of each other? Proven from an ONNX graph, or not; never guessed.

The axis of the items is followed from every input through every operator, subgraphs included, by the operator's own
definition, over an allow-list (`RULES`; docs/batching.md lists it). What is not on the list, in a newer opset, of
another domain, or cannot be followed is not proven, and the node that was in the way is named.

Pure: reads a parsed `onnx.ModelProto`, runs nothing. What is claimed, for every number of items N: each output has the
items along its first axis, and row i is what a run of item i alone gives, up to the rounding of kernels. Tests compare
every proven model with ONNX Runtime, alone and together, models made at random among them.
"""

from __future__ import annotations

from collections import ChainMap
from typing import Any

from registry.contracts.catalogue.batching import Batching
from registry.inspection.independence.nodes import ML, N, NotIndependentError, Size, Value, refuse, refuse_if
from registry.inspection.independence.walk import Scope, Walk

MAX_WHY = 512

__all__ = ["examine"]


def examine(model: Any) -> Batching:
    """What the graph of an `onnx.ModelProto` says of joining requests."""
    try:
        nodes = _proven(model)
    except NotIndependentError as error:
        return Batching(independent=False, why=str(error)[:MAX_WHY])
    return Batching(independent=True, why=f"the items stay apart in all {nodes} nodes")


def _proven(model: Any) -> int:
    """How many nodes were followed. Raises NotIndependentError."""
    if model.functions:
        model = _inlined(model)
    imports = [("" if each.domain == "ai.onnx" else each.domain, each.version) for each in model.opset_import]
    opsets = dict(imports)
    refuse_if(len(opsets) != len(imports), "it imports two opsets of a domain")
    graph, walk = model.graph, Walk(opsets)
    constants = {tensor.name for tensor in graph.initializer} | {each.values.name for each in graph.sparse_initializer}
    scope: Scope = ChainMap({})
    inputs = [value for value in graph.input if value.name not in constants]
    refuse_if(not inputs, "it has no inputs")
    for value in inputs:
        refuse_if(value.name in scope, f"two inputs are called {value.name[:128]!r}")
        scope[value.name] = _input(value)
    walk.follow(graph, scope)
    for output in graph.output:
        _require_rows(output.name, scope.get(output.name))
    return walk.nodes


def _input(value: Any) -> Value:
    tensor = value.type.tensor_type
    refuse_if(
        value.type.WhichOneof("value") != "tensor_type" or not tensor.HasField("shape"),
        f"input {value.name[:128]!r} has no known shape",
    )
    dims = [
        dim.dim_value if dim.WhichOneof("value") == "dim_value" and dim.dim_value >= 0 else None
        for dim in tensor.shape.dim
    ]
    refuse_if(
        not dims or dims[0] is not None,
        f"input {value.name[:128]!r} has no free first dimension: there is nothing to join",
    )
    rest = (Size(dim) if dim is not None else Size(1, (f"{value.name}.{at}",)) for at, dim in enumerate(dims) if at)
    return Value((N, *rest), 0)


def _require_rows(name: str, found: Value | NotIndependentError | None) -> None:
    """Raises NotIndependentError: the output has not one row for each item."""
    if isinstance(found, NotIndependentError):
        raise found
    what = f"output {name[:128]!r}"
    if found is None:
        raise refuse(f"{what} is made by no node")
    refuse_if(found.axis is None, f"{what} does not depend on the items")
    refuse_if(found.axis != 0 or found.sizes[0] != N, f"{what} has not one row for each item along its first axis")


def _inlined(model: Any) -> Any:
    """The model's own functions in the place of their calls. Raises NotIndependentError."""
    try:
        from onnx import inliner  # noqa: PLC0415 - absent where nothing is published

        model = inliner.inline_local_functions(model)
    except Exception as error:  # noqa: BLE001 - whatever is wrong with them, they are not followed
        raise refuse(f"its functions cannot be put in place ({type(error).__name__})") from None
    refuse_if(
        any(function.domain in ("", "ai.onnx", ML) for function in model.functions),
        "a function of its own has the name of an operator",
    )
    return model
