"""Convolutions over time: logits [3]."""

from torch import nn


class Net(nn.Module):
    """Two convolutions, and the mean over time."""

    def __init__(self, width):
        super().__init__()
        self.first = nn.Sequential(nn.Conv1d(1, width, 9, 2, 4, bias=False), nn.BatchNorm1d(width), nn.ReLU())
        self.second = nn.Sequential(nn.Conv1d(width, width, 5, 2, 2, bias=False), nn.BatchNorm1d(width), nn.ReLU())
        self.head = nn.Linear(width, 3)

    def forward(self, series):
        """Return logits [N, 3] of series [N, 1, T]."""
        return self.head(self.second(self.first(series)).mean(2))


def build(width=16):
    """Return the network."""
    return Net(width)
