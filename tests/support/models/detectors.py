"""Detectors that are computable: each finds the red rectangle of a picture, and says so as an exporter's models do.

`cat` and `dog` are its classes, and the rectangle is a dog, with the score 0.9. Where the device is to suppress boxes,
a second box beside the first one has the score 0.8.
"""

from __future__ import annotations

from pathlib import Path

import onnx
import onnx.parser

LABELS = ("cat", "dog")
SCORE, SECOND = 0.9, 0.8
_FOUND = """
    zero = Constant<value = int64 {0}>()
    one = Constant<value = int64 {1}>()
    half = Constant<value = float {0.5}>()
    unit = Constant<value = float {1.0}>()
    red = Gather<axis = 1>(pixels, zero)
    green = Gather<axis = 1>(pixels, one)
    is_red = Greater(red, half)
    is_green = Less(green, half)
    both = And(is_red, is_green)
    mask = Cast<to = 1>(both)
    columns = ReduceMax<axes = [1], keepdims = 0>(mask)
    rows = ReduceMax<axes = [2], keepdims = 0>(mask)
    left_ = ArgMax<axis = 1, keepdims = 1>(columns)
    top_ = ArgMax<axis = 1, keepdims = 1>(rows)
    right_ = ArgMax<axis = 1, keepdims = 1, select_last_index = 1>(columns)
    bottom_ = ArgMax<axis = 1, keepdims = 1, select_last_index = 1>(rows)
    left = Cast<to = 1>(left_)
    top = Cast<to = 1>(top_)
    right__ = Cast<to = 1>(right_)
    bottom__ = Cast<to = 1>(bottom_)
    right = Add(right__, unit)
    bottom = Add(bottom__, unit)
    any = ReduceMax<axes = [1], keepdims = 1>(columns)
    best = Constant<value = float {0.9}>()
    next = Constant<value = float {0.8}>()
    nothing = Constant<value = float {0.0}>()
    score = Mul(any, best)
    second = Mul(any, next)
    none = Mul(any, nothing)
    width = Sub(right, left)
    height = Sub(bottom, top)
    half_width = Mul(width, half)
    half_height = Mul(height, half)
    middle_x = Add(left, half_width)
    middle_y = Add(top, half_height)
    beside = Add(middle_x, half)
"""
"""From `pixels` [n, 3, height, width], 0 to 1, to the rectangle's edges and scores, [n, 1] each."""
_TENSORFLOW = (
    "float[1, 2, 4] detection_boxes, float[1, 2] detection_scores, float[1, 2] detection_classes, "
    "float[1] num_detections"
)
_MODELS: dict[str, tuple[str, str, str]] = {
    "yolov8": (
        "float[n, 3, SIDE, SIDE] x",
        "float[n, 6, 3] output0",
        """
    pixels = Identity(x)
    FOUND
    first = Concat<axis = 1>(middle_x, middle_y, width, height, none, score)
    other = Concat<axis = 1>(beside, middle_y, width, height, none, second)
    empty = Mul(first, nothing)
    axes2 = Constant<value = int64[1] {2}>()
    a = Unsqueeze(first, axes2)
    b = Unsqueeze(other, axes2)
    c = Unsqueeze(empty, axes2)
    output0 = Concat<axis = 2>(a, b, c)
""",
    ),
    "yolov5": (
        "float[1, 3, SIDE, SIDE] x",
        "float[1, 2, 7] output0",
        """
    pixels = Identity(x)
    FOUND
    first = Concat<axis = 1>(middle_x, middle_y, width, height, score, none, any)
    other = Concat<axis = 1>(beside, middle_y, width, height, any, none, second)
    axes1 = Constant<value = int64[1] {1}>()
    a = Unsqueeze(first, axes1)
    b = Unsqueeze(other, axes1)
    output0 = Concat<axis = 1>(a, b)
""",
    ),
    "yolo-end-to-end": (
        "float[1, 3, SIDE, SIDE] x",
        "float[1, 2, 6] output0",
        """
    pixels = Identity(x)
    FOUND
    first = Concat<axis = 1>(left, top, right, bottom, score, any)
    empty = Mul(first, nothing)
    axes1 = Constant<value = int64[1] {1}>()
    a = Unsqueeze(first, axes1)
    b = Unsqueeze(empty, axes1)
    output0 = Concat<axis = 1>(a, b)
""",
    ),
    "torchvision": (
        "float[3, SIDE, SIDE] x",
        "float[found, 4] boxes, int64[found] labels, float[found] scores",
        """
    axes0 = Constant<value = int64[1] {0}>()
    pixels = Unsqueeze(x, axes0)
    FOUND
    every = Concat<axis = 1>(left, top, right, bottom)
    flat = Constant<value = int64[1] {-1}>()
    there_ = Reshape(any, flat)
    there = Cast<to = 9>(there_)
    boxes = Compress<axis = 0>(every, there)
    scored = Reshape(score, flat)
    scores = Compress<axis = 0>(scored, there)
    number = Constant<value = int64[1] {2}>()
    labels = Compress<axis = 0>(number, there)
""",
    ),
    "tensorflow": (
        "uint8[1, SIDE, SIDE, 3] x",
        _TENSORFLOW,
        """
    planes = Transpose<perm = [0, 3, 1, 2]>(x)
    number = Cast<to = 1>(planes)
    white = Constant<value = float {255.0}>()
    pixels = Div(number, white)
    FOUND
    side = Constant<value = float {SIDE.0}>()
    corners = Concat<axis = 1>(top, left, bottom, right)
    share = Div(corners, side)
    filling = Add(share, unit)
    axes1 = Constant<value = int64[1] {1}>()
    a = Unsqueeze(share, axes1)
    b = Unsqueeze(filling, axes1)
    detection_boxes = Concat<axis = 1>(a, b)
    sure = Add(none, unit)
    detection_scores = Concat<axis = 1>(score, sure)
    class = Add(sure, any)
    detection_classes = Concat<axis = 1>(class, sure)
    flat = Constant<value = int64[1] {-1}>()
    num_detections = Reshape(any, flat)
""",
    ),
    "detr": (
        "float[1, 3, SIDE, SIDE] x",
        "float[1, 2, 3] logits, float[1, 2, 4] pred_boxes",
        """
    pixels = Identity(x)
    FOUND
    side = Constant<value = float {SIDE.0}>()
    centre = Concat<axis = 1>(middle_x, middle_y, width, height)
    share = Div(centre, side)
    axes1 = Constant<value = int64[1] {1}>()
    a = Unsqueeze(share, axes1)
    pred_boxes = Concat<axis = 1>(a, a)
    small = Constant<value = float {0.0001}>()
    dog = Add(score, small)
    cat = Add(none, small)
    object = Add(dog, cat)
    rest_ = Sub(unit, object)
    rest = Add(rest_, small)
    shares = Concat<axis = 1>(cat, dog, rest)
    sure = Add(none, unit)
    empty = Concat<axis = 1>(cat, cat, sure)
    first_ = Log(shares)
    second_ = Log(empty)
    c = Unsqueeze(first_, axes1)
    d = Unsqueeze(second_, axes1)
    logits = Concat<axis = 1>(c, d)
""",
    ),
    "rt-detr": (
        "float[1, 3, SIDE, SIDE] x",
        "float[1, 1, 2] logits, float[1, 1, 4] pred_boxes",
        """
    pixels = Identity(x)
    FOUND
    side = Constant<value = float {SIDE.0}>()
    centre = Concat<axis = 1>(middle_x, middle_y, width, height)
    share = Div(centre, side)
    axes1 = Constant<value = int64[1] {1}>()
    pred_boxes = Unsqueeze(share, axes1)
    small = Constant<value = float {0.0001}>()
    dog = Add(score, small)
    cat = Add(none, small)
    shares = Concat<axis = 1>(cat, dog)
    others = Sub(unit, shares)
    odds = Div(shares, others)
    flat = Log(odds)
    logits = Unsqueeze(flat, axes1)
""",
    ),
    "nms": (
        "float[1, 3, SIDE, SIDE] x",
        "float[1, 2, 4] boxes, float[1, 2, 2] scores, int64[found, 3] selected",
        """
    pixels = Identity(x)
    FOUND
    first = Concat<axis = 1>(top, left, bottom, right)
    moved = Concat<axis = 1>(top, left, bottom, right__)
    axes1 = Constant<value = int64[1] {1}>()
    a = Unsqueeze(first, axes1)
    b = Unsqueeze(moved, axes1)
    boxes = Concat<axis = 1>(a, b)
    cats = Concat<axis = 1>(none, none)
    dogs = Concat<axis = 1>(score, second)
    c = Unsqueeze(cats, axes1)
    d = Unsqueeze(dogs, axes1)
    scores = Concat<axis = 1>(c, d)
    most = Constant<value = int64[1] {10}>()
    overlap = Constant<value = float[1] {0.5}>()
    least = Constant<value = float[1] {0.1}>()
    selected = NonMaxSuppression(boxes, scores, most, overlap, least)
""",
    ),
    "no-batch-behind": (
        "float[3, SIDE, SIDE, n] x",
        "float[1, 2, 6] output0",
        """
    pixels = Transpose<perm = [3, 0, 1, 2]>(x)
    FOUND
    first = Concat<axis = 1>(left, top, right, bottom, score, any)
    empty = Mul(first, nothing)
    axes1 = Constant<value = int64[1] {1}>()
    a = Unsqueeze(first, axes1)
    b = Unsqueeze(empty, axes1)
    output0 = Concat<axis = 1>(a, b)
""",
    ),
}
LAYOUTS = tuple(_MODELS)


