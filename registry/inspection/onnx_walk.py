"""Everything in an ONNX model that matters outside it: operators it needs, tensors that lie in other files.

Walks the graph, its subgraphs, functions and training graphs without recursion, with a limit on depth
and on the number of nodes, so that a hostile file ends in a refusal.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from registry.inspection.external_data import ExternalTensor
from registry.inspection.facts import InspectionError

MAX_DEPTH = 20
"""Graphs inside graphs: exporters nest a handful, protobuf's own parser stops at about 30."""
MAX_NODES = 5_000_000
_EXTERNAL = 1
"""TensorProto.DataLocation.EXTERNAL"""


@dataclass
class Survey:
    """What the walk found."""

    operators: set[tuple[str, str]] = field(default_factory=set)
    """(domain, operator) of every node."""
    external: list[ExternalTensor] = field(default_factory=list)


def survey(model: Any) -> Survey:
    """Walk an `onnx.ModelProto`.

    Raises:
        InspectionError: nested or long beyond the limits, or an external tensor that says nonsense.
    """
    found = Survey()
    waiting: list[tuple[int, Any]] = [(0, model.graph)]
    waiting.extend((0, function) for function in model.functions)
    for training in model.training_info:
        waiting.extend(((0, training.initialization), (0, training.algorithm)))
    nodes = 0
    while waiting:
        depth, graph = waiting.pop()
        if depth > MAX_DEPTH:
            raise InspectionError(f"the model nests graphs more than {MAX_DEPTH} deep")
        nodes += len(graph.node)
        if nodes > MAX_NODES:
            raise InspectionError(f"the model has more than {MAX_NODES} nodes")
        found.external.extend(_external(_graph_tensors(graph)))
        for node in graph.node:
            found.operators.add((_domain(node.domain), node.op_type))
            for attribute in node.attribute:
                found.external.extend(_external(_attribute_tensors(attribute)))
                waiting.extend((depth + 1, inner) for inner in _subgraphs(attribute))
    return found


def custom_functions(model: Any) -> set[tuple[str, str]]:
    """(domain, operator) that the model brings itself as functions: no runtime has to know them."""
    return {(_domain(function.domain), function.name) for function in model.functions}


def _domain(name: str) -> str:
    return "" if name == "ai.onnx" else name


def _graph_tensors(graph: Any) -> Iterator[Any]:
    if graph.DESCRIPTOR.name != "GraphProto":
        return
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield sparse.values
        yield sparse.indices


def _attribute_tensors(attribute: Any) -> Iterator[Any]:
    if attribute.HasField("t"):
        yield attribute.t
    yield from attribute.tensors
    if attribute.HasField("sparse_tensor"):
        yield attribute.sparse_tensor.values
        yield attribute.sparse_tensor.indices
    for sparse in attribute.sparse_tensors:
        yield sparse.values
        yield sparse.indices


def _subgraphs(attribute: Any) -> Iterator[Any]:
    if attribute.HasField("g"):
        yield attribute.g
    yield from attribute.graphs


def _external(tensors: Iterable[Any]) -> Iterator[ExternalTensor]:
    for tensor in tensors:
        if tensor.data_location != _EXTERNAL and not tensor.external_data:
            continue
        entries = {entry.key: entry.value for entry in tensor.external_data}
        if "location" not in entries:
            raise InspectionError(f"tensor {tensor.name!r} lies outside the file, but the file does not say where")
        yield ExternalTensor(
            tensor=tensor.name[:256],
            location=entries["location"],
            offset=_number(tensor.name, entries.get("offset", "0")),
            length=_number(tensor.name, entries["length"]) if "length" in entries else None,
        )


def _number(tensor: str, text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise InspectionError(f"tensor {tensor!r}: external offset or length {text[:40]!r} is not a number")
    return int(text)
