"""Random ONNX graphs over the operators of the allow-list, with the traps that a careless proof would fall into.

Each node is kept only if ONNX Runtime runs the graph with one item, so that what is left is a model that somebody could
publish. Constants take shapes that fit one item and no more; axes, targets of Reshape and orders are drawn at random;
sizes are worked out by Shape, Gather, Concat and arithmetic. Branches are left out: ONNX Runtime 1.32 ends the process
on some whose condition is a constant.
"""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from random import Random
from typing import Any

import numpy as np
import onnx

from registry.inspection.independence.walk import examine
from tests.support.models import independence
from tests.support.models.graphs import Graph

Array = np.ndarray[Any, Any]
MAX_ELEMENTS = 400
FLOAT_UNARY = [
    *("Abs", "Relu", "Sigmoid", "Tanh", "Neg", "Exp", "Erf", "Softplus", "Floor", "Ceil", "Round", "Sign"),
    *("LeakyRelu", "Elu", "HardSigmoid", "Identity", "Selu", "Sin"),
]
BINARY = ["Add", "Sub", "Mul", "Max", "Min", "Mean", "Sum", "PRelu"]
REDUCE = ["ReduceMean", "ReduceMax", "ReduceMin", "ReduceL1", "ReduceL2", "ReduceSumSquare"]


