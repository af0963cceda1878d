"""What a MindIR file says of itself: MindSpore version, operators, inputs, outputs, files beside it.

Reads the protobuf (mind_ir.proto of MindSpore 2.10, which is in its wheel as mindspore.train.mind_ir_pb2)
without MindSpore and without the weights. A file whose operators bring code of their own is refused:
`Custom` loads a shared library when the model is loaded, and is also what MindSpore Lite leaves when it
converts a model for one Ascend chip. MindIR passes tensors by position: its outputs have no names that
mean anything, so `output` or `output_0`, `output_1`, ... stand for them until the publisher names them.
Protobuf has no end mark: that a file was cut between two of its parts shows in what it calls and does not have. A cut
that takes only the last two bytes, the number of the form, leaves all of the model, and is not seen.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from registry.contracts.catalogue.manifest import Format, Requirements, TensorSpec
from registry.contracts.tensors import MAX_RANK, MAX_TENSORS, Datatype
from registry.inspection.external_data import ExternalTensor, companions
from registry.inspection.facts import InspectionError, ModelFacts
from registry.inspection.protobuf import Field, ProtobufWalk, TruncatedError

MAX_DEPTH = 40
"""Messages inside messages: a node's attribute with a tensor is four."""
REFERENCE = "REF::"
"""A node whose operator begins so calls a primitive, graph, parameter or value of that name, which the file has."""

CHILDREN: dict[str, dict[int, str]] = {
    "model": {7: "graph", 8: "graph", 12: "primitive"},
    "graph": {1: "node", 3: "tensor", 8: "attribute", 10: "map"},
    "node": {5: "attribute", 8: "attribute", 9: "attribute"},
    "primitive": {3: "attribute"},
    "attribute": {6: "tensor", 7: "graph", 12: "tensor", 13: "graph", 17: "attribute", 19: "functor"},
    "functor": {3: "attribute"},
    "map": {2: "attribute", 3: "tensor", 4: "tensor", 5: "tensor"},
}
"""Message to its fields that hold operators or tensors, directly or deeper."""
_DEFINED = frozenset({("primitive", 1), ("graph", 2)})
_VALUES = {("node", 2): 0, ("graph", 3): 7, ("graph", 5): 1, ("graph", 10): 1}
"""(message, field) that gives a name, or holds it in that field of its own: outputs of nodes, parameters, inputs."""


MAX_OPERATORS = 100_000
"""Different operators and functions: each call of a graph of its own counts as one."""
CODE_OPERATORS = ("pyexecute", "pyinterpret", "pyfunc", "resolve", "getattr")
"""An operator with one of these in its name, whatever the case, runs Python; agents refuse it too."""
CODE_VALUES = {32: "class", 33: "name space", 34: "symbol"}
"""AttributeProto.AttributeType of values that are looked up in Python modules."""
_VERSION = re.compile(r"[0-9]{1,6}(\.[0-9]{1,6}){1,3}[A-Za-z0-9.+-]{0,20}")
_DATATYPES = {
    1: Datatype.FP32,
    2: Datatype.UINT8,
    3: Datatype.INT8,
    4: Datatype.UINT16,
    5: Datatype.INT16,
    6: Datatype.INT32,
    7: Datatype.INT64,
    9: Datatype.BOOL,
    10: Datatype.FP16,
    11: Datatype.FP64,
    12: Datatype.UINT32,
    13: Datatype.UINT64,
    17: Datatype.FP64,
}
"""TensorProto.DataType; complex, string and 4-bit tensors cannot be requested, and agents cannot hand bfloat16 over."""
_OPERATORS = frozenset({("node", 4), ("primitive", 1), ("primitive", 2)})
"""(message, field) that names an operator."""


def parts(walk: ProtobufWalk, name: str) -> Iterator[tuple[str, Field]]:
    """The kind of a message and one of its fields, for all of them; `name` of the file is for the message.

    Goes down first, so that what waits is as deep as the file, not as long.

    Raises:
        InspectionError: nested too deep.
        NotProtobufError: as `ProtobufWalk` does.
    """
    open_messages: list[tuple[str, Iterator[Field]]] = [("model", walk.fields())]
    while open_messages:
        kind, fields = open_messages[-1]
        part = next(fields, None)
        if part is None:
            open_messages.pop()
            continue
        yield kind, part
        child = CHILDREN[kind].get(part.number)
        if child is not None and child != "tensor":
            if len(open_messages) == MAX_DEPTH:
                raise InspectionError(f"{name} nests graphs and attributes more than {MAX_DEPTH} deep")
            open_messages.append((child, walk.fields(part)))


