"""A small U-Net: logits [3, H, W]."""

import torch
from torch import nn


def block(given, made, stride=1):
    """Return a convolution with batch norm."""
    return nn.Sequential(nn.Conv2d(given, made, 3, stride, 1, bias=False), nn.BatchNorm2d(made), nn.ReLU())


class Net(nn.Module):
    """One level down and up again, with a connection between the two."""

    def __init__(self, width):
        super().__init__()
        self.first, self.down, self.deep = block(1, 8), block(8, width, 2), block(width, width)
        self.up, self.last, self.head = nn.Upsample(scale_factor=2), block(8 + width, 8), nn.Conv2d(8, 3, 1)

    def forward(self, image):
        """Return logits [N, 3, H, W]."""
        fine = self.first(image)
        return self.head(self.last(torch.cat([fine, self.up(self.deep(self.down(fine)))], 1)))


def build(width=16):
    """Return the network."""
    return Net(width)
