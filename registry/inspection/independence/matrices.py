"""Matrix products: MatMul, Gemm, Einsum, and their quantised kin."""

from __future__ import annotations

from registry.inspection.independence.elementwise import broadcast_shape, joined
from registry.inspection.independence.nodes import ONE, Node, Shape, Size, Value, constant, refuse_if, rule


@rule("MatMul:13", note="the items lie along rows, columns or leading axes, not along the one that is summed over")
def matmul(node: Node) -> list[Value]:
    """As numpy.matmul."""
    return [multiplied(node.need(0), node.need(1))]


@rule("MatMulInteger:10", note="as MatMul; one zero point for all rows")
def matmul_integer(node: Node) -> list[Value]:
    """As MatMul, less the zero points."""
    node.rest_constant(0, 1)
    _one_element(node, 2)
    if node.need(1).is_item:
        _one_element(node, 3)
    return [multiplied(node.need(0), node.need(1))]


@rule("QLinearMatMul:21", note="as MatMul; one scale and zero point for all rows")
def qlinear_matmul(node: Node) -> list[Value]:
    """a, its scale and zero point; b, its; the result's."""
    node.rest_constant(0, 3)
    for index in (1, 2, 6, 7):
        _one_element(node, index)
    if node.need(3).is_item:
        _one_element(node, 4)
        _one_element(node, 5)
    return [multiplied(node.need(0), node.need(3))]


def _one_element(node: Node, index: int) -> None:
    value = node.input(index)
    refuse_if(
        value is not None and (value.shape is None or any(size != ONE for size in value.shape)),
        f"its input {index} has more than one element",
    )


def multiplied(left: Value, right: Value) -> Value:
    """What comes out of left @ right. Raises NotIndependentError."""

    refuse_if(left.rank == 0 or right.rank == 0, "a matrix has no dimension")
    refuse_if(
        left.axis == left.rank - 1 or (right.axis is not None and right.axis == max(right.rank - 2, 0)),
        "it sums over the axis of the items",
    )
    a = left if left.rank > 1 else Value((ONE, *left.sizes), None)
    b = right if right.rank > 1 else Value((*right.sizes, ONE), None)
    rows, columns = a.axis == a.rank - 2, b.axis is not None and b.axis == b.rank - 1
    refuse_if((rows or columns) and a.is_item and b.is_item, "items are multiplied with items across rows")
    rank = max(a.rank, b.rank)
    lead, axis = _leading(a, b, rank, rows=rows, columns=columns)
    shape = (*lead, a.sizes[-2], b.sizes[-1])
    axis = rank - 2 if rows else rank - 1 if columns else axis
    drop = [*([rank - 2] if left.rank == 1 else []), *([rank - 1] if right.rank == 1 else [])]
    kept = [at for at in range(rank) if at not in drop]
    return Value(tuple(shape[at] for at in kept), None if axis is None else kept.index(axis))


def _leading(a: Value, b: Value, rank: int, *, rows: bool, columns: bool) -> tuple[Shape, int | None]:
    """The leading sizes, and the axis of the items if it is one of them."""
    parts = [Value(value.sizes[:-2], None if inner else value.axis) for value, inner in ((a, rows), (b, columns))]
    if any(part.is_item for part in parts):
        wide = [Value((*[ONE] * (rank - 2 - part.rank), *part.sizes), _shifted(part, rank - 2)) for part in parts]
        axis, shape = joined(wide)
        return shape, axis
    return broadcast_shape([part.sizes for part in parts]) or (), None


def _shifted(part: Value, rank: int) -> int | None:
    return None if part.axis is None else part.axis + rank - part.rank


@rule("Gemm:13", note="the items are rows or columns of the result, and C is one row for all of them")
def gemm(node: Node) -> list[Value]:
    """A' @ B' + C."""
    a, b = (_turned(node.need(at), bool(node.attribute(name, 0))) for at, name in ((0, "transA"), (1, "transB")))
    refuse_if(a.rank != 2 or b.rank != 2, "a matrix has not two dimensions")
    made = multiplied(a, b)
    c = node.input(2)
    if c is None:
        return [made]
    if not made.is_item:
        refuse_if(c.is_item, "its input 2 depends on the items")
        return [made]
    refuse_if(c.rank > 2, "its bias has more than two dimensions")
    axis, _ = joined([made, c])
    return [Value(made.shape, axis)]


def _turned(value: Value, turn: bool) -> Value:
    if not turn:
        return value
    return Value(value.sizes[::-1], None if value.axis is None else value.rank - 1 - value.axis)


@rule(
    "Einsum:28",
    note="one letter stands for the items in every operand that holds them, in no constant, and in the result",
)
def einsum(node: Node) -> list[Value]:
    """Letters for axes."""
    text = str(node.attribute("equation", "")).replace(" ", "")
    left, arrow, right = text.partition("->")
    terms = left.split(",")
    values = [value for value in node.inputs if value is not None]
    refuse_if("." in text or not arrow or len(terms) != len(values), "its equation has an ellipsis or no result")
    letters: set[str] = set()
    sizes: dict[str, Size] = {}
    for term, value in zip(terms, values, strict=True):
        refuse_if(len(term) != value.rank, "its equation does not fit")
        if value.axis is not None:
            letters.add(term[value.axis])
        for letter, size in zip(term, value.sizes, strict=True):
            if size != ONE or letter not in sizes:
                sizes[letter] = size
    if not letters:
        return [constant(tuple(sizes[letter] for letter in right))]
    (items, *more) = letters
    refuse_if(more, "different letters of its equation stand for the items")
    holders = [value for term, value in zip(terms, values, strict=True) if items in term]
    refuse_if(
        any(term.count(items) > 1 for term in (*terms, right)) or any(not value.is_item for value in holders),
        "the letter of the items also stands for something else",
    )
    refuse_if(right.count(items) != 1, "it sums over the axis of the items")
    refuse_if(
        len({value.sizes[value.axis] for value in holders if value.axis is not None}) != 1,
        "what goes in has different numbers of rows for an item",
    )
    return [Value(tuple(sizes[letter] for letter in right), right.index(items))]
