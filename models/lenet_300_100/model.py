"""LeNet-300-100: the fully connected network of LeCun et al. 1998, 784-300-100-classes, with ReLU."""

from __future__ import annotations

from torch import Tensor, nn


class LeNet300100(nn.Module):
    """Three linear layers on the flattened image."""

    def __init__(self, classes: int, inputs: int) -> None:
        """Take the number of classes and of input values (height x width x channels)."""
        super().__init__()
        self.fc1 = nn.Linear(inputs, 300)
        self.fc2 = nn.Linear(300, 100)
        self.fc3 = nn.Linear(100, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Map images [N, C, H, W] to logits [N, classes]."""
        hidden = self.fc1(images.flatten(1)).relu()
        return self.fc3(self.fc2(hidden).relu())


def build(classes: int = 10, inputs: int = 784) -> nn.Module:
    """Return the network with random weights."""
    return LeNet300100(classes, inputs)
