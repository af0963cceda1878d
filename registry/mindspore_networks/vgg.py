"""VGG (Simonyan and Zisserman, 2014) as MindSpore's model repository has it (official/cv/VGG, src/vgg.py)."""

from __future__ import annotations

from typing import Any

from mindspore import nn


class Vgg(nn.Cell):  # type: ignore[misc]  # MindSpore carries no types
    """[N, 3, image_size, image_size] to [N, num_classes].

    `plan`: channels of each convolution in units of 64, M is a pooling. `batch_norm=True, has_bias=False` is what that
    repository trains on CIFAR-10, the defaults what it trains on ImageNet.
    """

    def __init__(self, plan: str, num_classes: int, batch_norm: bool, has_bias: bool, image_size: int) -> None:
        super().__init__()
        self.takes = (-1, 3, image_size, image_size)
        layers: list[Any] = []
        inputs = 3
        for step in plan:
            if step == "M":
                layers.append(nn.MaxPool2d(kernel_size=2, stride=2))
                continue
            outputs = 64 * int(step)
            layers.append(nn.Conv2d(inputs, outputs, 3, padding=1, pad_mode="pad", has_bias=has_bias))
            layers += [nn.BatchNorm2d(outputs)] if batch_norm else []
            layers.append(nn.ReLU())
            inputs = outputs
        self.layers = nn.SequentialCell(layers)
        self.flatten = nn.Flatten()
        # Dropout does nothing in inference, but it counts in the names of what stands behind it.
        self.classifier = nn.SequentialCell(
            nn.Dense(512 * (image_size // 32) ** 2, 4096),
            nn.ReLU(),
            nn.Dropout(p=0.5),
            nn.Dense(4096, 4096),
            nn.ReLU(),
            nn.Dropout(p=0.5),
            nn.Dense(4096, num_classes),
        )

    def construct(self, x: Any) -> Any:
        """The scores of each class, before any softmax."""
        return self.classifier(self.flatten(self.layers(x)))


def vgg11(num_classes: int = 1000, batch_norm: bool = False, has_bias: bool = True, image_size: int = 224) -> Vgg:
    """Eight convolutions, three dense layers."""
    return Vgg("1M2M44M88M88M", num_classes, batch_norm, has_bias, image_size)


def vgg16(num_classes: int = 1000, batch_norm: bool = False, has_bias: bool = True, image_size: int = 224) -> Vgg:
    """Thirteen convolutions, three dense layers."""
    return Vgg("11M22M444M888M888M", num_classes, batch_norm, has_bias, image_size)
