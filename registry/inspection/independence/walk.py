"""Follows the items through a graph, node by node, by the table of rules; `examine` says what that proves."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Mapping, Sequence
from typing import Any

from registry.contracts.catalogue.batching import Batching
from registry.inspection.independence import (  # noqa: F401 - each fills the table
    control,
    elementwise,
    forms,
    matrices,
    pictures,
    pieces,
    reductions,
    trees,
)
from registry.inspection.independence.nodes import (
    ML,
    NEWEST_ML_OPSET,
    NEWEST_OPSET,
    RULES,
    N,
    Node,
    NotIndependentError,
    OperatorRule,
    Size,
    Value,
    certain,
    constant,
    refuse,
    refuse_if,
    value_of,
)

MAX_NODES = 200_000
"""Visits of one model, a body of a loop counted twice: some seconds."""
MAX_DEPTH = 20
MAX_WHY = 512

Scope = ChainMap[str, "Value | NotIndependentError"]
_READ = frozenset({1, 2, 3, 4, 5, 6, 7, 8, 11})
"""AttributeProto.AttributeType: numbers, texts and lists of them, a tensor, a sparse one, a graph."""
_NEWEST: Mapping[str, int] = {"": NEWEST_OPSET, ML: NEWEST_ML_OPSET}


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


class Walk:
    """One model."""

    def __init__(self, opsets: Mapping[str, int]) -> None:
        self._opsets = opsets
        self.nodes = 0

    def follow(self, graph: Any, scope: Scope, depth: int = 0) -> None:
        """Puts what is known of every tensor of `graph` into the first map of `scope`.

        Raises:
            NotIndependentError: it is nested or long beyond the limits, or two of its tensors have one name.
        """
        refuse_if(depth > MAX_DEPTH, f"graphs are nested more than {MAX_DEPTH} deep")

        def put(name: str, value: Value | NotIndependentError) -> None:
            if name in scope:
                raise refuse(f"the name {name[:128]!r} stands for two tensors")
            scope[name] = value

        for tensor in graph.initializer:
            put(tensor.name, value_of(tensor))
        for sparse in graph.sparse_initializer:
            put(sparse.values.name, constant(tuple(Size(int(dim)) for dim in sparse.dims)))
        for node in graph.node:
            self.nodes += 1
            if self.nodes > MAX_NODES:
                raise refuse(f"it has more than {MAX_NODES} nodes")
            for name, value in zip(node.output, self._outputs(node, scope, depth), strict=False):
                if name:
                    put(name, value)

    def _outputs(self, node: Any, scope: Scope, depth: int) -> Sequence[Value | NotIndependentError]:
        count = len(node.output)
        inputs: list[Value | None] = []
        for name in node.input:
            value = scope.get(name) if name else None
            if isinstance(value, NotIndependentError):
                return [value] * count
            if name and value is None:
                return [_said(node, "it takes a tensor that is not there")] * count
            inputs.append(value)
        try:
            return self._followed(node, inputs, scope, depth)
        except NotIndependentError as error:
            return [_said(node, str(error))] * count
        except Exception as error:  # noqa: BLE001 - a node that breaks its own definition is not followed
            return [_said(node, f"it cannot be read ({type(error).__name__})")] * count

    def _followed(self, node: Any, inputs: list[Value | None], scope: Scope, depth: int) -> list[Value]:
        domain = "" if node.domain == "ai.onnx" else node.domain
        entry = RULES.get((domain, node.op_type))
        opset = self._opsets.get(domain, 0)
        if entry is None:
            raise refuse("this operator is not one whose items are known to be independent")
        if not entry.first <= opset <= _NEWEST[domain]:
            raise refuse(f"its meaning in opset {opset} is not known")
        count = max((at + 1 for at, name in enumerate(node.output) if name), default=0)

        def inner(graph: Any, given: Sequence[Value]) -> list[Value]:
            return self._subgraph(graph, given, scope, depth + 1)

        used = [bool(name) for name in node.output]
        made = Node(node.op_type, opset, inputs, attributes_of(node), count, used, inner)
        outputs = _applied(entry, made)
        refuse_if(len(outputs) < count, "it has more outputs than are known")
        for value in outputs:
            _check(value)
        return outputs

    def _subgraph(self, graph: Any, given: Sequence[Value], scope: Scope, depth: int) -> list[Value]:
        inside: Scope = scope.new_child()
        refuse_if(len(graph.input) != len(given), "a graph inside it does not fit")
        for declared, value in zip(graph.input, given, strict=True):
            inside[declared.name] = value
        self.follow(graph, inside, depth)
        found = []
        for output in graph.output:
            made = inside.get(output.name)
            if isinstance(made, NotIndependentError):
                raise made
            found.append(certain(made, "a graph inside it does not fit"))
        return found


def _applied(entry: OperatorRule, node: Node) -> list[Value]:
    given = [value for value in node.inputs if value is not None]
    refuse_if(not entry.shapes and any(value.holds_batch for value in given), "the number of items is used as data")
    try:
        made = entry.rule(node)
    except NotIndependentError:
        # What no item has a part in is the same alone and together, if the operator is a function.
        if node.op in control.NO_FUNCTIONS or any(value.is_item or value.holds_batch for value in given):
            raise
        return [constant()] * node.outputs
    if any(value.holds_batch for value in given):
        # What is made of the number of items is items, or its elements are followed.
        lost = any(value.axis is None and value.elements is None for value in made)
        refuse_if(lost, "the number of items is used as data")
    return made


def _check(value: Value) -> None:
    """The invariants of Value, whatever a rule says. Raises NotIndependentError."""
    for at, size in enumerate(value.shape or ()):
        if size.holds_batch if at != value.axis else not size.is_batch_once:
            raise refuse("it puts the number of items into a shape in a way that cannot be followed")
    if value.axis is not None and (value.shape is None or value.axis >= len(value.shape) or value.elements is not None):
        raise refuse("the axis of the items is lost")


def _said(node: Any, why: str) -> NotIndependentError:
    name = next((text for text in (node.name, *node.output) if text), "")
    if why.startswith("node "):  # Said of a node inside.
        return NotIndependentError(why)
    return NotIndependentError(f"node {name[:128]!r} ({node.op_type[:64]}): {why}")


def attributes_of(node: Any) -> dict[str, Any]:
    """As Python values. Raises NotIndependentError: an attribute of a function that was not put in place."""
    if not node.attribute:
        return {}
    from onnx import helper  # noqa: PLC0415 - absent where nothing is published

    found: dict[str, Any] = {}
    for attribute in node.attribute:
        refuse_if(attribute.ref_attr_name, "an attribute comes from a function that was not put in place")
        if attribute.type not in _READ:
            raise refuse(f"its attribute {attribute.name[:64]!r} is of a kind that is not known")
        found[attribute.name] = _decoded(helper.get_attribute_value(attribute))
    return found


def _decoded(value: Any) -> Any:
    """Texts are bytes in the file."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return [_decoded(item) for item in value] if isinstance(value, list) else value
