"""HRank: channels whose feature maps have a low matrix rank carry little information."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from pipeline.compress.pruning.importance.feature_maps import FeatureMaps
from pipeline.compress.pruning.importance.l2 import l2

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.compress.pruning.graph import ChannelGraph
    from pipeline.compress.pruning.graph.capture import CapturedGraph
    from pipeline.compress.pruning.importance.request import Batches


@dataclass(frozen=True)
class Ranking:
    """What HRank finds.

    Attributes:
        scores: float64 [width] by group: the mean rank, plus less than the smallest step between two mean ranks for
            the filters' L2 norm, which decides between channels of equal rank.
        mean_rank: float64 [width] by group.
        tie_share: by group, the share of channels whose mean rank another channel of the group has as well. Where it
            is high, it was the L2 norm that chose.
    """

    scores: dict[str, Tensor]
    mean_rank: dict[str, Tensor]
    tie_share: dict[str, float]


def hrank(captured: CapturedGraph, graph: ChannelGraph, batches: Batches) -> Ranking:
    """Return the mean rank of each channel's feature maps over images, pixels as a matrix.

    The rank is the number of singular values above max(h, w) * eps * the largest, eps that of the maps' own precision.
    It is taken of all maps of a batch in one call, which equals the same call on each map. A group's rank is the mean
    over its maps (the layers of a residual stream). Maps of one pixel, as after a linear layer, and tokens have rank 1
    or 0: the score is then the share of samples in which the channel is not dead, and the L2 norm does the rest.

    Source: Lin et al., HRank: Filter Pruning using High-Rank Feature Map, CVPR 2020, which takes about 500 images
    behind each ReLU.
    Raises: InputError when a group has no feature map or no filters; StageError when samples cannot be told apart.
    Cost: one forward pass, and one SVD for each channel and image: about 50 us for 32x32 pixels, 0.5 ms for 112x112.
    Limits: small maps allow few ranks and maps after a ReLU are often full: see `tie_share`.
    """
    totals: dict[str, Tensor] = {}
    counts: Counter[str] = Counter()
    for name, maps in FeatureMaps(captured, graph, "hrank").stream(batches):
        found = [_ranks(each).movedim(1, 0).flatten(1) for each in maps]
        totals[name] = totals.get(name, 0) + torch.stack([ranks.sum(1) for ranks in found]).sum(0).cpu()
        counts[name] += sum(ranks.shape[1] for ranks in found)
    norms = l2(graph, dict(captured.module.named_parameters()))
    return Ranking(
        scores={
            name: (total + norms[name] / (float(norms[name].max()) or 1) / 2) / counts[name]
            for name, total in totals.items()
        },
        mean_rank={name: total.double() / counts[name] for name, total in totals.items()},
        tie_share={name: _tied(total) for name, total in totals.items()},
    )


def _ranks(maps: Tensor) -> Tensor:
    """Return the ranks of maps [samples, width, k, rows, h, w], int64 [samples, width, k, rows]; h and w may lack."""
    precise = maps if maps.dtype == torch.float64 else maps.float()
    pixels = precise.shape[4:]
    matrices = precise if len(pixels) > 1 else precise.flatten(4).unsqueeze(-1) if pixels else precise[..., None, None]
    ranks: Tensor = torch.linalg.matrix_rank(matrices)
    return ranks


def _tied(totals: Tensor) -> float:
    _, which, counts = torch.unique(totals, return_inverse=True, return_counts=True)
    return float((counts[which] > 1).double().mean())
