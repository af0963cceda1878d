"""MobileNetV2 (Sandler et al., 2018) as MindSpore's model repository has it (official/cv/MobileNet/mobilenetv2)."""

from __future__ import annotations

from typing import Any

from mindspore import nn, ops

BLOCKS = (
    *((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2)),
    *((6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)),
)
"""Expansion, channels, blocks, stride of the first."""


class ConvBNReLU(nn.Cell):  # type: ignore[misc]  # MindSpore carries no types
    """A convolution, for each channel alone where `depthwise`, normalised and cut at 0 and 6."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 3, stride: int = 1, depthwise: bool = False) -> None:
        super().__init__()
        group = inputs if depthwise else 1
        padding = (kernel - 1) // 2
        conv = nn.Conv2d(inputs, outputs, kernel, stride, pad_mode="pad", padding=padding, group=group)
        self.features = nn.SequentialCell(conv, nn.BatchNorm2d(outputs), nn.ReLU6())

    def construct(self, x: Any) -> Any:
        """[N, inputs, H, W] to [N, outputs, H/stride, W/stride]."""
        return self.features(x)


class InvertedResidual(nn.Cell):  # type: ignore[misc]  # as above
    """Widened, convolved channel by channel, narrowed; added to its input where the shapes agree."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.adds = stride == 1 and inputs == outputs
        layers = [ConvBNReLU(inputs, hidden, 1)] if expansion != 1 else []
        layers.append(ConvBNReLU(hidden, hidden, stride=stride, depthwise=True))
        layers += [nn.Conv2d(hidden, outputs, 1), nn.BatchNorm2d(outputs)]
        self.conv = nn.SequentialCell(layers)

    def construct(self, x: Any) -> Any:
        """[N, inputs, H, W] to [N, outputs, H/stride, W/stride]."""
        return x + self.conv(x) if self.adds else self.conv(x)


class MobileNetV2(nn.Cell):  # type: ignore[misc]  # as above
    """[N, 3, H, W] to [N, num_classes]."""

    def __init__(self, num_classes: int = 1000, width_mult: float = 1.0) -> None:
        super().__init__()
        self.takes = (-1, 3, -1, -1)
        inputs, last = divisible(32 * width_mult), divisible(1280 * max(1.0, width_mult))
        features: list[Any] = [ConvBNReLU(3, inputs, stride=2)]
        for expansion, channels, blocks, stride in BLOCKS:
            outputs = divisible(channels * width_mult)
            for block in range(blocks):
                features.append(InvertedResidual(inputs, outputs, 1 if block else stride, expansion))
                inputs = outputs
        features.append(ConvBNReLU(inputs, last, 1))
        self.features = nn.SequentialCell(features)
        self.mean = ops.ReduceMean(keep_dims=False)
        self.dense = nn.Dense(last, num_classes)

    def construct(self, x: Any) -> Any:
        """The scores of each class, before any softmax."""
        return self.dense(self.mean(self.features(x), (2, 3)))


def divisible(channels: float) -> int:
    """The nearest multiple of 8 that is not more than a tenth below."""
    near = max(8, int(channels + 4) // 8 * 8)
    return near + 8 if near < 0.9 * channels else near