def check_references(walk: ProtobufWalk, references: set[str], name: str) -> None:
    """What nodes call is in the file: protobuf alone does not tell that a file was cut between two of its parts.

    Raises:
        InspectionError: something that is called is not there.
    """
    open_ = set(references)
    for wanted in (_DEFINED, _VALUES):  # values only where the first did not do: there are as many as nodes
        if not open_:
            return
        for kind, part in parts(walk, name):
            if (kind, part.number) in wanted:
                open_.discard(_name(walk, part, _VALUES.get((kind, part.number), 0)))
    if open_:
        raise InspectionError(
            f"{name} is a MindIR file that is cut short or damaged: it calls {min(open_)[:128]!r}, which is not in it. "
            "Copy it again, or export it again"
        )


def _name(walk: ProtobufWalk, part: Field, inner: int) -> str:
    return walk.text(part if inner == 0 else next((f for f in walk.fields(part) if f.number == inner), None))


@dataclass
class Content:
    """What was read."""

    producer: str = ""
    version: str = ""
    """Of the MindSpore that wrote the file; "": it does not say."""
    operators: set[str] = field(default_factory=set)
    references: set[str] = field(default_factory=set)
    """What nodes call by a name that the file defines."""
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    """Empty where the file does not say the type and shape of every one."""
    external: list[ExternalTensor] = field(default_factory=list)


def inspect(path: Path) -> ModelFacts:
    """Read the MindIR file at `path`.

    Raises:
        InspectionError: it is no MindIR, cut short, brings code, or refers to files that may not be published.
    """
    with path.open("rb") as file:
        content = read(file, path.stat().st_size, path.name)
    version = content.version if _VERSION.fullmatch(content.version) else None
    unknown = (
        () if version else ("the file does not say which MindSpore wrote it; say `mindspore_version` if it matters",)
    )
    return ModelFacts(
        format=Format.MINDIR,
        inputs=content.inputs,
        outputs=content.outputs,
        requirements=Requirements(mindspore_version=version),
        companions=companions(path.parent, content.external),
        producer=f"{content.producer} {content.version}".strip(),
        warnings=unknown,
    )


def read(file: BinaryIO, size: int, name: str) -> Content:
    """Read MindIR from an open file of `size` bytes; `name` is for the messages.

    Raises:
        InspectionError: as `inspect` does.
    """
    walk = ProtobufWalk(file, size)
    try:
        return _read(walk, name)
    except TruncatedError as error:
        raise InspectionError(f"{name} is a MindIR file that is cut short: {error}. Copy it again") from error
    except ValueError as error:
        raise InspectionError(f"{name} is not a readable MindIR file: {error}. Export it again") from error


def _read(walk: ProtobufWalk, name: str) -> Content:
    fields = walk.last()
    version = walk.text(fields.get(3)) or walk.text(fields.get(5))
    content, graph = Content(producer=walk.text(fields.get(2))[:64], version=version[:64]), fields.get(7)
    if not content.producer.startswith("MindSpore"):
        raise InspectionError(f"{name} is not a MindIR file: it does not name MindSpore as its producer")
    if graph is None:
        raise InspectionError(f"{name} is a MindIR file without a graph: encrypted, or not meant to be run")
    _survey(walk, content, name)
    check_references(walk, content.references, name)
    content.inputs, content.outputs = _signature(walk, graph)
    return content


def _survey(walk: ProtobufWalk, content: Content, name: str) -> None:
    """Collect the operators, what is called and external files of all graphs, and refuse what runs code."""
    for kind, part in parts(walk, name):
        if (kind, part.number) in _OPERATORS:
            text = walk.text(part)
            called = text.removeprefix(REFERENCE)
            if kind == "node" and called != text:
                content.references.add(called)
            else:
                _add_operator(content, text, name)
            if len(content.operators) + len(content.references) > MAX_OPERATORS:
                raise InspectionError(f"{name} has more than {MAX_OPERATORS} different operators")
        elif (kind, part.number) == ("graph", 9) and part.length:
            content.external.append(ExternalTensor("gradients", walk.text(part)))
        elif (kind, part.number) == ("attribute", 16) and part.length in CODE_VALUES:
            raise InspectionError(f"{name} names a Python {CODE_VALUES[part.length]}. Export it again without")
        elif CHILDREN[kind].get(part.number) == "tensor":
            content.external.extend(_external(walk, part))


