"""Networks as exporters write them: shapes worked out in nodes, normalisation and GELU in pieces, random weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx

from tests.support.models.graphs import Graph

f32, i64 = np.float32, np.int64
RNG = np.random.default_rng(7)


def weights(*shape: int) -> Any:
    """At random, of the usual scale."""
    return (RNG.standard_normal(shape) / np.sqrt(max(1, np.prod(shape[1:])))).astype(f32)


def ints(*numbers: int) -> Any:
    """A vector of INT64."""
    return np.array(numbers, i64)


def size_of(g: Graph, x: str, axis: int) -> str:
    """Shape -> Gather -> Unsqueeze: one size as a vector, as torch.onnx writes it."""
    return g("Unsqueeze", g("Gather", g("Shape", x), np.array(axis, i64), axis=0), ints(0))


def mlp() -> onnx.ModelProto:
    """Gemm, BatchNormalization, Relu, twice; then Softmax."""
    g = Graph(17)
    x = "@" + g.operand("N,16")
    for width_in, width in ((16, 32), (32, 24)):
        x = g("Gemm", x, weights(width, width_in), weights(width), transB=1)
        x = g("BatchNormalization", x, *[np.abs(weights(width)) + 0.5 for _ in range(4)])
        x = g("Relu", x)
    return g.model(g("Softmax", g("Gemm", x, weights(10, 24), weights(10), transB=1), axis=-1))


def dense_of_tensorflow() -> onnx.ModelProto:
    """NHWC in, Transpose, a convolution, the mean over places, MatMul and Add."""
    g = Graph(15)
    x = g("Transpose", "N,8,8,3", perm=[0, 3, 1, 2])
    x = g("Relu", g("Conv", x, weights(6, 3, 3, 3), strides=[2, 2], auto_pad="SAME_UPPER"))
    x = g("ReduceMean", g("Transpose", x, perm=[0, 2, 3, 1]), axes=[1, 2], keepdims=0)
    return g.model(g("Add", g("MatMul", x, weights(6, 5)), weights(5)))


def resnet() -> onnx.ModelProto:
    """A stem, two residual blocks, one of them with a projection, and a classifier."""
    g = Graph(17)

    def conv(x: str, channels_in: int, channels: int, stride: int = 1, kernel: int = 3) -> str:
        pads = [kernel // 2] * 4
        x = g("Conv", x, weights(channels, channels_in, kernel, kernel), strides=[stride] * 2, pads=pads)
        return g("BatchNormalization", x, *[np.abs(weights(channels)) + 0.5 for _ in range(4)])

    x = "@" + g.operand("N,3,32,32")
    x = g("MaxPool", g("Relu", conv(x, 3, 8, 2, 7)), kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    same = conv(g("Relu", conv(x, 8, 8)), 8, 8)
    x = g("Relu", g("Add", same, x))
    down = conv(g("Relu", conv(x, 8, 16, 2)), 16, 16)
    x = g("Relu", g("Add", down, conv(x, 8, 16, 2, 1)))
    x = g("Flatten", g("GlobalAveragePool", x), axis=1)
    return g.model(g("Gemm", x, weights(10, 16), weights(10), transB=1))


def mobilenet() -> onnx.ModelProto:
    """Depthwise convolutions, Clip, squeeze and excitation, HardSwish, a Reshape by the batch size."""
    g = Graph(17)
    x = "@" + g.operand("N,3,16,16")
    x = g("Conv", x, weights(8, 3, 3, 3), weights(8), strides=[2, 2], pads=[1, 1, 1, 1])
    x = g("Clip", x, np.array(0, f32), np.array(6, f32))
    wide = g("HardSwish", g("Conv", x, weights(16, 8, 1, 1), weights(16)))
    wide = g("Conv", wide, weights(16, 1, 3, 3), weights(16), group=16, pads=[1, 1, 1, 1])
    scale = g("ReduceMean", wide, axes=[2, 3], keepdims=1)
    scale = g("HardSigmoid", g("Conv", scale, weights(16, 16, 1, 1), weights(16)), alpha=1 / 6)
    x = g("Add", x, g("Conv", g("Mul", wide, scale), weights(8, 16, 1, 1), weights(8)))
    x = g("GlobalAveragePool", x)
    x = g("Reshape", x, g("Concat", size_of(g, x, 0), ints(-1), axis=0))
    return g.model(g("Gemm", x, weights(10, 8), weights(10), transB=1))


def layer_norm(g: Graph, x: str, width: int) -> str:
    """In pieces: ReduceMean, Sub, Pow, ReduceMean, Add, Sqrt, Div, Mul, Add."""
    centred = g("Sub", x, g("ReduceMean", x, axes=[-1]))
    variance = g("ReduceMean", g("Pow", centred, np.array(2, f32)), axes=[-1])
    x = g("Div", centred, g("Sqrt", g("Add", variance, np.array(1e-5, f32))))
    return g("Add", g("Mul", x, weights(width)), weights(width))


def gelu(g: Graph, x: str) -> str:
    """x * (1 + erf(x / sqrt 2)) / 2."""
    one = g("Add", g("Erf", g("Div", x, np.array(2**0.5, f32))), np.array(1, f32))
    return g("Mul", g("Mul", x, one), np.array(0.5, f32))


def attention(g: Graph, x: str, width: int, heads: int, mask: str | None) -> str:
    """Reshape by Shape, Transpose, MatMul, Softmax, and back."""
    depth = width // heads

    def split(x: str, order: list[int]) -> str:
        shape = g("Concat", size_of(g, x, 0), size_of(g, x, 1), ints(heads), ints(depth), axis=0)
        return g("Transpose", g("Reshape", x, shape), perm=order)

    def dense() -> str:
        return g("Add", g("MatMul", x, weights(width, width)), weights(width))

    scores = g("MatMul", split(dense(), [0, 2, 1, 3]), split(dense(), [0, 2, 3, 1]))
    scores = g("Div", scores, np.array(depth**0.5, f32))
    scores = scores if mask is None else g("Add", scores, mask)
    mixed = g("Transpose", g("MatMul", g("Softmax", scores, axis=-1), split(dense(), [0, 2, 1, 3])), perm=[0, 2, 1, 3])
    shape = g("Concat", size_of(g, mixed, 0), size_of(g, mixed, 1), ints(width), axis=0)
    return g("Add", g("MatMul", g("Reshape", mixed, shape), weights(width, width)), weights(width))


def transformer(length: int | str = 6) -> onnx.ModelProto:
    """An encoder: token and position embeddings, a mask, two layers, the first token to a classifier."""
    g = Graph(17)
    width = 16
    ids, given = "@" + g.operand(f"int64 N,{length}"), "@" + g.operand(f"int64 N,{length}")
    x = g("Gather", weights(40, width), ids)
    where = g("Slice", ints(*range(12)).reshape(1, 12), ints(0), size_of(g, ids, 1), ints(1))
    x = layer_norm(g, g("Add", x, g("Gather", weights(12, width), where)), width)
    mask = g("Cast", g("Unsqueeze", g("Unsqueeze", given, ints(1)), ints(2)), to=1)
    mask = g("Mul", g("Sub", np.array(1, f32), mask), np.array(-10000, f32))
    for _ in range(2):
        x = layer_norm(g, g("Add", x, attention(g, x, width, 4, mask)), width)
        inner = gelu(g, g("Add", g("MatMul", x, weights(width, 32)), weights(32)))
        x = layer_norm(g, g("Add", x, g("Add", g("MatMul", inner, weights(32, width)), weights(width))), width)
    first = g("Gather", x, np.array(0, i64), axis=1)
    pooled = g("Tanh", g("Gemm", first, weights(width, width), weights(width), transB=1))
    return g.model(g("Gemm", pooled, weights(3, width), weights(3), transB=1), x)


def vision_transformer() -> onnx.ModelProto:
    """Patches, a class token that is expanded to the batch (Where, Equal, ConstantOfShape, as torch writes it)."""
    g = Graph(17)
    width = 8
    x = g("Conv", "N,3,16,16", weights(width, 3, 4, 4), weights(width), strides=[4, 4])
    shape = g("Concat", g("Slice", g("Shape", x), ints(0), ints(2), ints(0)), ints(-1), axis=0)
    x = g("Transpose", g("Reshape", x, shape), perm=[0, 2, 1])
    wanted = g("Concat", size_of(g, x, 0), ints(-1), ints(-1), axis=0)
    ones = g("ConstantOfShape", ints(3), value=onnx.numpy_helper.from_array(ints(1)))
    minus = g("Mul", ones, ints(-1))
    target = g("Where", g("Equal", wanted, minus), ones, wanted)
    x = g("Concat", g("Expand", weights(1, 1, width), target), x, axis=1)
    x = g("Add", x, weights(1, 17, width))
    x = g("Add", x, attention(g, g("LayerNormalization", x, weights(width), weights(width)), width, 2, None))
    first = g("Squeeze", g("Slice", x, ints(0), ints(1), ints(1)), ints(1))
    return g.model(g("Gemm", first, weights(5, width), weights(5), transB=1))


def merged_heads() -> onnx.ModelProto:
    """torch.nn.MultiheadAttention: [L, N, E] to [L, N*heads, depth], turned, multiplied, and back."""
    g = Graph(17)
    length, width, heads = 5, 8, 2
    x = g("Transpose", f"N,{length},{width}", perm=[1, 0, 2])
    rows = g("Mul", size_of(g, x, 1), ints(heads))

    def split() -> str:
        made = g("MatMul", x, weights(width, width))
        flat = g("Reshape", made, g("Concat", ints(length), rows, ints(width // heads), axis=0))
        return g("Transpose", flat, perm=[1, 0, 2])

    q, k, v = split(), split(), split()
    mixed = g("MatMul", g("Softmax", g("MatMul", q, g("Transpose", k, perm=[0, 2, 1])), axis=-1), v)
    back = g("Transpose", mixed, perm=[1, 0, 2])
    back = g("Reshape", back, g("Concat", ints(length), size_of(g, x, 1), ints(width), axis=0))
    return g.model(g("Transpose", g("MatMul", back, weights(width, width)), perm=[1, 0, 2]))


def lstm() -> onnx.ModelProto:
    """batch_first: turned, first states of zeros by the batch size, the last output to a classifier."""
    g = Graph(17)
    x = g("Transpose", "N,7,4", perm=[1, 0, 2])
    zeros = g("ConstantOfShape", g("Concat", ints(2), size_of(g, x, 1), ints(6), axis=0))
    out = g.node(
        "LSTM",
        [x[1:], g.operand(weights(2, 24, 4)), g.operand(weights(2, 24, 6)), "", "", zeros[1:], zeros[1:]],
        ["every", "last", "cell"],
        hidden_size=6,
        direction="bidirectional",
    )
    y = g("Reshape", g("Transpose", f"@{out[0]}", perm=[0, 2, 1, 3]), ints(0, 0, -1))
    y = g("Gather", g("Transpose", y, perm=[1, 0, 2]), np.array(-1, i64), axis=1)
    return g.model(g("Gemm", y, weights(3, 12), weights(3), transB=1))


def flattened_dense() -> onnx.ModelProto:
    """Keras on sequences: [N, T, C] flattened to [N*T, C] for a Gemm, and back."""
    g = Graph(15)
    x = "@" + g.operand("N,6,4")
    flat = g("Relu", g("Gemm", g("Reshape", x, ints(-1, 4)), weights(4, 5), weights(5)))
    back = g("Concat", size_of(g, x, 0), ints(6, 5), axis=0)
    return g.model(g("Softmax", g("Reshape", flat, back), axis=-1))


def quantised() -> onnx.ModelProto:
    """QDQ: activations with constant scales around a convolution and a Gemm."""
    g = Graph(17)

    def both(x: str, scale: float = 0.05) -> str:
        point = np.array(scale, f32), np.array(0, np.int8)
        return g("DequantizeLinear", g("QuantizeLinear", x, *point), *point)

    def int8(*shape: int) -> str:
        return g("DequantizeLinear", RNG.integers(-9, 9, shape).astype(np.int8), np.array(0.02, f32))

    x = both("@" + g.operand("N,3,8,8"))
    x = both(g("Relu", g("Conv", x, int8(4, 3, 3, 3))))
    x = both(g("Flatten", g("GlobalAveragePool", x)))
    return g.model(g("Gemm", x, int8(5, 4), transB=1))


def scikit_learn() -> onnx.ModelProto:
    """A scaler, two layers, the place of the largest score, and the label there, as skl2onnx writes a classifier."""
    g = Graph(17)
    x = g("Scaler", "N,4", domain="ai.onnx.ml", offset=[0.1, 0.2, 0.3, 0.4], scale=[1.0, 2.0, 1.0, 0.5])
    hidden = g("Relu", g("Add", g("MatMul", x, weights(4, 6)), weights(1, 6)))
    scores = g("Softmax", g("Add", g("MatMul", hidden, weights(6, 3)), weights(1, 3)), axis=1)
    best = g("ArgMax", scores, axis=1)
    label = g("ArrayFeatureExtractor", ints(10, 20, 30), best, domain="ai.onnx.ml")
    return g.model(g("Reshape", label, ints(-1)), scores)


EXPORTS = {
    each.__name__: each
    for each in (
        mlp, dense_of_tensorflow, resnet, mobilenet, transformer, vision_transformer, merged_heads, lstm,
        flattened_dense, quantised, scikit_learn,
        scikit_learn,
    )
}  # fmt: skip
