"""Constraints: the widths that a group may keep."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field, replace
from math import ceil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_DIGITS = 9  # of a width: products of fractions and widths are rounded here, so that 0.1 * 70 protects 7 channels


@dataclass(frozen=True)
class GroupConstraint:
    """What one group keeps at least, and on which grid.

    Attributes:
        floor: smallest fraction of its channels that the group keeps, in [0, 1].
        align: kept widths are multiples of it; a group no wider than it stays whole. 1 for heads and other classes
            that are not single channels.
        max_ratio: largest fraction that may leave, in [0, 1]; None for what the floor allows.
    """

    floor: float
    align: int
    max_ratio: float | None = None

    def least(self, width: int) -> int:
        """Return how many of `width` channels floor and limit protect."""
        share = max(self.floor, 0.0 if self.max_ratio is None else 1 - self.max_ratio)
        return ceil(round(share * width, _DIGITS))

    def widths(self, width: int) -> list[int]:
        """Return the widths that a group of `width` channels may keep, ascending; the last is the whole width."""
        first = self.align * max(1, ceil(self.least(width) / self.align))
        return [*range(first, width, self.align), width]


@dataclass(frozen=True)
class Constraints:
    """The constraints of all groups: `floor` and `align` of those that `per_group` does not name."""

    floor: float
    align: int
    per_group: Mapping[str, GroupConstraint] = field(default_factory=dict)

    def of(self, group: str) -> GroupConstraint:
        """Return the constraints of one group."""
        return self.per_group.get(group) or GroupConstraint(self.floor, self.align)

    def limited(self, max_ratios: Mapping[str, float]) -> Constraints:
        """Return these constraints with largest ratios by group; where there was one already, the lower holds."""
        limited = {}
        for group, ratio in max_ratios.items():
            constraint = self.of(group)
            known = 1.0 if constraint.max_ratio is None else constraint.max_ratio
            limited[group] = replace(constraint, max_ratio=min(ratio, known))
        return replace(self, per_group={**self.per_group, **limited})

    def relative_to(self, original: Mapping[str, int], current: Mapping[str, int]) -> Constraints:
        """Return constraints for a network that is pruned already, so that fractions stay those of the original.

        Without it a floor of 0.1 would protect a hundredth of the original in the second step.

        Args:
            original: widths by group before the first step.
            current: widths by group now.
        """
        moved = {}
        for group, width in current.items():
            constraint, growth = self.of(group), original[group] / width
            limit = None if constraint.max_ratio is None else max(0.0, 1 - (1 - constraint.max_ratio) * growth)
            moved[group] = replace(constraint, floor=min(1.0, constraint.floor * growth), max_ratio=limit)
        return replace(self, per_group={**self.per_group, **moved})


def aligned_width(widths: Sequence[int], wanted: float) -> int:
    """Return the one of `widths` (ascending) that is nearest to `wanted`; of two that are equally near, the wider."""
    above = min(bisect_left(widths, wanted), len(widths) - 1)
    near = widths[above], widths[max(0, above - 1)]
    return min(near, key=lambda width: round(abs(width - wanted), _DIGITS))
