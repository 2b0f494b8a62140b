"""From scores to kept channels: an allocation at a ratio of the channels, or at a cost of the network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from pipeline.compress.pruning.allocation.constraints import aligned_width
from pipeline.compress.pruning.allocation.target import TOLERANCE, Widths, widths_at_cost
from pipeline.core.errors import InputError, StageError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import Tensor

    from pipeline.compress.pruning.allocation.constraints import Constraints
    from pipeline.compress.pruning.cost import CostModel

#: Kept classes by group, ascending.
Kept = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class ReachedCost:
    """Channels that were chosen for a cost, the cost that they have, and the one that was asked for."""

    kept: Kept
    cost: float
    target: float

    @property
    def error(self) -> float:
        """The difference from the target as a fraction of it; positive where the network costs more."""
        return self.cost / self.target - 1


@dataclass(frozen=True)
class Allocation:
    """A way to spread the channels that leave over the groups.

    Attributes:
        scores: [width] by group, higher is more important. Groups that are to be left alone are not in it.
        constraints: what every group keeps at least, and on which grid.
        wanted: for the fraction of the channels that leaves, in [0, 1], the widths to keep before they are rounded;
            where the constraints protect more than that, all that they allow leaves.
    """

    scores: Mapping[str, Tensor]
    constraints: Constraints
    wanted: Callable[[float], Mapping[str, float]]

    def at_ratio(self, ratio: float) -> Kept:
        """Remove the fraction `ratio` of the channels of all groups that are wider than their alignment.

        Widths are rounded to the grid of each group last, so the fraction that leaves can differ from `ratio`.

        Raises:
            InputError: the constraints protect more channels than `ratio` would leave, or it would leave a group that
                has no floor without a channel.
            StageError: a score is not a finite number.
        """
        wide = {n: len(score) for n, score in self.scores.items() if len(score) > self.constraints.of(n).align}
        asked = round(ratio * sum(wide.values()))
        free = sum(max(0, width - self.constraints.of(name).least(width)) for name, width in wide.items())
        if asked > free:
            raise InputError(
                f"ratio {ratio} asks to remove {asked} of {sum(wide.values())} channels, but floors and limits allow "
                f"only {free} to be removed. Lower ratio, or the floors."
            )
        wanted = self.wanted(ratio)
        for name, width in wide.items():
            if wanted[name] < 0.5:  # noqa: PLR2004 - half a channel is rounded to none
                raise InputError(
                    f"ratio {ratio} would keep none of the {width} channels of {name!r}, which has no floor. Lower "
                    "ratio, or give it a floor."
                )
        return best_classes(self.scores, _rounded(wanted, self._grids()))

    def at_cost(self, model: CostModel, target: float, tolerance: float = TOLERANCE) -> ReachedCost:
        """Remove as many channels as bring the network to a cost; see `widths_at_cost`.

        Args:
            model: what counts as cost.
            target: the cost to reach, in the model's unit.
            tolerance: fraction of `target` within which widths are not adjusted any further.

        Raises:
            InputError: the network costs no more than `target` as it is, or it cannot be reached.
            StageError: a score is not a finite number.
        """
        grids = self._grids()

        def path(ratio: float) -> Widths:
            return _rounded(self.wanted(ratio), grids)

        widths = widths_at_cost(path, grids, model, target, tolerance)
        return ReachedCost(best_classes(self.scores, widths), model.cost(widths), target)

    def _grids(self) -> dict[str, list[int]]:
        return {name: self.constraints.of(name).widths(len(score)) for name, score in self.scores.items()}


def _rounded(wanted: Mapping[str, float], grids: Mapping[str, Sequence[int]]) -> Widths:
    return {name: aligned_width(grid, wanted[name]) for name, grid in grids.items()}


def best_classes(scores: Mapping[str, Tensor], widths: Mapping[str, int]) -> Kept:
    """Return the indices of the highest scores, ascending, as many as `widths` has for each of its groups.

    Of equal scores those with the highest index leave.

    Raises:
        StageError: a score is not a finite number.
    """
    kept = {}
    for name, width in widths.items():
        if not torch.isfinite(scores[name]).all():
            raise StageError(f"Group {name!r} has scores that are not finite numbers. Check the weights for NaN.")
        kept[name] = tuple(sorted(scores[name].argsort(descending=True, stable=True)[:width].tolist()))
    return kept
