"""Operators on [items, channels, height, width]: convolution, pooling, normalisation, resizing."""

from __future__ import annotations

from math import ceil, floor
from typing import Any

from registry.inspection.independence.nodes import (
    ONE,
    Node,
    Shape,
    Size,
    Value,
    certain,
    fresh,
    place,
    refuse_if,
    rule,
)


def _picture(node: Node, *items: int) -> Value:
    """The first input, whose items lie along axis 0; all others but `items` are constants."""
    value = node.only(*items)
    refuse_if(value.axis not in (None, 0), "the items do not lie along its first axis")
    refuse_if(value.is_item and value.rank < 3, "it has no spatial dimensions")
    return value


@rule("Conv:22", "ConvInteger:10", note="the items lie along axis 0; weights are constants")
def conv(node: Node) -> list[Value]:
    """Of each item by itself."""
    value = _picture(node)
    return [_convolved(node, value, node.need(1))]


@rule(
    "QLinearConv:10", note="as Conv; scales and zero points are constants of one element, or one for each channel out"
)
def qlinear_conv(node: Node) -> list[Value]:
    """x, its scale and zero point; w, its; the result's; bias."""
    return [_convolved(node, _picture(node), node.need(3))]


def _convolved(node: Node, value: Value, weights: Value) -> Value:

    kernel = node.attribute("kernel_shape") or [size.number for size in weights.sizes[2:]]
    return Value((value.sizes[0], weights.sizes[0], *_slid(node, value.sizes[2:], kernel)), value.axis)


@rule("ConvTranspose:22", note="the items lie along axis 0; weights are constants")
def conv_transpose(node: Node) -> list[Value]:
    """Of each item by itself. Its sizes are not worked out."""
    value = _picture(node)
    groups, channels = int(node.attribute("group", 1)), node.need(1).sizes[1].number
    out = fresh() if channels is None else Size(groups * channels)
    return [Value((value.sizes[0], out, *(fresh() for _ in value.sizes[2:])), value.axis)]


@rule("MaxPool:22", "AveragePool:22", "LpPool:22", note="the items lie along axis 0; MaxPool's indices are not used")
def pool(node: Node) -> list[Value]:
    """Of each item by itself; indices count over the whole run."""
    value = _picture(node)
    refuse_if(len(node.used) > 1 and node.used[1] and value.is_item, "its indices count over the whole run")
    made = Value((*value.sizes[:2], *_slid(node, value.sizes[2:], node.attribute("kernel_shape") or [])), value.axis)
    return [made] * node.outputs


@rule("GlobalAveragePool:22", "GlobalMaxPool:22", "GlobalLpPool:22", note="the items lie along axis 0")
def global_pool(node: Node) -> list[Value]:
    """One number for each channel."""
    value = _picture(node)
    return [Value((*value.sizes[:2], *[ONE] * (value.rank - 2)), value.axis)]


