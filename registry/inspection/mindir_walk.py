"""Every message of a MindIR file that can hold operators, names or tensors, directly or deeper, in the file's order."""

from __future__ import annotations

from collections.abc import Iterator

from registry.inspection.facts import InspectionError
from registry.inspection.protobuf import Field, ProtobufWalk

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
    if inner == 0:
        return walk.text(part)
    return next((walk.text(each) for each in walk.fields(part) if each.number == inner), "")
