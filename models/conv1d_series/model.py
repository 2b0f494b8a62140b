"""The fully convolutional network for time series of Wang et al. 2017: three convolutions in time, and their mean.

With `each_step` there is no mean: a logit for each class at each step, for labels along the series.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Sequence

KERNELS = (7, 5, 3)


class SeriesNet(nn.Module):
    """Convolutions in time with batch norm and ReLU, and a linear classifier."""

    def __init__(self, classes: int, channels: int, widths: Sequence[int], *, each_step: bool) -> None:
        super().__init__()
        pairs = zip([channels, *widths[:-1]], widths, KERNELS, strict=True)
        self.convs = nn.ModuleList(nn.Conv1d(a, b, kernel, 1, kernel // 2, bias=False) for a, b, kernel in pairs)
        self.norms = nn.ModuleList(nn.BatchNorm1d(width) for width in widths)
        self.out: nn.Module = nn.Conv1d(widths[-1], classes, 1) if each_step else nn.Linear(widths[-1], classes)
        self.each_step = each_step

    def forward(self, series: Tensor) -> Tensor:
        """Map series [N, channels, T] to logits [N, classes], or [N, classes, T]."""
        hidden = series
        for conv, norm in zip(self.convs, self.norms, strict=True):
            hidden = norm(conv(hidden)).relu()
        return self.out(hidden if self.each_step else hidden.mean(2))


def build(classes: int = 2, channels: int = 1, width: int = 128, *, each_step: bool = False) -> nn.Module:
    """Return the network of `width`, twice that and `width` channels; the paper's kernels are 8, 5 and 3."""
    return SeriesNet(classes, channels, (width, 2 * width, width), each_step=each_step)
