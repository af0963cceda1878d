"""Sizes of dimensions as products: 64, N, N*12*x.1. Pure arithmetic; what cannot be said as a product is not followed.

N is the number of items in a run. Any other symbol is a size that is the same alone and together: a free dimension of
an input besides its first, or what an operator makes of such sizes.
"""

from __future__ import annotations

from dataclasses import dataclass

BATCH = "N"


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
