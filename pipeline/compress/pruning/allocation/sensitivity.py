"""Sensitivity: what the network loses when one group alone is pruned, and the limits that follow from it."""

from __future__ import annotations

from math import isfinite
from typing import TYPE_CHECKING

from pipeline.compress.pruning.allocation.constraints import aligned_width
from pipeline.compress.pruning.allocation.widths import best_classes
from pipeline.core.errors import StageError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import Tensor

    from pipeline.compress.pruning.allocation.constraints import Constraints
    from pipeline.compress.pruning.allocation.widths import Kept

#: What was measured, by kept width; the first is the whole width, with the value of the whole network.
Curve = dict[int, float]


def sensitivity(
    scores: Mapping[str, Tensor], ratios: Sequence[float], constraints: Constraints, measure: Callable[[Kept], float]
) -> dict[str, Curve]:
    """Prune each group alone at several ratios, without training, and measure the network.

    Args:
        scores: [width] by group; the lowest leave.
        ratios: fractions of a group that leave, in (0, 1). Each is rounded to the widths that the group may keep; those
            that become the same width are measured once.
        constraints: what every group keeps at least, and on which grid.
        measure: a number of the network that keeps these channels, whole in all other groups; higher is better, such
            as the accuracy or the negative loss on validation images. {} stands for the whole network.

    Returns:
        Curves by group. Groups that cannot get narrower have the whole width alone.

    Source: Li et al., Pruning Filters for Efficient ConvNets, ICLR 2017 (section 3.2).

    Raises:
        StageError: a measured number is not finite.

    Cost: one measurement for each group and ratio, and one more.
    Limits: groups are pruned one by one, so what they lose together is not seen.
    """
    whole = _finite(measure({}), "the whole network")
    curves = {}
    for name, score in scores.items():
        curve, grid = {len(score): whole}, constraints.of(name).widths(len(score))
        for ratio in sorted(ratios):
            width = aligned_width(grid, (1 - ratio) * len(score))
            if width not in curve:
                curve[width] = _finite(
                    measure(best_classes({name: score}, {name: width})), f"{width} channels of {name!r}"
                )
        curves[name] = curve
    return curves


def ratio_limits(curves: Mapping[str, Curve], tolerance: float) -> dict[str, float]:
    """Return the largest ratio by group up to which no measured value is more than `tolerance` below the whole's.

    Nothing is read between the measured widths or beyond them: a group whose first point is too low stays whole.
    The result is what `Constraints.limited` takes.

    Args:
        curves: what `sensitivity` returned.
        tolerance: accepted loss in the unit of the measured values, 0 or more.
    """
    ratios = {}
    for name, curve in curves.items():
        (whole, value), *points = sorted(curve.items(), reverse=True)
        kept = whole
        for width, measured in points:
            if measured < value - tolerance:
                break
            kept = width
        ratios[name] = 1 - kept / whole
    return ratios


def _finite(value: float, what: str) -> float:
    if not isfinite(value):
        raise StageError(
            f"The measurement of {what} gave {value}; expected a finite number. Check the weights for NaN."
        )
    return value
