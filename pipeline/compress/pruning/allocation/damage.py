"""Damage: what a network loses by each width that a group could have, and by each block that could leave."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch

from pipeline.core.errors import StageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    Curve = NDArray[np.float64]


@dataclass(frozen=True)
class Choices:
    """What a search may change about a network, and the damage of each choice, all in one unit.

    Attributes:
        grids: the widths that each group may have, ascending; the last is its whole width.
        damage: of each of these widths [len(grid)], falling to 0 at the whole width.
        blocks: the damage of removing each residual block that may leave.
        inside: by block the groups that lie in it alone: without the block they cost nothing and do no damage.
    """

    grids: Mapping[str, Sequence[int]]
    damage: Mapping[str, Curve]
    blocks: Mapping[str, float] = field(default_factory=dict)
    inside: Mapping[str, frozenset[str]] = field(default_factory=dict)


def damage_curves(
    scores: Mapping[str, Tensor],
    grids: Mapping[str, Sequence[int]],
    measured: Mapping[str, tuple[int, float]] | None = None,
) -> dict[str, Curve]:
    """Return what each group loses at each width of its grid: the sum of the scores that leave, lowest first.

    Args:
        scores: [width] by group, higher is more important; what is below zero counts as zero.
        grids: the widths that each group may have, ascending; the last is its whole width.
        measured: by group a width and the loss that was measured there. The group's curve is scaled to it; where all
            scores that leave are zero, the loss grows with the number of channels.

    Returns:
        [len(grid)] by group, never negative and never rising with the width.

    Raises:
        StageError: a score is not a finite number.
    """
    curves = {}
    for group, grid in grids.items():
        score = scores[group].detach().double().cpu()
        if not torch.isfinite(score).all():
            raise StageError(f"Group {group!r} has scores that are not finite numbers. Check the weights for NaN.")
        ordered = score.clamp(min=0).sort().values.numpy()
        lost = np.concatenate(([0.0], np.cumsum(ordered)))  # [width + 1] by the number of channels that leave
        if measured and group in measured:
            lost = _scaled(lost, *measured[group])
        curves[group] = lost[len(ordered) - np.array(grid)]
    return curves


def _scaled(lost: Curve, width: int, loss: float) -> Curve:
    """Return a curve that is `loss`, or 0 if that is less, with `width` channels left."""
    removed = len(lost) - 1 - width
    if lost[removed] <= 0:
        lost = np.arange(len(lost), dtype=np.float64)
    scaled: Curve = lost * (max(loss, 0.0) / lost[removed]) if removed else lost
    return scaled
