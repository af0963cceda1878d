"""What is known of one tensor while the batch axis is followed through a graph."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import count

from registry.inspection.independence.sizes import Size

Shape = tuple[Size, ...]
MAX_ELEMENTS = 4096
"""Of small integer tensors the elements are followed: shapes, axes, indices."""


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


_fresh = count()


def fresh() -> Size:
    """A size that is not known, and the same alone and together."""
    return Size(1, (f"?{next(_fresh)}",))


def constant(shape: Shape | None = None, elements: tuple[Size | None, ...] | None = None) -> Value:
    """A tensor that no item has a part in. Elements without anything known in them are dropped.

    Raises:
        NotIndependentError: they are too many to be followed, and the number of items is among them.
    """
    if elements is not None and len(elements) > MAX_ELEMENTS:
        if any(element is not None and element.holds_batch for element in elements):
            raise refuse(f"the number of items is one of more than {MAX_ELEMENTS} elements")
        elements = None
    if elements and all(element is None for element in elements):
        elements = None
    return Value(shape, None, elements)


def refuse(why: str) -> NotIndependentError:
    """To be raised."""
    return NotIndependentError(why)
