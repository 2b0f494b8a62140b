"""Given rates: each group loses the fraction that it was given, or all in proportion to what they were given."""

from __future__ import annotations

import fnmatch
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from pipeline.compress.pruning.allocation.constraints import aligned_width
from pipeline.compress.pruning.allocation.widths import Allocation, Kept, best_classes
from pipeline.core.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from torch import Tensor

    from pipeline.compress.pruning.allocation.constraints import Constraints
    from pipeline.compress.pruning.graph import Group

Setting = TypeVar("Setting")


def by_pattern(groups: Iterable[Group], settings: Mapping[str, Setting]) -> dict[str, Setting]:
    """Return the setting of every group that a pattern names; of several patterns the last in `settings` holds.

    Args:
        groups: the groups of a network.
        settings: by qualified name of a group or of one of its layers, or by shell pattern such as `layer4.*`.

    Raises:
        InputError: a pattern names no group.
    """
    names = {group.name: {group.name, *group.layers} for group in groups}
    found: dict[str, Setting] = {}
    for pattern, setting in settings.items():
        matching = [group for group, layers in names.items() if fnmatch.filter(layers, pattern)]
        if not matching:
            raise InputError(f"Found {pattern!r}, which names no group of channels. Groups: {', '.join(names)}")
        found |= dict.fromkeys(matching, setting)
    return found


def explicit_rates(scores: Mapping[str, Tensor], rates: Mapping[str, float], constraints: Constraints) -> Kept:
    """Remove from each group the fraction that it was given; groups without one stay whole.

    Args:
        scores: [width] by group.
        rates: fraction of its channels that a group loses, in [0, 1), by group.
        constraints: what every group keeps at least, and on which grid: widths are rounded to it.

    Source: rates by layer as HRank (Lin et al., CVPR 2020) sets them by hand.

    Raises:
        InputError: a rate leaves fewer channels than the group's constraints protect, or none.
        StageError: a score is not a finite number.
    """
    widths = {}
    for name, score in scores.items():
        whole, constraint = len(score), constraints.of(name)
        wanted, least = (1 - rates.get(name, 0)) * whole, max(1, constraint.least(whole))
        if whole > constraint.align and wanted < least - 0.5:
            raise InputError(
                f"The rate {rates[name]} keeps {wanted:.3g} of the {whole} channels of {name!r}, of which {least} must "
                "stay. Lower the rate, or the floor."
            )
        widths[name] = aligned_width(constraint.widths(whole), wanted)
    return best_classes(scores, widths)


def proportional_allocation(
    scores: Mapping[str, Tensor], rates: Mapping[str, float], constraints: Constraints
) -> Allocation:
    """Remove fractions in proportion to given rates, each at most the whole group; groups without a rate stay whole.

    Args:
        scores: [width] by group.
        rates: what a group loses relative to the others, 0 or more, by group; their scale does not matter.
        constraints: what every group keeps at least, and on which grid.

    Raises:
        StageError: a score is not a finite number.
    """
    moving = {
        name: score
        for name, score in scores.items()
        if rates.get(name, 0) > 0 and len(score) > constraints.of(name).align
    }
    widths = np.array([len(score) for score in moving.values()], np.float64)
    shares = np.array([rates[name] for name in moving], np.float64)
    least = np.array([constraints.of(name).least(len(score)) for name, score in moving.items()], np.float64)

    full = np.concatenate(([0.0], np.sort(1 / shares)))  # scales at which one group after another is gone
    removed = [(widths * np.minimum(1, scale * shares)).sum() for scale in full]

    def wanted(ratio: float) -> dict[str, float]:
        scale = np.interp(ratio * widths.sum(), removed, full)
        kept = np.maximum(least, widths * (1 - np.minimum(1, scale * shares)))
        return dict(zip(moving, kept.tolist(), strict=True))

    return Allocation(moving, constraints, wanted)
