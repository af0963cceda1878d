"""AlexNet as MindSpore's model repository has it (official/cv/alexnet, r1.5, src/alexnet.py)."""

from __future__ import annotations

from typing import Any

from mindspore import nn


class AlexNet(nn.Cell):  # type: ignore[misc]  # MindSpore carries no types
    """[N, channel, 227, 227] to [N, num_classes]. Dropout is left out: it does nothing in inference."""

    def __init__(self, num_classes: int = 10, channel: int = 3) -> None:
        super().__init__()
        self.takes = (-1, channel, 227, 227)
        self.conv1 = nn.Conv2d(channel, 64, 11, stride=4, pad_mode="same", has_bias=True)
        self.conv2 = nn.Conv2d(64, 128, 5, pad_mode="same", has_bias=True)
        self.conv3 = nn.Conv2d(128, 192, 3, pad_mode="same", has_bias=True)
        self.conv4 = nn.Conv2d(192, 256, 3, pad_mode="same", has_bias=True)
        self.conv5 = nn.Conv2d(256, 256, 3, pad_mode="same", has_bias=True)
        self.relu = nn.ReLU()
        self.max_pool2d = nn.MaxPool2d(kernel_size=3, stride=2, pad_mode="valid")
        self.flatten = nn.Flatten()
        self.fc1 = nn.Dense(6 * 6 * 256, 4096)
        self.fc2 = nn.Dense(4096, 4096)
        self.fc3 = nn.Dense(4096, num_classes)

    def construct(self, x: Any) -> Any:
        """The scores of each class, before any softmax."""
        x = self.max_pool2d(self.relu(self.conv1(x)))
        x = self.max_pool2d(self.relu(self.conv2(x)))
        x = self.relu(self.conv4(self.relu(self.conv3(x))))
        x = self.max_pool2d(self.relu(self.conv5(x)))
        x = self.relu(self.fc1(self.flatten(x)))
        return self.fc3(self.relu(self.fc2(x)))