def _add_operator(content: Content, text: str, name: str) -> None:
    """`Conv2D:4`, as primitives are called, is Conv2D."""
    operator = text.split(":", maxsplit=1)[0]
    lowered = operator.lower()
    if "custom" in lowered:
        raise InspectionError(
            f"{name} has the operator {operator[:64]!r}: either it was converted by MindSpore Lite for one Ascend "
            "chip, or it loads a library of its own. Publish the MindIR that mindspore.export wrote; for an Ascend "
            "chip, publish an OM file (atc)"
        )
    if any(part in lowered for part in CODE_OPERATORS):
        raise InspectionError(
            f"{name} has the operator {operator[:64]!r}, which runs Python code on the device. Export it again without"
        )
    content.operators.add(operator)


def _external(walk: ProtobufWalk, tensor: Field) -> Iterator[ExternalTensor]:
    name, places = "", []
    for part in walk.fields(tensor):
        if part.number == 7:
            name = walk.text(part)[:256]
        elif part.number == 12:
            places.append(part)
    for place in places:
        fields = walk.last(place)
        offset, length = fields.get(2), fields.get(3)
        yield ExternalTensor(
            tensor=name,
            location=walk.text(fields.get(1)),
            offset=0 if offset is None else offset.signed,
            length=None if length is None else length.signed,
        )


def _signature(walk: ProtobufWalk, graph: Field) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    inputs: list[TensorSpec | None] = []
    outputs: list[TensorSpec | None] = []
    for part in walk.fields(graph):
        if part.number == 5:
            inputs.extend(_specs(walk, part, "input", len(inputs)))
        elif part.number == 6:
            outputs.extend(_specs(walk, part, "output", len(outputs)))
        if max(len(inputs), len(outputs)) > MAX_TENSORS:
            raise InspectionError(f"the model has more than {MAX_TENSORS} inputs or outputs")
    if not outputs:
        raise InspectionError("the model has no outputs: it was not exported to be run, or is damaged")
    known = _all_or_nothing(inputs)
    if len({spec.name for spec in known}) < len(known):
        known = _numbered("input", known)
    return known, _numbered("output", _all_or_nothing(outputs))


def _all_or_nothing(specs: list[TensorSpec | None]) -> tuple[TensorSpec, ...]:
    known = tuple(spec for spec in specs if spec is not None)
    return known if len(known) == len(specs) else ()


def _numbered(kind: str, specs: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
    names = [kind] if len(specs) == 1 else [f"{kind}_{index}" for index in range(len(specs))]
    return tuple(spec.model_copy(update={"name": name}) for spec, name in zip(specs, names, strict=True))


def _specs(walk: ProtobufWalk, value: Field, kind: str, index: int) -> Iterator[TensorSpec | None]:
    """The tensors of a ValueInfoProto: one, or those of a tuple; None where type or shape are missing."""
    name, tensors = "", []
    for part in walk.fields(value):
        if part.number == 1:
            name = walk.text(part).rpartition(":")[2][:256]
        elif part.number == 2:
            tensors.append(part)
        elif part.number == 5:
            tensors.extend(_tuple_tensors(walk, part))
    if not tensors:
        yield None
    for place, tensor in enumerate(tensors[: MAX_TENSORS + 1]):
        label = name if len(tensors) == 1 and name else f"{name or kind}_{index + place}"
        yield _spec(walk, tensor, kind, label)


def _tuple_tensors(walk: ProtobufWalk, attribute: Field) -> Iterator[Field]:
    for values in walk.fields(attribute):
        if values.number != 17:
            continue
        for part in walk.fields(values):
            if part.number == 17:
                raise InspectionError("the model gives a tuple inside a tuple. Return all tensors in one flat tuple")
            if part.number in (6, 12):
                yield part


def _spec(walk: ProtobufWalk, tensor: Field, kind: str, name: str) -> TensorSpec | None:
    dims: list[int] = []
    code = 0
    for part in walk.fields(tensor):
        if part.number == 1:
            dims.extend(walk.numbers(part))
        elif part.number == 2:
            code = part.length
        if len(dims) > MAX_RANK:
            raise InspectionError(f"{kind} {name!r} has more than {MAX_RANK} dimensions")
    if code == 0 or -2 in dims:  # -2: MindSpore's mark of an unknown rank
        return None
    datatype = _DATATYPES.get(code)
    if datatype is None:
        raise InspectionError(f"{kind} {name!r} has MindIR type {code}, which requests cannot carry. Cast it inside")
    if any(not -1 <= dim <= 1 << 31 for dim in dims):
        raise InspectionError(f"{kind} {name!r} has an impossible shape: {dims}")
    return TensorSpec(name=name, datatype=datatype, shape=tuple(dims))
