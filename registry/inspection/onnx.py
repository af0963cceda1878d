"""What an ONNX file says of itself: IR, opsets, operators, inputs, outputs, files beside it.

Needs the `onnx` package (extra `publish`), which only parses here: no weights are loaded from other
files, no code of the model runs, nothing is inferred. Field meanings: https://onnx.ai/onnx/repo-docs/IR.html

The graph, its subgraphs, functions and training graphs are walked without recursion, with a limit on depth and on the
number of nodes, so that a hostile file ends in a refusal.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from registry.contracts.catalogue.manifest import Format, Requirements, TensorSpec
from registry.contracts.fit.resolution import BUILT_IN_DOMAINS
from registry.contracts.tensors import MAX_NAME, MAX_NAMES_BYTES, MAX_RANK, MAX_TENSORS, Datatype
from registry.inspection.external_data import ExternalTensor, companions
from registry.inspection.facts import InspectionError, ModelFacts
from registry.inspection.independence.walk import examine
from registry.inspection.ultralytics import described
from registry.installation import install_command

MAX_DEPTH = 20
"""Graphs inside graphs: exporters nest a handful, protobuf's own parser stops at about 30."""
MAX_NODES = 5_000_000
_EXTERNAL = 1
"""TensorProto.DataLocation.EXTERNAL"""


_PASSING = frozenset({"Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Cast", "Transpose", "Dropout"})
"""Operators that leave the numbers of their first input as they are."""
_STEPS = 32
MAX_METADATA = 256
"""Entries of `metadata_props` that are read."""
MAX_FILE_BYTES = (2 << 30) - 1
"""Protobuf's own limit; bigger models keep their weights in external data."""
_NO_TENSOR = {
    "sequence": "; export scikit-learn models with options={'zipmap': False}, others with a ConcatFromSequence",
    "map": "; export scikit-learn models with options={'zipmap': False}",
    "optional": "; export the model with the value, or without it, as a model of its own",
    "sparse_tensor": "; make it dense inside the model",
}
_SHOWN = 100
NEWEST_IR, NEWEST_OPSET = 14, 28
"""What ONNX Runtime 1.32 loads, by trying: the newest runtime that was known when this was written."""
_DATATYPES = {
    1: Datatype.FP32,
    2: Datatype.UINT8,
    3: Datatype.INT8,
    4: Datatype.UINT16,
    5: Datatype.INT16,
    6: Datatype.INT32,
    7: Datatype.INT64,
    8: Datatype.BYTES,
    9: Datatype.BOOL,
    10: Datatype.FP16,
    11: Datatype.FP64,
    12: Datatype.UINT32,
    13: Datatype.UINT64,
    16: Datatype.BF16,
    17: Datatype.FP8E4M3FN,
    18: Datatype.FP8E4M3FNUZ,
    19: Datatype.FP8E5M2,
    20: Datatype.FP8E5M2FNUZ,
    24: Datatype.FP8E8M0,
}
"""TensorProto.DataType; complex, 4-bit and 2-bit types have no counterpart in the protocol."""
_OVERRIDABLE_IR = 4
"""From this IR on an initializer that is an input, too, is a default; before, every initializer was listed as one."""


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
                waiting.extend((depth + 1, inner) for inner in (*_one(attribute, "g"), *attribute.graphs))
    return found


def custom_functions(model: Any) -> set[tuple[str, str]]:
    """(domain, operator) that the model brings itself as functions: no runtime has to know them."""
    return {(_domain(function.domain), function.name) for function in model.functions}


def _domain(name: str) -> str:
    return "" if name == "ai.onnx" else name


def _graph_tensors(graph: Any) -> Iterator[Any]:
    if graph.DESCRIPTOR.name != "GraphProto":
        return iter(())
    return chain(graph.initializer, *((sparse.values, sparse.indices) for sparse in graph.sparse_initializer))


def _attribute_tensors(attribute: Any) -> Iterator[Any]:
    sparse = (*_one(attribute, "sparse_tensor"), *attribute.sparse_tensors)
    return chain(_one(attribute, "t"), attribute.tensors, *((each.values, each.indices) for each in sparse))


def _one(message: Any, field: str) -> tuple[Any, ...]:
    """The message in a field of its own, if there is one."""
    return (getattr(message, field),) if message.HasField(field) else ()


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


