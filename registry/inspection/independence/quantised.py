"""Numbers to eight bits and back, with scales that are constants."""

from __future__ import annotations

from registry.inspection.independence.nodes import Node, along, rule
from registry.inspection.independence.sizes import ONE
from registry.inspection.independence.values import Value, refuse


@rule("QuantizeLinear:28", "DequantizeLinear:28", note="one scale for all, or one for each place along another axis")
def quantize(node: Node) -> list[Value]:
    """Scale and zero point are constants."""
    value, scale = node.need(0), node.need(1)
    node.rest_constant(0)
    if node.attribute("block_size", 0):
        raise refuse("it has scales by blocks")
    if value.is_item and (scale.rank > 1 or any(size != ONE for size in scale.sizes)):
        if scale.rank != 1:
            raise refuse("its scale has more than one dimension")
        along(value, node.axis(value.rank, 1), "it has one scale for each row")
    return [value.moved(value.axis, value.shape)]


@rule(
    *("DynamicQuantizeLinear:11", "NonZero:13", "EyeLike:22", "ScatterND:18", "Compress:28", "Det:22"),
    note="of constants only",
)
def constants_only(node: Node) -> list[Value]:
    """Over items it would take them together, or count over the run."""
    node.rest_constant()
    raise refuse("its result is not worked out")
