"""What an AIR (GEIR) file says of itself: the operators of its graphs. Nothing is run, no weight is read.

MindSpore exports AIR through SaveToFile of CANN's Graph Engine, which writes its message `ge.proto.ModelDef`
(proto/ge_ir.proto and graph/model.cc in https://gitee.com/ascend/metadef): name 1, version 2, custom version 3,
graphs 7, attributes 11; of a graph name 1, inputs 4, outputs 5, operators 6, attributes 11; of an operator name 1,
type 2.

That was read in the published source: no file of a real Ascend was at hand. So a file of this form is surely AIR, and
one of another form that is given as AIR is taken with a warning. Inputs and outputs are not read.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import BinaryIO

from registry.contracts.catalogue.manifest import Format
from registry.inspection.facts import InspectionError, ModelFacts
from registry.inspection.protobuf import LENGTH_DELIMITED, VARINT, Field, NotProtobufError, ProtobufWalk, outer_fields

_TEXT = LENGTH_DELIMITED
_MODEL = {1: _TEXT, 2: VARINT, 3: _TEXT, 7: LENGTH_DELIMITED, 11: LENGTH_DELIMITED}
_GRAPH = {1: _TEXT, 4: _TEXT, 5: _TEXT, 6: LENGTH_DELIMITED, 11: LENGTH_DELIMITED}
"""Field to wire type."""
_TYPE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
"""Of an operator: `Data`, `Conv2D`."""


def inspect(path: Path) -> ModelFacts:
    """Read the AIR file at `path`.

    Raises:
        InspectionError: it is no protobuf, or cut short.
    """
    with path.open("rb") as file:
        size = path.stat().st_size
        if operators(file, size):
            return ModelFacts(format=Format.AIR, producer="Graph Engine")
        try:
            whole = bool(list(outer_fields(file, size)))
        except NotProtobufError:
            whole = False
    if not whole:
        raise InspectionError(f"{path.name} is not an AIR file: those are protobuf, this is not, or is cut short")
    text = f"{path.name} has not the form of the AIR files that CANN's Graph Engine writes: taken because you say so"
    return ModelFacts(format=Format.AIR, warnings=(text,))


def operators(file: BinaryIO, size: int) -> frozenset[str]:
    """The types of all operators of an open file of `size` bytes; none: it has not the form of AIR."""
    walk, found = ProtobufWalk(file, size), set[str]()
    try:
        for part in walk.fields():
            if _MODEL.get(part.number) != part.wire_type:
                return frozenset()
            if part.number == 7:
                found |= _of_graph(walk, part)
    except ValueError:  # NotProtobufError, or a text that is none
        return frozenset()
    return frozenset(found)


def _of_graph(walk: ProtobufWalk, graph: Field) -> set[str]:
    """Raises ValueError."""
    found = set()
    for part in walk.fields(graph):
        if _GRAPH.get(part.number) != part.wire_type:
            raise NotProtobufError(f"a graph with a field {part.number}")
        if part.number == 6:
            kind = next((walk.text(each) for each in walk.fields(part) if each.number == 2), "")
            if not _TYPE.fullmatch(kind):
                raise NotProtobufError("an operator without a type")
            found.add(kind)
    return found