def last_operators(model: Any) -> dict[str, str]:
    """Output to the operator that makes its numbers; nothing for what is not made by a standard one of the graph."""
    makers = {name: node for node in model.graph.node for name in node.output if name}
    found: dict[str, str] = {}
    for output in model.graph.output:
        node = makers.get(output.name)
        for _ in range(_STEPS):
            if node is None or node.op_type not in _PASSING or not node.input:
                break
            node = makers.get(node.input[0])
        if node is not None and node.domain in ("", "ai.onnx"):
            found[output.name] = node.op_type
    return found


def inspect(path: Path, links_within: Path | None = None) -> ModelFacts:
    """Read the ONNX file at `path`; links to its external data are followed inside `links_within`.

    Raises:
        InspectionError: it cannot be served as it is, or refers to files that may not be published.
    """
    model = _parse(path)
    if not model.HasField("graph") or not model.opset_import:
        raise InspectionError(
            f"{path.name} has no {'opset' if model.HasField('graph') else 'graph'}: not an ONNX model"
        )
    found = survey(model)
    inputs, optional, more = _inputs(model)
    outputs = _specs("output", _outputs(model))
    if not outputs:
        raise InspectionError(f"{path.name} has no outputs")
    requirements = Requirements(onnx_ir=model.ir_version, onnx_opsets=_needed_opsets(model, found.operators))
    producer = " ".join(part[:64] for part in (model.producer_name, model.producer_version) if part)
    return ModelFacts(
        format=Format.ONNX,
        inputs=inputs,
        optional_inputs=optional,
        outputs=outputs,
        requirements=requirements,
        companions=companions(path.parent, found.external, links_within),
        producer=producer,
        last_operators=last_operators(model),
        batching=examine(model),
        warnings=(*_runtime_warnings(requirements), *_shape_warnings(inputs), *more),
        described=described({entry.key: entry.value for entry in model.metadata_props[:MAX_METADATA]}),
    )


def _parse(path: Path) -> Any:
    try:
        import onnx  # noqa: PLC0415 - 0.3 s, and absent where nothing is published
    except ModuleNotFoundError as error:
        raise InspectionError(
            "reading ONNX files needs the `onnx` package, which is not installed here. "
            f"Install it with: {install_command('publish')}"
        ) from error
    size = path.stat().st_size
    if size > MAX_FILE_BYTES:
        raise InspectionError(
            f"{path.name} has {size} bytes; an ONNX file may have {MAX_FILE_BYTES}. Keep the weights in a file "
            "beside it: onnx.save(model, path, save_as_external_data=True)"
        )
    model = onnx.ModelProto()
    try:
        model.ParseFromString(path.read_bytes())
    except Exception as error:  # the module of DecodeError depends on the protobuf in use
        raise InspectionError(f"{path.name} is not a readable ONNX file: {str(error)[:200]}") from error
    return model


def _needed_opsets(model: Any, operators: set[tuple[str, str]]) -> dict[str, int]:
    """Opset per domain that a runtime must bring: domains of the model's own functions are left out."""
    brought = custom_functions(model)
    used = {domain for domain, _ in operators - brought}
    versions: dict[str, int] = {}
    for imported in [*model.opset_import, *(o for function in model.functions for o in function.opset_import)]:
        domain = "" if imported.domain == "ai.onnx" else imported.domain
        if domain in used or domain == "":
            versions[domain] = max(versions.get(domain, 0), imported.version)
    return versions | dict.fromkeys(used - set(versions), 1)


def _inputs(model: Any) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...], tuple[str, ...]]:
    """What requests must give, what they may give because it has a default, and warnings about that.

    ONNX Runtime takes a value for any input, also one with an initializer, dense or sparse.
    """
    graph = model.graph
    defaults = {tensor.name for tensor in graph.initializer} | {each.values.name for each in graph.sparse_initializer}
    required = _specs("input", [value for value in graph.input if value.name not in defaults])
    if model.ir_version < _OVERRIDABLE_IR:
        return required, (), ()
    with_default = [value for value in graph.input if value.name in defaults]
    try:
        optional = _specs("input", with_default)
        _check_together("input", (*required, *optional))
    except InspectionError as error:
        return required, (), (f"inputs that have a default cannot be given in requests: {error}",)
    return required, optional, ()


def _outputs(model: Any) -> list[Any]:
    """Each once, also where the graph lists it twice; one that has no type with the type that its operators give it."""
    found: dict[str, Any] = {}
    for value in model.graph.output:
        found.setdefault(value.name, value)
    if not all(map(_has_type, found.values())):
        import onnx  # noqa: PLC0415 - as in _parse

        with contextlib.suppress(onnx.shape_inference.InferenceError, ValueError):  # too large, or not to be read
            for value in onnx.shape_inference.infer_shapes(model).graph.output:
                if not _has_type(found[value.name]):
                    found[value.name] = value
    return list(found.values())