def detector(layout: str, side: int) -> onnx.ModelProto:
    """A model for pictures of `side` times `side` pixels."""
    takes, gives, body = _MODELS[layout]
    text = f"detector ({takes}) => ({gives}) {{{body.replace('FOUND', _FOUND)}}}".replace("SIDE", str(side))
    model: onnx.ModelProto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> {text}')
    onnx.checker.check_model(model)
    return model


def publish_file(folder: Path, name: str, layout: str, side: int, *, image: str = "", more: str = "") -> Path:
    """A publish file of the detector, and the model beside it."""
    onnx.save(detector(layout, side), folder / f"{name}.onnx")
    said = {
        "nms": 'boxes = {output = "boxes"}\nscores = {output = "scores", transposed = true}\nselected = "selected"\n'
        'format = "yxyx"\nnms = "graph"',
        "no-batch-behind": 'layout = "yolo-end-to-end"',
    }.get(layout, f'layout = "{layout}"')
    scale = 'scale = 1\nlayout = "NHWC"' if layout == "tensorflow" else ""
    file = folder / f"{name}.toml"
    file.write_text(
        f'model = "{name}"\nversion = "1"\n[[variant]]\nfile = "{name}.onnx"\ntarget = "cpu"\n{more}\n'
        f'[image]\ninput = "x"\nheight = {side}\nwidth = {side}\n{scale}\n{image}\n'
        f'[detection]\n{said}\nlabels = ["cat", "dog"]\n'
    )
    return file
