"""A small detector: for strides 8 and 16 a map [4 + classes, H, W] of distances and class logits."""

from torch import nn


def block(given, made, stride=1):
    """Return a convolution with batch norm."""
    return nn.Sequential(nn.Conv2d(given, made, 3, stride, 1, bias=False), nn.BatchNorm2d(made), nn.ReLU())


class Net(nn.Module):
    """Two heads on one body."""

    def __init__(self, width):
        super().__init__()
        self.body = nn.Sequential(block(1, 8, 2), block(8, width, 2), block(width, 2 * width, 2))
        self.deep = block(2 * width, 2 * width, 2)
        self.fine, self.coarse = nn.Conv2d(2 * width, 6, 1), nn.Conv2d(2 * width, 6, 1)

    def forward(self, image):
        """Return raw maps: boxes are decoded outside the exported graph."""
        found = self.body(image)
        return {"fine": self.fine(found), "coarse": self.coarse(self.deep(found))}


def build(width=16):
    """Return the network."""
    return Net(width)