def _has_type(value: Any) -> bool:
    return value.type.WhichOneof("value") is not None


def _specs(kind: str, values: Any) -> tuple[TensorSpec, ...]:
    specs = tuple(_spec(kind, value) for value in values)
    _check_together(kind, specs)
    return specs


def _check_together(kind: str, specs: tuple[TensorSpec, ...]) -> None:
    if len(specs) > MAX_TENSORS:
        raise InspectionError(f"the model has {len(specs)} {kind}s; at most {MAX_TENSORS} can be served")
    size = sum(len(json.dumps(spec.name, ensure_ascii=False).encode()) for spec in specs)
    if size > MAX_NAMES_BYTES:
        raise InspectionError(
            f"the names of the model's {kind}s take {size} bytes together; a request carries {MAX_NAMES_BYTES}"
        )


def _spec(kind: str, value: Any) -> TensorSpec:
    name, shown = value.name, _shown(value.name)
    if not 0 < len(name) <= MAX_NAME:
        raise InspectionError(
            f"{kind} {shown} has a name of {len(name)} characters; 1 to {MAX_NAME} can be served. Rename it"
        )
    if "\0" in name:
        raise InspectionError(f"{kind} {shown} has a NUL character in its name, which no request can carry. Rename it")
    what = value.type.WhichOneof("value")
    if what != "tensor_type":
        declared = (what or "nothing").removesuffix("_type")
        hint = _NO_TENSOR.get(declared, "")
        raise InspectionError(f"{kind} {shown} is declared as {declared}; only tensors can be served{hint}")
    tensor = value.type.tensor_type
    datatype = _DATATYPES.get(tensor.elem_type)
    if datatype is None:
        raise InspectionError(
            f"{kind} {shown} has ONNX element type {_element_type(tensor.elem_type)}, which requests cannot carry. "
            "Cast it inside the model to one of: " + ", ".join(Datatype)
        )
    if not tensor.HasField("shape"):
        return TensorSpec(name=name, datatype=datatype, shape=(), any_rank=True)
    shape = tuple(_dimension(kind, shown, dim) for dim in tensor.shape.dim)
    if len(shape) > MAX_RANK:
        raise InspectionError(f"{kind} {shown} has {len(shape)} dimensions; at most {MAX_RANK} can be served")
    return TensorSpec(name=name, datatype=datatype, shape=shape)


def _shown(name: str) -> str:
    """A name in a message: long ones are cut."""
    return repr(name) if len(name) <= _SHOWN else f"{name[:_SHOWN]!r}…"


def _element_type(number: int) -> str:
    from onnx import TensorProto  # noqa: PLC0415 - as in _parse

    known = TensorProto.DataType.values()
    return f"{TensorProto.DataType.Name(number)} ({number})" if number in known else str(number)


def _dimension(kind: str, name: str, dim: Any) -> int:
    """A fixed size, or -1 where any size goes (a symbol, nothing, or a negative number, as ONNX Runtime reads them)."""
    if dim.WhichOneof("value") != "dim_value" or dim.dim_value < 0:
        return -1
    if dim.dim_value > 1 << 31:
        raise InspectionError(f"{kind} {name} has a dimension of {dim.dim_value}, beyond {1 << 31}")
    return int(dim.dim_value)


def _runtime_warnings(need: Requirements) -> list[str]:
    newest = "newer than any known runtime loads"
    opset, ir = need.onnx_opsets.get("", 0), need.onnx_ir or 0
    custom = sorted(set(need.onnx_opsets) - BUILT_IN_DOMAINS)
    warnings = (
        (opset > NEWEST_OPSET, f"opset {opset} is {newest} ({NEWEST_OPSET}): perhaps no device fits"),
        (ir > NEWEST_IR, f"IR version {ir} is {newest} ({NEWEST_IR}): perhaps no device fits"),
        (custom, f"it needs operators of {', '.join(custom)}, which no backend brings: no device will fit"),
    )
    return [text for applies, text in warnings if applies]


def _shape_warnings(inputs: tuple[TensorSpec, ...]) -> list[str]:
    found = [
        f"input {_shown(spec.name)} has dynamic dimensions but a fixed first one: requests cannot be batched"
        for spec in inputs
        if -1 in spec.shape[1:] and spec.shape[0] != -1
    ]
    if inputs and all(spec.shape and spec.shape[0] == 1 and -1 not in spec.shape for spec in inputs):
        found.append("the batch dimension is fixed at 1: requests run one by one. Export it as dynamic to batch them")
    return found
