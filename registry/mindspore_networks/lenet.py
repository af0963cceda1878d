"""LeNet-5 (LeCun et al., 1998) as MindSpore's tutorials and model repository have it: ReLU, maxima, no bias before."""

from __future__ import annotations

from typing import Any

from mindspore import nn


class LeNet5(nn.Cell):  # type: ignore[misc]  # MindSpore carries no types
    """[N, num_channel, 32, 32] to [N, num_class]."""

    def __init__(self, num_class: int = 10, num_channel: int = 1) -> None:
        super().__init__()
        self.takes = (-1, num_channel, 32, 32)
        self.conv1 = nn.Conv2d(num_channel, 6, 5, pad_mode="valid")
        self.conv2 = nn.Conv2d(6, 16, 5, pad_mode="valid")
        self.relu = nn.ReLU()
        self.max_pool2d = nn.MaxPool2d(kernel_size=2, stride=2)
        self.flatten = nn.Flatten()
        self.fc1 = nn.Dense(400, 120)
        self.fc2 = nn.Dense(120, 84)
        self.fc3 = nn.Dense(84, num_class)

    def construct(self, x: Any) -> Any:
        """The scores of each class, before any softmax."""
        x = self.max_pool2d(self.relu(self.conv1(x)))
        x = self.max_pool2d(self.relu(self.conv2(x)))
        x = self.relu(self.fc1(self.flatten(x)))
        return self.fc3(self.relu(self.fc2(x)))
