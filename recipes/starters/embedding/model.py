"""A vector of four numbers for each image."""

from torch import nn


def block(given, made, stride=1):
    """Return a convolution with batch norm."""
    return nn.Sequential(nn.Conv2d(given, made, 3, stride, 1, bias=False), nn.BatchNorm2d(made), nn.ReLU())


class Net(nn.Module):
    """Convolutions, and a vector from all of their places."""

    def __init__(self, width):
        super().__init__()
        self.body = nn.Sequential(block(1, 8, 2), block(8, width, 2), block(width, width, 2))
        self.head = nn.Linear(16 * width, 4)

    def forward(self, image):
        """Return vectors [N, 4]."""
        return self.head(self.body(image).flatten(1))


def build(width=16):
    """Return the network."""
    return Net(width)
