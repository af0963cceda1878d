"""ResNet (He et al., 2015) as MindSpore's model repository has it (official/cv/ResNet, src/resnet.py).

What differs there between the sizes is kept, because weights were trained with it: ResNet-18 and 34 pad evenly on both
sides, ResNet-50 as TensorFlow's `same` does; the epsilon of a normalisation is 1e-4, of the trunk and the shortcuts
of ResNet-18 and 34 it is 1e-5.
"""

from __future__ import annotations

from typing import Any

from mindspore import nn, ops

BASIC, BOTTLENECK = 1, 4
"""How many times wider a block's output is than its inner convolutions."""


def conv(inputs: int, outputs: int, kernel: int, stride: int, even: bool) -> Any:
    """A convolution that keeps the size but for its stride; `even`: padded on both sides alike."""
    if even:
        return nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, pad_mode="pad")
    return nn.Conv2d(inputs, outputs, kernel, stride, pad_mode="same")


def norm(channels: int, even: bool = False) -> Any:
    """Normalisation over the batch."""
    return nn.BatchNorm2d(channels, eps=1e-5 if even else 1e-4)


def shortcut(inputs: int, outputs: int, stride: int, even: bool) -> Any:
    """What fits a block's input to its output; None where it fits already."""
    if stride == 1 and inputs == outputs:
        return None
    return nn.SequentialCell(conv(inputs, outputs, 1, stride, even), norm(outputs, even))


class BasicBlock(nn.Cell):  # type: ignore[misc]  # MindSpore carries no types
    """Two convolutions of 3x3."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = conv(inputs, outputs, 3, stride, even=True)
        self.bn1d = norm(outputs)
        self.conv2 = conv(outputs, outputs, 3, 1, even=True)
        self.bn2d = norm(outputs)
        self.relu = nn.ReLU()
        self.down_sample_layer = shortcut(inputs, outputs, stride, even=True)

    def construct(self, x: Any) -> Any:
        """[N, inputs, H, W] to [N, outputs, H/stride, W/stride]."""
        out = self.bn2d(self.conv2(self.relu(self.bn1d(self.conv1(x)))))
        if self.down_sample_layer is not None:
            x = self.down_sample_layer(x)
        return self.relu(out + x)


class Bottleneck(nn.Cell):  # type: ignore[misc]  # as above
    """1x1, 3x3, 1x1; the inner two with a quarter of the channels."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        channels = outputs // BOTTLENECK
        self.conv1 = conv(inputs, channels, 1, 1, even=False)
        self.bn1 = norm(channels)
        self.conv2 = conv(channels, channels, 3, stride, even=False)
        self.bn2 = norm(channels)
        self.conv3 = conv(channels, outputs, 1, 1, even=False)
        self.bn3 = norm(outputs)
        self.relu = nn.ReLU()
        self.down_sample_layer = shortcut(inputs, outputs, stride, even=False)

    def construct(self, x: Any) -> Any:
        """[N, inputs, H, W] to [N, outputs, H/stride, W/stride]."""
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn3(self.conv3(self.relu(self.bn2(self.conv2(out)))))
        if self.down_sample_layer is not None:
            x = self.down_sample_layer(x)
        return self.relu(out + x)


class ResNet(nn.Cell):  # type: ignore[misc]  # as above
    """[N, 3, H, W] to [N, class_num]."""

    def __init__(self, depths: tuple[int, ...], expansion: int, class_num: int, even: bool = False) -> None:
        super().__init__()
        self.takes = (-1, 3, -1, -1)
        self.conv1 = conv(3, 64, 7, 2, even)
        self.bn1 = norm(64, even)
        self.relu = nn.ReLU()
        pool = nn.MaxPool2d(kernel_size=3, stride=2, pad_mode="valid" if even else "same")
        pad = nn.Pad(paddings=((0, 0), (0, 0), (1, 1), (1, 1)))
        self.maxpool = nn.SequentialCell(pad, pool) if even else pool
        block = BasicBlock if expansion == BASIC else Bottleneck
        inputs = 64
        for layer, depth in enumerate(depths):
            outputs = 64 * 2**layer * expansion
            blocks = []
            for number in range(depth):
                blocks.append(block(inputs, outputs, 2 if layer and number == 0 else 1))
                inputs = outputs
            setattr(self, f"layer{layer + 1}", nn.SequentialCell(blocks))
        self.mean = ops.ReduceMean(keep_dims=False)
        self.end_point = nn.Dense(inputs, class_num)

    def construct(self, x: Any) -> Any:
        """The scores of each class, before any softmax."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.end_point(self.mean(x, (2, 3)))


def resnet18(class_num: int = 10) -> ResNet:
    """Eight basic blocks."""
    return ResNet((2, 2, 2, 2), BASIC, class_num, even=True)


def resnet34(class_num: int = 10) -> ResNet:
    """Sixteen basic blocks."""
    return ResNet((3, 4, 6, 3), BASIC, class_num, even=True)


def resnet50(class_num: int = 10) -> ResNet:
    """Sixteen bottlenecks."""
    return ResNet((3, 4, 6, 3), BOTTLENECK, class_num)