def _slid(node: Node, sizes: Shape, kernel: list[Any]) -> list[Size]:
    """Spatial sizes behind a window; fresh ones where anything is not known."""
    count = len(sizes)
    strides = node.attribute("strides") or [1] * count
    dilations = node.attribute("dilations") or [1] * count
    pads = node.attribute("pads") or [0] * 2 * count
    how = str(node.attribute("auto_pad", "NOTSET"))
    refuse_if(
        len(kernel) != count or len(strides) != count or len(dilations) != count or len(pads) != 2 * count,
        "its window does not fit",
    )
    found = []
    for at, size in enumerate(sizes):
        number, width = size.number, kernel[at]
        if number is None or width is None or strides[at] < 1:
            found.append(fresh())
            continue
        reach = dilations[at] * (width - 1) + 1
        if how in ("SAME_UPPER", "SAME_LOWER"):
            found.append(Size(-(-number // strides[at])))
            continue
        padded = number + (pads[at] + pads[at + count] if how == "NOTSET" else 0)
        steps = (padded - reach) / strides[at]
        if node.attribute("ceil_mode", 0):
            # Whether a last window that begins in the padding counts differs between versions.
            found.append(fresh() if steps != int(steps) else Size(int(steps) + 1))
        else:
            found.append(Size(floor(steps) + 1))
    return found


@rule("BatchNormalization:15", note="not in training mode; the items lie along axis 0", first=6)
def batch_normalization(node: Node) -> list[Value]:
    """With the statistics of the training, which are constants."""
    value = node.only()
    refuse_if(
        node.attribute("training_mode", 0) or node.outputs > 1 or (node.opset < 7 and not node.attribute("is_test", 0)),
        "it is in training mode: it takes its statistics over the whole run",
    )
    refuse_if(value.axis not in (None, 0), "the items do not lie along its first axis")
    refuse_if(value.is_item and value.rank < 2, "its input has no channels")
    return [value.moved(value.axis, value.shape)]


@rule("InstanceNormalization:22", "GroupNormalization:21", "LRN:13", note="the items lie along axis 0")
def normalization(node: Node) -> list[Value]:
    """Over channels or places of each item by itself."""
    value = _picture(node)
    return [value.moved(value.axis, value.shape)]


@rule("DepthToSpace:28", "SpaceToDepth:28", note="the items lie along axis 0")
def depth_and_space(node: Node) -> list[Value]:
    """Blocks of places to channels, or back."""
    value = _picture(node)
    block = int(node.attribute("blocksize", 1))
    refuse_if(block < 1 or value.rank != 4, "its block does not fit")
    items, channels, *places = value.sizes
    if node.op == "SpaceToDepth":
        smaller = [size.over(Size(block)) or fresh() for size in places]
        return [Value((items, channels.times(Size(block * block)), *smaller), value.axis)]
    fewer = channels.over(Size(block * block)) or fresh()
    return [Value((items, fewer, *(size.times(Size(block)) for size in places)), value.axis)]


_RESIZE = (
    "the scale along the items is 1, or their size stays; mode nearest, or at least four axes with the items first"
)


@rule("Resize:19", "Upsample:10", first=7, note=_RESIZE, shapes=True)
def resize(node: Node) -> list[Value]:
    """Other sizes; places in between are interpolated along every axis.

    Along an axis of scale 1 the neighbour counts 0 times: an infinity or NaN in it goes on. ONNX Runtime leaves the
    first axis out from four axes on.
    """
    value = node.need(0)
    refuse_if(value.holds_batch, "the number of items is used as data")
    node.rest_constant(0)
    _resizes_axis_by_axis(node)
    refuse_if(
        value.is_item and node.attribute("mode", "nearest") != "nearest" and (value.rank < 4 or value.axis != 0),
        "it interpolates along the axis of the items",
    )
    axes = [place(int(axis), value.rank) for axis in node.attribute("axes") or range(value.rank)]
    sizes, scales = node.input(3), _scales(node)
    if sizes is not None and sizes.shape != (Size(0),):
        wanted = certain(sizes.elements, "its sizes are not known")
        refuse_if(len(wanted) != len(axes), "its sizes are not known")
        new = dict(zip(axes, wanted, strict=True))
        refuse_if(
            value.axis in new and new[value.axis] != value.sizes[value.axis or 0],
            "it changes the number of rows of the run",
        )
        made = [fresh() if size is None else size for size in (new.get(at, old) for at, old in enumerate(value.sizes))]
        refuse_if(
            any(size.holds_batch for at, size in enumerate(made) if at != value.axis),
            "it gives another axis the number of items",
        )
        return [Value(tuple(made), value.axis)]
    scales = certain(scales, "its scales are not known")
    refuse_if(len(scales) != len(axes), "its scales are not known")
    found = list(value.sizes)
    for axis, scale in zip(axes, scales, strict=True):
        refuse_if(axis == value.axis and scale != 1.0, "it changes the number of rows of the run")
        number = found[axis].number
        if scale != 1.0:
            exact = number is not None and scale == ceil(scale) and scale > 0
            found[axis] = Size(int((number or 0) * scale)) if exact else fresh()
    return [Value(tuple(found), value.axis)]


def _resizes_axis_by_axis(node: Node) -> None:
    """And leaves an axis of scale 1 as it is. Raises NotIndependentError."""
    how = node.attribute("coordinate_transformation_mode", "")
    refuse_if(how == "tf_crop_and_resize", "it crops by a region of interest")
    refuse_if(how == "tf_half_pixel_for_nn", "it moves places by half a place, along axes of scale 1 too")
    refuse_if(
        node.attribute("keep_aspect_ratio_policy", "stretch") != "stretch", "it keeps an aspect ratio over all axes"
    )


def _scales(node: Node) -> list[float] | None:
    if node.op == "Upsample" and node.opset < 9:
        return [float(scale) for scale in node.attribute("scales", ())]
    index = 1 if node.op == "Upsample" or node.opset < 11 else 2
    return node.floats(index)


@rule("GridSample:22", note="the items lie along axis 0 of both inputs")
def grid_sample(node: Node) -> list[Value]:
    """Looks up in each picture by its own grid."""
    value, grid = _picture(node, 1), node.need(1)
    refuse_if(
        grid.axis != value.axis or (value.is_item and grid.sizes[0] != value.sizes[0]),
        "what goes in does not hold the same items",
    )
    return [Value((*value.sizes[:2], *grid.sizes[1:-1]), value.axis)]
