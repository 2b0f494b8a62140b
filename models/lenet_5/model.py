"""LeNet-5 in the form that the pruning literature uses (Caffe's): 20 and 50 kernels of 5x5, 500 hidden units."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import max_pool2d


class LeNet5(nn.Module):
    """Two convolutions with max pooling and two linear layers; 431,080 parameters for ten classes of 28x28 images."""

    def __init__(self, classes: int) -> None:
        """Take the number of classes; images are 1x28x28."""
        super().__init__()
        self.conv1 = nn.Conv2d(1, 20, 5)
        self.conv2 = nn.Conv2d(20, 50, 5)
        self.fc1 = nn.Linear(50 * 4 * 4, 500)
        self.fc2 = nn.Linear(500, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Map images [N, 1, 28, 28] to logits [N, classes]."""
        hidden = max_pool2d(self.conv1(images), 2)
        hidden = max_pool2d(self.conv2(hidden), 2)
        return self.fc2(self.fc1(hidden.flatten(1)).relu())


def build(classes: int = 10) -> nn.Module:
    """Return the network with random weights."""
    return LeNet5(classes)
