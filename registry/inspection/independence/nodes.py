"""What the rules work with: sizes, tensors (`Value`), nodes, and the table of rules, which is the allow-list.

Sizes are products: 64, N, N*12*x.1; what cannot be said as a product is not followed. N is the number of items in a
run. Any other symbol is a size that is the same alone and together: a free dimension of an input besides its first, or
what an operator makes of such sizes.

Pure, but for the tensors of a model file, which are messages of `onnx`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from math import prod
from typing import Any, NamedTuple, TypeVar

T = TypeVar("T")
BATCH = "N"


MAX_ELEMENTS = 4096
"""Of small integer tensors the elements are followed: shapes, axes, indices."""
_fresh = count()
_FOLLOWED = frozenset({6, 7, 9})
"""INT32, INT64, BOOL: what shapes, axes and flags are written in."""
_FLOATS = frozenset({1, 10, 11})
"""FLOAT, FLOAT16, DOUBLE: what scales are written in."""
MAX_FLOATS = 64
_EXTERNAL = 1
"""TensorProto.DataLocation.EXTERNAL"""
NEWEST_OPSET = 28
"""Of ai.onnx. What a newer one means was not read when the rules were written."""
NEWEST_ML_OPSET = 5
ML = "ai.onnx.ml"


@dataclass(frozen=True)
class Size:
    """`factor` times the symbols. Without symbols it is a plain integer, which may be negative."""

    factor: int = 1
    symbols: tuple[str, ...] = ()
    """Sorted; a symbol that stands twice is squared."""

    @property
    def holds_batch(self) -> bool:
        """Does it depend on the number of items?"""
        return BATCH in self.symbols

    @property
    def number(self) -> int | None:
        """The plain integer; None: it is not known."""
        return None if self.symbols else self.factor

    @property
    def is_batch_once(self) -> bool:
        """N times something that is the same alone and together."""
        return self.symbols.count(BATCH) == 1 and self.factor > 0

    def times(self, other: Size) -> Size:
        """The product."""
        factor = self.factor * other.factor
        return Size(factor, tuple(sorted(self.symbols + other.symbols)) if factor else ())

    def over(self, other: Size) -> Size | None:
        """The quotient where it is exact, whatever the symbols stand for; None otherwise."""
        if other.factor == 0 or self.factor % other.factor:
            return None
        left = list(self.symbols)
        for symbol in other.symbols:
            if symbol not in left:
                return None
            left.remove(symbol)
        return Size(self.factor // other.factor, tuple(left))

    def __str__(self) -> str:
        """`N*12`."""
        parts = [str(self.factor)] if self.factor != 1 or not self.symbols else []
        return "*".join([*self.symbols, *parts])


N = Size(1, (BATCH,))
ONE = Size(1)


def product(sizes: tuple[Size, ...]) -> Size:
    """Of all of them; 1 of none."""
    result = ONE
    for size in sizes:
        result = result.times(size)
    return result


Shape = tuple[Size, ...]


class NotIndependentError(Exception):
    """A node may let items influence each other, or cannot be followed; the message says how."""


@dataclass(frozen=True)
class Value:
    """A tensor. INVARIANTS:

    `axis` None: its content is the same alone and together, except that `elements` may hold N.
    `axis` k: size k is N*m; the rows i*m to (i+1)*m along it are what item i alone gives, and depend on item i only. No
    other size holds N.
    """

    shape: Shape | None
    """None: not known, not even the rank."""
    axis: int | None = None
    elements: tuple[Size | None, ...] | None = None
    """Of an integer or boolean tensor without items: its elements in row-major order, None where one is not known but
    the same alone and together. None: nothing is known of them, but that they are the same alone and together."""

    floats: tuple[float, ...] | None = None
    """Of a small constant of floats in the file: its elements. None: not known."""

    @property
    def is_item(self) -> bool:
        """Does it hold items?"""
        return self.axis is not None

    @property
    def rank(self) -> int:
        """Raises NotIndependentError where it is not known."""
        return len(self.sizes)

    @property
    def sizes(self) -> Shape:
        """The shape. Raises NotIndependentError where it is not known."""
        if self.shape is None:
            raise NotIndependentError("the shape of what goes in cannot be followed")
        return self.shape

    @property
    def holds_batch(self) -> bool:
        """Does its content hold the number of items?"""
        return any(element is not None and element.holds_batch for element in self.elements or ())

    @property
    def numbers(self) -> list[int] | None:
        """The elements, where all are known integers."""
        if self.elements is None:
            return None
        found = [element.number for element in self.elements if element is not None]
        known = [number for number in found if number is not None]
        return known if len(known) == len(self.elements) else None

    def moved(self, axis: int | None, shape: Shape | None) -> Value:
        """The items at another place in another shape."""
        return replace(self, axis=axis, shape=shape, elements=None, floats=None)


def fresh() -> Size:
    """A size that is not known, and the same alone and together."""
    return Size(1, (f"?{next(_fresh)}",))


def constant(shape: Shape | None = None, elements: tuple[Size | None, ...] | None = None) -> Value:
    """A tensor that no item has a part in. Elements without anything known in them are dropped.

    Raises:
        NotIndependentError: they are too many to be followed, and the number of items is among them.
    """
    if elements is not None and len(elements) > MAX_ELEMENTS:
        refuse_if(
            any(element is not None and element.holds_batch for element in elements),
            f"the number of items is one of more than {MAX_ELEMENTS} elements",
        )
        elements = None
    if elements and all(element is None for element in elements):
        elements = None
    return Value(shape, None, elements)


def refuse(why: str) -> NotIndependentError:
    """To be raised."""
    return NotIndependentError(why)


def refuse_if(fault: object, why: str) -> None:
    """Raises NotIndependentError where there is the fault."""
    if fault:
        raise refuse(why)


def certain(found: T | None, why: str) -> T:
    """What was found. Raises NotIndependentError where it is None."""
    if found is None:
        raise refuse(why)
    return found


def elements_of(tensor: Any) -> tuple[Size, ...] | None:
    """The elements of a TensorProto; None: not integers, too many, in another file, or damaged."""
    found = _numbers_of(tensor, _FOLLOWED, MAX_ELEMENTS)
    return None if found is None else tuple(Size(int(number)) for number in found)


def _numbers_of(tensor: Any, types: frozenset[int], most: int) -> list[float] | None:
    """At most `most` elements of one of these types, which are in the file and can be read; None otherwise."""
    if tensor.data_type not in types or not 0 <= prod(tensor.dims) <= most or tensor.data_location == _EXTERNAL:
        return None
    from onnx import numpy_helper  # noqa: PLC0415 - absent where nothing is published

    try:
        return list(numpy_helper.to_array(tensor).ravel().tolist())
    except (ValueError, TypeError):
        return None


def value_of(tensor: Any) -> Value:
    """An initializer or a constant."""
    made = constant(tuple(Size(int(dim)) for dim in tensor.dims), elements_of(tensor))
    found = _numbers_of(tensor, _FLOATS, MAX_FLOATS)
    return made if found is None else replace(made, floats=tuple(map(float, found)))


@dataclass
class Node:
    """An operator with what goes in."""

    op: str
    opset: int
    inputs: Sequence[Value | None]
    """None: left out."""
    attributes: dict[str, Any]
    outputs: int
    """How many outputs have a name, counted up to the last that has one."""
    used: Sequence[bool]
    """Which of them."""
    graph: Callable[[Any, Sequence[Value]], list[Value]] = field(repr=False, default=lambda *_: [])
    """Follows a subgraph: (graph, what its inputs are) to what its outputs are."""

    def input(self, index: int) -> Value | None:
        """None: left out."""
        return self.inputs[index] if index < len(self.inputs) else None

    def need(self, index: int) -> Value:
        """Raises NotIndependentError: left out."""
        value = self.input(index)
        if value is None:
            raise refuse(f"its input {index} is missing")
        return value

    def attribute(self, name: str, default: Any = None) -> Any:
        """As Python values; texts are str, tensors and graphs their messages."""
        return self.attributes.get(name, default)

    def rest_constant(self, *items: int) -> None:
        """Only these inputs may hold items. Raises NotIndependentError."""
        for index, value in enumerate(self.inputs):
            if index not in items and value is not None and value.is_item:
                raise refuse(f"its input {index} depends on the items")

    def only(self, *items: int) -> Value:
        """The first input; of the others only these may hold items. Raises NotIndependentError."""
        value = self.need(0)
        self.rest_constant(0, *items)
        return value

    def numbers(self, index: int) -> list[int] | None:
        """The known integers of an input; None: it is left out. Raises NotIndependentError: not known."""
        value = self.input(index)
        if value is None:
            return None
        refuse_if(value.is_item or value.numbers is None, f"its input {index} is not known when the model is published")
        return value.numbers

    def floats(self, index: int) -> list[float] | None:
        """The known floats of an input; None: they are not known."""
        value = self.input(index)
        return None if value is None or value.floats is None else list(value.floats)

    def axis(self, rank: int, default: int = 0, name: str = "axis") -> int:
        """The attribute, from 0. Raises NotIndependentError: out of range."""
        return place(int(self.attribute(name, default)), rank)


def place(axis: int, rank: int) -> int:
    """An axis from 0. Raises NotIndependentError: out of range."""
    if not -rank <= axis < rank:
        raise refuse(f"axis {axis} of {rank} dimensions")
    return axis % rank


Rule = Callable[[Node], "list[Value]"]


class OperatorRule(NamedTuple):
    """One operator of the allow-list."""

    rule: Rule
    first: int
    """The oldest opset whose meaning the rule knows."""
    last: int
    """The newest version of the operator that was read."""
    note: str
    """When it is accepted, for the documentation."""
    shapes: bool
    """The rule knows what to do with the batch size as a number."""


RULES: dict[tuple[str, str], OperatorRule] = {}


def rule(*ops: str, first: int = 1, note: str, domain: str = "", shapes: bool = False) -> Callable[[Rule], Rule]:
    """Puts a rule into the table. `ops`: words NAME:LAST, where LAST is the newest version that was read."""

    def put(function: Rule) -> Rule:
        for text in " ".join(ops).split():
            name, _, newest = text.partition(":")
            RULES[domain, name] = OperatorRule(function, first, int(newest), note, shapes)
        return function

    return put


def along(value: Value, axis: int, what: str) -> None:
    """Raises NotIndependentError when the items lie along `axis` (from 0)."""
    if value.axis == axis:
        raise refuse(f"{what} along the axis of the items")
