"""Normalisation: scores of different groups on one scale, for rankings across groups.

Within a group no normalisation changes the order. Which one a criterion calls for, by its paper or by what its numbers
mean, is a column of the table in criteria.py:

- `none` where a score is a change of the loss, a relative error, a share or a norm's scale: already comparable;
- `mean` for norms and distances of weights, for CHIP and for mean activations, which grow with a filter, map or layer;
- `max` for ranks of feature maps, which are bounded by the size of a map;
- `l2` as Molchanov et al. (ICLR 2017) do for activations; it ranks wide layers lower, by the root of their width;
- `rank` leaves only the order: every group then loses about the same share.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from pipeline.compress.pruning.importance.names import Normalisation


def normalised_scores(scores: Mapping[str, Tensor], how: Normalisation) -> dict[str, Tensor]:
    """Return the scores of each group divided by one number of the group, or their ranks, float64 [width] by group.

    Args:
        scores: [width] by group, none of them negative; higher is more important.
        how: `none`: as they are. `mean`, `max`, `l2`: divided by the mean, the largest, the root of the sum of squares;
            a group of zeros stays as it is. `rank`: the share of the group that is not better, in (0, 1], the mean of
            their places for equal scores.
    """
    return {name: _scaled(score.double(), how) for name, score in scores.items()}


def _scaled(score: Tensor, how: Normalisation) -> Tensor:
    if how == "none":
        return score
    if how == "rank":
        return _places(score) / len(score)
    size = float({"mean": score.mean(), "max": score.max(), "l2": score.square().sum().sqrt()}[how])
    return score / size if size else score


def _places(score: Tensor) -> Tensor:
    """Return places from 1 (lowest) to the width; equal scores get the mean of theirs."""
    _, which, counts = torch.unique(score, return_inverse=True, return_counts=True)
    last = counts.cumsum(0).double()
    middle: Tensor = last - (counts - 1) / 2
    return middle[which]
