"""From the sizes that a few files have to the functions of widths that they are.

A network's values have few different sizes, all known to the channel graph (`sizes_by_width`). A size of a file is told
by what it is in a few narrower networks, in which every group loses another number of channels: it is the one of those
sizes that is the same in all of them, or changes like one, or it cannot be told.
"""

from __future__ import annotations

import random
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np

from pipeline.compress.pruning.graph import Axis
from pipeline.core.errors import StageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    Widths = Mapping[str, int]
    #: A size in each of the networks, or how it changes from the first, up to a factor.
    Values = tuple[Fraction, ...]

#: Draws of widths for each number of networks.
_DRAWS, _MOST_NETWORKS = 100, 4
#: Groups from here on lose between one channel and half of them: no size becomes one, which exporters treat apart.
_WIDE = 8
_LARGEST_DENOMINATOR = 1024


class NoTemplateError(StageError):
    """A network's file is no simple function of its widths; its times must come from files that are really made."""


class Narrower:
    """The whole network and a few narrower ones, over which no two of the sizes are the same.

    `networks` are the kept widths of each, all groups named, the whole one first.
    """

    def __init__(self, whole: Widths, sizes: Iterable[Axis], kept: Widths | None = None, seed: int = 0) -> None:
        """Draw the fewest networks that tell all sizes apart.

        Args:
            whole: the widths of the groups that may be narrowed.
            sizes: all sizes that widths decide.
            kept: the widths of the other groups, which stay as they are.
            seed: of the draw.

        Raises:
            NoTemplateError: the groups are too narrow to tell them apart.
        """
        self.whole = dict(whole)
        single = [Axis(0, {name: 1}) for name in whole]
        narrowed = (_with_constants(axis, kept or {}) for axis in sizes)
        self._sizes = [*single, *(axis for axis in narrowed if axis.per_class)]
        self._source = random.Random(seed)  # noqa: S311 - nothing secret
        for count in (count for count in range(1 if self.whole else 0, _MOST_NETWORKS + 1) for _ in range(_DRAWS)):
            self.networks = [self.whole, *(self._narrowed() for _ in range(count))]
            if self._told_apart():
                return
        raise NoTemplateError(
            f"{len(whole)} groups of at most {max(whole.values(), default=0)} channels are too narrow to tell them "
            "apart in a file"
        )

    def add(self, widths: Widths | None = None) -> Widths:
        """Add one more network, drawn where it is not given, and return its widths."""
        self.networks.append(dict(widths or self._narrowed()))
        self._told_apart()
        return self.networks[-1]

    def _narrowed(self) -> dict[str, int]:
        draw = self._source.randint
        return {
            name: width - (draw(1, width // 2) if width >= _WIDE else draw(0, width - 1))
            for name, width in self.whole.items()
        }

    def _told_apart(self) -> bool:
        """Sort the functions by their sizes, and by how they change; say whether none is like another."""
        self._by_sizes: dict[Values, Axis] = {}
        self._by_direction: dict[Values, Axis | None] = {}
        for axis in self._sizes:
            values = self._values(axis)
            direction = _direction(values)
            if not direction or not _same(self._by_sizes.setdefault(values, axis), axis):
                return False
            like = self._by_direction.setdefault(direction, axis)
            if like is not None and not _same_shares(like, axis):
                self._by_direction[direction] = None
        return True

    def _values(self, axis: Axis) -> Values:
        return tuple(_exact(axis, widths) for widths in self.networks)

    def function_of(self, found: Sequence[int]) -> Axis | None:
        """Return the function that gives a number in each of the networks; None where it cannot be told.

        It is a constant, one of the sizes, or one of them times a factor plus a constant.
        """
        values = tuple(map(Fraction, found))
        direction = _direction(values)
        if not direction:
            return Axis(found[0], {})
        if values in self._by_sizes:
            return self._by_sizes[values]
        like = self._by_direction.get(direction) if len(direction) > 1 else None
        if like is None:
            return None
        before = self._values(like)
        factor = next((values[0] - a) / (before[0] - b) for a, b in zip(values, before, strict=True) if b != before[0])
        shares = {name: factor * _fraction(share) for name, share in like.per_class.items()}
        fixed = values[0] - sum(share * self.whole[name] for name, share in shares.items())
        if fixed.denominator != 1:
            return None
        return Axis(int(fixed), {name: float(share) for name, share in shares.items()})


def size_at(axis: Axis, whole: Widths, widths: Widths) -> int:
    """Return a size with these kept widths; groups that are not named are whole."""
    return round(axis.fixed + sum(each * widths.get(name, whole[name]) for name, each in axis.per_class.items()))


class SizeTable:
    """Many functions of widths, each held once, whose sizes are found at once."""

    def __init__(self, whole: Widths) -> None:
        self._whole = dict(whole)
        self._places: dict[tuple[object, ...], int] = {}
        self.axes: list[Axis] = []

    def add(self, axis: Axis) -> int:
        """Return the place of a function in the table."""
        key = (axis.fixed, *sorted(axis.per_class.items()))
        if key not in self._places:
            self._places[key] = len(self.axes)
            self.axes.append(axis)
        return self._places[key]

    def sizes(self, widths: Widths) -> NDArray[np.int64]:
        """Return the size of each function with these kept widths; groups that are not named are whole."""
        return np.array([size_at(axis, self._whole, widths) for axis in self.axes], np.int64)


def _with_constants(axis: Axis, kept: Widths) -> Axis:
    """Return a function in which groups that stay as they are have become a part of what is fixed."""
    fixed = sum(share * kept[name] for name, share in axis.per_class.items() if name in kept)
    return Axis(axis.fixed + round(fixed), {name: each for name, each in axis.per_class.items() if name not in kept})


def _fraction(share: float) -> Fraction:
    return Fraction(share).limit_denominator(_LARGEST_DENOMINATOR)


def _exact(axis: Axis, widths: Widths) -> Fraction:
    return axis.fixed + sum((_fraction(each) * widths[name] for name, each in axis.per_class.items()), Fraction(0))


def _direction(values: Values) -> Values:
    """Return how values change from the first, relative to the first change; empty where none does."""
    changes = [values[0] - value for value in values[1:]]
    first = next((change for change in changes if change), None)
    return tuple(change / first for change in changes) if first else ()


def _same(one: Axis, other: Axis) -> bool:
    return one.fixed == other.fixed and dict(one.per_class) == dict(other.per_class)


def _same_shares(one: Axis, other: Axis) -> bool:
    """Say whether two functions are the same but for a factor and what is fixed."""
    if one.per_class.keys() != other.per_class.keys():
        return False
    ratios = {_fraction(one.per_class[name]) / _fraction(other.per_class[name]) for name in one.per_class}
    return len(ratios) == 1