class Made:
    """A graph that grows, and what its tensors are for one sample item."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.graph = Graph(random.choice([11, 12, 13, 15, 17, 18, 20, 21]))
        self.pool: dict[str, Array] = {}
        self._feeds: dict[str, Array] = {}
        for _ in range(random.choice([1, 1, 2])):
            rank = random.randint(0, 3)
            dims = [random.choice([1, 2, 3, 4]) for _ in range(rank)]
            name = self.graph.operand(",".join(map(str, ["N", *dims])))
            rng = np.random.default_rng(random.randint(0, 1 << 30))
            self._feeds[name] = rng.standard_normal((1, *dims)).astype(np.float32)
            self.pool[name] = self._feeds[name]

    def grow(self) -> None:
        """One more node, or none where what was drawn does not run."""
        before = len(self.graph.nodes), len(self.graph.constants)
        try:
            made = self.random.choice(_STEPS)(self)
            values = self._run(made) if made else []
        except Exception:  # noqa: BLE001 - what was drawn is no model
            values, made = [], []
        if not values or any(value.size > MAX_ELEMENTS or value.size == 0 for value in values):
            del self.graph.nodes[before[0] :], self.graph.constants[before[1] :]
            return
        self.pool.update(zip(made, values, strict=True))

    def model(self, *outputs: str) -> onnx.ModelProto:
        """Only what these need: ONNX Runtime runs a branch that nobody needs, and fails with it."""
        needed, kept = set(outputs), []
        for node in reversed(self.graph.nodes):
            if needed & set(node.output):
                kept.append(node)
                needed |= set(node.input)
        made = self.graph.model(*outputs)
        del made.graph.node[:]
        made.graph.node.extend(reversed(kept))
        return made

    def _run(self, names: list[str]) -> list[Array]:
        runs = independence.session(self.model(*names))
        given = {value.name for value in runs.get_inputs()}
        return list(runs.run(names, {name: value for name, value in self._feeds.items() if name in given}))

    def floats(self) -> str:
        """A tensor of floats, rather a young one."""
        names = [name for name, value in self.pool.items() if value.dtype == np.float32]
        return names[-1] if self.random.random() < 0.5 else self.random.choice(names)

    def integers(self, rank: int | None = 1) -> str:
        """A tensor of integers, of sizes for the most part. Raises IndexError: there is none."""
        names = [n for n, v in self.pool.items() if v.dtype == np.int64 and (rank is None or v.ndim == rank)]
        return self.random.choice(names)

    def constant(self, shape: Any) -> str:
        """Of floats."""
        rng = np.random.default_rng(self.random.randint(0, 1 << 30))
        return self.graph.operand(rng.standard_normal(shape).astype(np.float32))

    def ints(self, *numbers: int) -> str:
        """A vector."""
        return self.graph.operand(np.array(numbers, np.int64))

    def axis(self, value: Array, more: int = 0) -> int:
        """From either end."""
        rank = value.ndim + more
        return self.random.randint(-rank, rank - 1)

    def node(self, op: str, names: list[str], outputs: int = 1, **attributes: Any) -> list[str]:
        """Adds one."""
        return self.graph.node(op, names, [self.graph.name() for _ in range(outputs)], **attributes)


def _unary(made: Made) -> list[str]:
    return made.node(made.random.choice(FLOAT_UNARY), [made.floats()])


def _binary(made: Made) -> list[str]:
    one = made.floats()
    shape = list(made.pool[one].shape)
    for at in range(len(shape)):
        drawn = made.random.random()
        if drawn < 0.3:
            shape[at] = 1
        elif drawn < 0.36 and shape[at] == 1:
            shape[at] = made.random.choice([2, 3])
    shape = shape[made.random.randint(0, len(shape)) :] if made.random.random() < 0.5 else shape
    other = made.floats() if made.random.random() < 0.5 else made.constant(shape)
    names = [one, other] if made.random.random() < 0.7 else [other, one]
    return made.node(made.random.choice(BINARY), names)


def _where(made: Made) -> list[str]:
    one, other = made.floats(), made.floats()
    (test,) = made.node(made.random.choice(["Greater", "Less"]), [one, made.constant(())])
    return made.node("Where", [test, other, made.floats()])


def _reduce(made: Made) -> list[str]:
    op, name = made.random.choice(REDUCE), made.floats()
    rank = made.pool[name].ndim
    axes = made.random.sample(range(-rank, rank), made.random.randint(0, min(rank, 2)))
    words: dict[str, Any] = {"keepdims": made.random.randint(0, 1)}
    if made.graph.opset < 18:
        return made.node(op, [name], **words, **({"axes": axes} if axes else {}))
    if made.random.random() < 0.2:
        words["noop_with_empty_axes"] = 1
    return made.node(op, [name, made.ints(*axes)] if axes or made.random.random() < 0.5 else [name], **words)


def _normal(made: Made) -> list[str]:
    name = made.floats()
    op = made.random.choice(
        ["Softmax", "LogSoftmax", "LpNormalization", "Hardmax", "ArgMax", "CumSum", "LayerNormalization"]
    )
    axis = made.axis(made.pool[name])
    if op == "CumSum":
        return made.node(op, [name, made.graph.operand(np.array(axis, np.int64))])
    if op == "LayerNormalization":
        shape = made.pool[name].shape[axis:]
        return made.node(op, [name, made.constant(shape)], axis=axis)
    return made.node(op, [name], axis=axis)


def _turn(made: Made) -> list[str]:
    name = made.floats()
    order = list(range(made.pool[name].ndim))
    made.random.shuffle(order)
    return made.node("Transpose", [name], perm=order)


def _factors(random: Random, number: int, count: int) -> list[int]:
    found = [1] * count
    for prime in (2, 3):
        while number % prime == 0:
            number //= prime
            found[random.randrange(count)] *= prime
    found[random.randrange(count)] *= number
    return found


def _reshape(made: Made) -> list[str]:
    name = made.floats()
    value = made.pool[name]
    target = _factors(made.random, value.size, made.random.randint(1, 4))
    drawn = made.random.random()
    if drawn < 0.5:
        target[made.random.randrange(len(target))] = -1
    if drawn < 0.3 and -1 in target and target[0] != -1 and target[0] == value.shape[0]:
        target[0] = 0
    if drawn > 0.9:
        return made.node("Flatten", [name], axis=made.axis(value))
    return made.node("Reshape", [name, made.ints(*target)])


def _reshape_by_sizes(made: Made) -> list[str]:
    name = made.floats()
    value = made.pool[name]
    (sizes,) = made.node("Shape", [name if made.random.random() < 0.8 else made.floats()])
    (first,) = made.node("Gather", [sizes, made.ints(made.random.randrange(value.ndim))])
    rest = _factors(made.random, value.size, made.random.randint(1, 3))
    if made.random.random() < 0.7:
        rest[made.random.randrange(len(rest))] = -1
    at = made.random.randint(0, len(rest))
    parts = [made.ints(*rest[:at])] if at else []
    parts += [first, *([made.ints(*rest[at:])] if at < len(rest) else [])]
    if made.random.random() < 0.3:
        (first,) = made.node("Mul", [first, made.ints(rest[0])])
    (target,) = made.node("Concat", parts, axis=0)
    return made.node("Reshape", [name, target])


def _squeeze(made: Made) -> list[str]:
    name = made.floats()
    value = made.pool[name]
    if made.random.random() < 0.5:
        axes = [made.random.randint(0, value.ndim)]
        return _with_axes(made, "Unsqueeze", name, axes)
    axes = [at for at, size in enumerate(value.shape) if size == 1]
    chosen = made.random.sample(axes, made.random.randint(0, len(axes)))
    return _with_axes(made, "Squeeze", name, chosen) if chosen else made.node("Squeeze", [name])


def _with_axes(made: Made, op: str, name: str, axes: list[int]) -> list[str]:
    if made.graph.opset < 13:
        return made.node(op, [name], axes=axes)
    return made.node(op, [name, made.ints(*axes)])


def _gather(made: Made, name: str, axis: int, size: int) -> list[str]:
    index = np.array(made.random.choice([0, size - 1, -1]), np.int64)
    where = made.graph.operand(index.reshape((1,) * made.random.randint(0, 1)))
    return made.node("Gather", [name, where], axis=axis)


def _slice(made: Made, name: str, axis: int, size: int) -> list[str]:
    draw = made.random.choice
    bounds = [made.ints(draw([0, 0, 1, -1])), made.ints(draw([2**63 - 1, size, 1, -1]))]
    return made.node("Slice", [name, *bounds, made.ints(axis), made.ints(draw([1, 1, 1, -1]))])


def _split(made: Made, name: str, axis: int, _size: int) -> list[str]:
    return made.node("Split", [name], 2, axis=axis, **({"num_outputs": 2} if made.graph.opset >= 18 else {}))


def _pad(made: Made, name: str, _axis: int, _size: int) -> list[str]:
    pads = [0] * 2 * made.pool[name].ndim
    pads[made.random.randrange(len(pads))] = 1
    return made.node("Pad", [name, made.ints(*pads)], mode=made.random.choice(["constant", "edge", "reflect"]))


def _top_k(made: Made, name: str, axis: int, size: int) -> list[str]:
    return made.node("TopK", [name, made.ints(1 + (size > 1))], 2, axis=axis)


def _tile(made: Made, name: str, axis: int, _size: int) -> list[str]:
    repeats = [1] * made.pool[name].ndim
    repeats[axis] = made.random.choice([1, 2])
    return made.node("Tile", [name, made.ints(*repeats)])


def _concat(made: Made, name: str, axis: int, _size: int) -> list[str]:
    return made.node("Concat", [name, made.floats()], axis=axis)


def _expand(made: Made, name: str, _axis: int, _size: int) -> list[str]:
    sizes = made.pool[name].shape
    return made.node(
        "Expand", [name, made.ints(*(made.random.choice([1, 2]) if size == 1 else size for size in sizes))]
    )


def _elements(made: Made, name: str, axis: int, _size: int) -> list[str]:
    (order,) = made.node("ArgMax", [name], axis=made.axis(made.pool[name]))
    return made.node("GatherElements", [name, order], axis=axis)


def _parts(made: Made) -> list[str]:
    name = made.floats()
    axis = made.axis(made.pool[name])
    how = made.random.choice([_gather, _slice, _split, _pad, _top_k, _tile, _concat, _expand, _elements])
    return how(made, name, axis, made.pool[name].shape[axis])


def _product(made: Made) -> list[str]:
    one = made.floats()
    value = made.pool[one]
    drawn = made.random.random()
    if drawn < 0.25 and value.ndim == 2:
        turn = made.random.randint(0, 1)
        inner, outer = value.shape[1 - turn], value.shape[turn]
        bias = made.constant(made.random.choice([(2,), (1, 2), (1,), (outer, 2), (outer, 1)]))
        return made.node("Gemm", [one, made.constant((inner, 2)), bias], transA=turn)
    if drawn < 0.6:
        lead = value.shape[:-2] if made.random.random() < 0.3 else ()
        other = made.constant((*lead, value.shape[-1], 2))
        return made.node("MatMul", [one, other])
    if drawn < 0.75 and value.ndim >= 2:
        return made.node("MatMul", [made.constant((2, value.shape[-2])), one])
    if drawn < 0.85:
        letters = "abcd"[: value.ndim]
        keep = [letter for letter in letters if made.random.random() < 0.8]
        made.random.shuffle(keep)
        if made.graph.opset >= 12:
            return made.node("Einsum", [one, one], equation=f"{letters},{letters}->{''.join(keep)}")
    return made.node("MatMul", [one, made.floats()])


def _picture(made: Made) -> list[str]:
    names = [name for name, value in made.pool.items() if value.dtype == np.float32 and value.ndim >= 3]
    name = made.random.choice(names)
    value = made.pool[name]
    channels, spatial = value.shape[1], value.ndim - 2
    op = made.random.choice(
        [
            "Conv",
            "MaxPool",
            "AveragePool",
            "GlobalAveragePool",
            "BatchNormalization",
            "InstanceNormalization",
            "LRN",
            "Resize",
        ]
    )
    if op == "Conv":
        kernel = made.random.choice([1, 3])
        weight = made.constant((2, channels, *[kernel] * spatial))
        return made.node(
            op, [name, weight], pads=[kernel // 2] * 2 * spatial, strides=[made.random.choice([1, 2])] * spatial
        )
    if op in ("MaxPool", "AveragePool"):
        kernel = made.random.choice([1, 2])
        return made.node(op, [name], kernel_shape=[kernel] * spatial, strides=[made.random.choice([1, 2])] * spatial)
    if op == "BatchNormalization":
        return made.node(op, [name, *(made.graph.operand(np.full(channels, 0.7, np.float32)) for _ in range(4))])
    if op == "InstanceNormalization":
        return made.node(op, [name, made.constant((channels,)), made.constant((channels,))])
    if op == "LRN":
        return made.node(op, [name], size=3)
    if op == "Resize":
        scales = np.ones(value.ndim, np.float32)
        scales[made.random.randrange(value.ndim)] = made.random.choice([1, 2])
        return made.node(op, [name, "", made.graph.operand(scales)], mode=made.random.choice(["nearest", "linear"]))
    return made.node(op, [name])


def _sizes(made: Made) -> list[str]:
    """Shapes and arithmetic on them."""
    drawn = made.random.random()
    if drawn < 0.4:
        return made.node("Shape", [made.floats()])
    if drawn < 0.5:
        return made.node("Size", [made.floats()])
    name = made.integers()
    length = made.pool[name].shape[0]
    if drawn < 0.65:
        return made.node("Gather", [name, made.ints(made.random.randrange(length))])
    if drawn < 0.8:
        return made.node(
            made.random.choice(["Add", "Mul", "Div", "Sub", "Max"]), [name, made.ints(made.random.choice([1, 2, 3]))]
        )
    return made.node("Concat", [name, made.integers()], axis=0)


def _use_sizes(made: Made) -> list[str]:
    """Sizes as sizes, or as data: the trap."""
    name = made.integers(None)
    drawn = made.random.random()
    if drawn < 0.3:
        (number,) = made.node("Cast", [name], to=1)
        return made.node("Mul", [made.floats(), number])
    if drawn < 0.5:
        return made.node("ConstantOfShape", [name], value=onnx.numpy_helper.from_array(np.array([0.5], np.float32)))
    if drawn < 0.7:
        return made.node("Expand", [made.floats(), name])
    if drawn < 0.85:
        return made.node("Reshape", [made.floats(), name])
    return made.node("Tile", [made.floats(), name])


def _table(made: Made) -> list[str]:
    """Rows of a table by what stands largest in the items."""
    name = made.floats()
    value = made.pool[name]
    (index,) = made.node("ArgMax", [name], axis=made.axis(value), keepdims=made.random.randint(0, 1))
    return made.node("Gather", [made.constant((8, 2)), index], axis=0)


def _quantised(made: Made) -> list[str]:
    name = made.floats()
    value = made.pool[name]
    axis = made.axis(value)
    per_axis = made.random.random() < 0.4 and made.graph.opset >= 13
    shape = (value.shape[axis],) if per_axis else ()
    scale, zero = np.full(shape, 0.05, np.float32), np.zeros(shape, np.uint8)
    if made.random.random() < 0.2:
        (bits, scale_name, point) = made.node("DynamicQuantizeLinear", [name], 3)
        return made.node("DequantizeLinear", [bits, scale_name, point])
    words = {"axis": axis} if per_axis else {}
    operands = [made.graph.operand(scale), made.graph.operand(zero)]
    (bits,) = made.node("QuantizeLinear", [name, *operands], **words)
    return made.node("DequantizeLinear", [bits, *operands], **words)


def _recurrent(made: Made) -> list[str]:
    names = [name for name, value in made.pool.items() if value.dtype == np.float32 and value.ndim == 3]
    name = made.random.choice(names)
    op, gates = made.random.choice([("LSTM", 4), ("GRU", 3), ("RNN", 1)])
    width = made.pool[name].shape[2]
    weights = made.constant((1, gates * 2, width)), made.constant((1, gates * 2, 2))
    return made.node(op, [name, *weights], 2, hidden_size=2)


_STEPS = [
    *[_unary, _binary, _binary, _where, _reduce, _reduce, _normal, _normal, _turn, _turn, _reshape, _reshape],
    *[_reshape_by_sizes, _squeeze, _parts, _parts, _parts, _product, _product, _picture, _picture, _sizes, _sizes],
    *[_use_sizes, _use_sizes, _table, _quantised, _recurrent],
]


def fault_of(seed: int) -> tuple[str, Counter[str]]:
    """What ONNX Runtime says against the proofs of the graph that `seed` makes, and how many there were."""
    random, seen = Random(seed), Counter[str]()
    made = Made(random)
    for _ in range(random.randint(3, 14)):
        made.grow()
    outputs = []
    for name in made.pool:
        independent = examine(made.model(name)).independent
        seen["proven" if independent else "refused"] += 1
        outputs += [name] if independent else []
    if not outputs:
        return "", seen
    runs = independence.session(made.model(*outputs))
    items = independence.random_items(runs, np.random.default_rng(seed))
    return independence.disagreement(runs, items, [[0, 1], [2, 0, 1], [3, 2, 1, 0], [1, 1]]), seen


def main() -> None:
    """`python -m tests.support.models.random_graphs FIRST LAST`: a hundred a process, which ONNX Runtime may end."""
    first, last, chunk = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:] == ["chunk"]
    if not chunk:
        for start in range(first, last, 100):
            argv = [
                sys.executable,
                "-m",
                "tests.support.models.random_graphs",
                str(start),
                str(min(start + 100, last)),
                "chunk",
            ]
            code = subprocess.run(argv, check=False).returncode
            if code < 0:
                sys.stdout.write(f"{start}: the runtime ended the process by signal {-code}\n")
        return
    total = Counter[str]()
    for seed in range(first, last):
        fault, seen = fault_of(seed)
        total += seen
        if fault:
            sys.stdout.write(f"seed {seed}: {fault}\n")
    sys.stdout.write(f"{first} to {last}: {dict(total)}\n")


if __name__ == "__main__":
    main()
