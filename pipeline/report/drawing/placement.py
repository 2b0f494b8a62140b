"""Where things go in a plot: round ticks on an axis, and labels that cover neither each other nor the points."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

LINE_HEIGHT = 15.0
CHARACTER_WIDTH = 6.7  # of a 12 px sans-serif, on the safe side

_ROUND_STEPS = (1.0, 2.0, 5.0, 10.0)
_DISTANCES = (9.0, 20.0, 34.0, 52.0, 74.0)
_OUTSIDE = 1e6
_COVERED = 1e3


@dataclass(frozen=True)
class Box:
    """A rectangle in pixels; y grows downwards."""

    left: float
    top: float
    right: float
    bottom: float

    def overlap(self, other: Box) -> float:
        """Return the shared area in square pixels."""
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.bottom, other.bottom) - max(self.top, other.top)
        return max(0.0, width) * max(0.0, height)

    def holds(self, other: Box) -> bool:
        """Return whether the other box lies wholly inside."""
        return (
            self.left <= other.left
            and self.top <= other.top
            and self.right >= other.right
            and self.bottom >= other.bottom
        )


@dataclass(frozen=True)
class Mark:
    """A point in pixels with the lines of text that name it."""

    x: float
    y: float
    text: tuple[str, ...]


@dataclass(frozen=True)
class Axis:
    """A linear scale from values to pixels, with its round ticks."""

    low: float
    high: float
    start: float
    stop: float
    ticks: tuple[float, ...]

    def __call__(self, value: float) -> float:
        """Return the pixel of a value."""
        return self.start + (value - self.low) / (self.high - self.low) * (self.stop - self.start)


def round_axis(low: float, high: float, start: float, stop: float, *, most: int = 6) -> Axis:
    """Return a scale that covers `low` to `high` and ends on round ticks, of which there are at most `most`."""
    step = _round_step(high - low, most)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    last = max(last, first + 1)
    ticks = tuple(round(index * step, 12) for index in range(first, last + 1))
    return Axis(ticks[0], ticks[-1], start, stop, ticks)


def _round_step(span: float, most: int) -> float:
    """Return 1, 2 or 5 times a power of ten, so that no more than `most` ticks are needed for `span`."""
    if span <= 0:
        return 1.0
    rough = span / max(1, most - 2)
    power = 10.0 ** math.floor(math.log10(rough))
    return power * next(step for step in _ROUND_STEPS if step * power >= rough * (1 - 1e-9))


def tick_text(value: float, step: float) -> str:
    """Write a tick with just the decimals that its step needs."""
    return f"{value:.{max(0, -math.floor(math.log10(step) + 1e-9))}f}"


def gathered(marks: Iterable[Mark], radius: float) -> list[Mark]:
    """Join marks that lie within `radius` of the first of their group into one, at its place, a line for each."""
    groups: list[Mark] = []
    for mark in marks:
        near = next((i for i, g in enumerate(groups) if math.hypot(g.x - mark.x, g.y - mark.y) <= radius), None)
        if near is None:
            groups.append(mark)
        else:
            groups[near] = Mark(groups[near].x, groups[near].y, (*groups[near].text, *mark.text))
    return groups


def place_labels(marks: Sequence[Mark], frame: Box, light: Sequence[Box] = ()) -> list[Box]:
    """Return a box for each mark's text inside `frame`.

    Greedy: each mark in turn takes the nearest of eight directions at five distances that covers no other label and
    no point, and as little as possible of the `light` boxes (error bars).
    """
    points = [Box(mark.x - 6, mark.y - 6, mark.x + 6, mark.y + 6) for mark in marks]
    placed: list[Box] = []
    for mark in marks:
        candidates = list(_candidates(mark))
        costs = [_cost(box, rank, frame, [*points, *placed], light) for rank, box in enumerate(candidates)]
        placed.append(candidates[costs.index(min(costs))])
    return placed


def _candidates(mark: Mark) -> Iterable[Box]:
    """Yield boxes around a mark, the nearest and most readable first."""
    width = max(len(line) for line in mark.text) * CHARACTER_WIDTH
    height = len(mark.text) * LINE_HEIGHT
    for distance in _DISTANCES:
        for right, down in ((1, 0), (-1, 0), (1, -1), (1, 1), (-1, -1), (-1, 1), (0, -1), (0, 1)):
            left = mark.x + right * distance - (0 if right > 0 else width if right < 0 else width / 2)
            top = mark.y + down * distance - (0 if down > 0 else height if down < 0 else height / 2)
            yield Box(left, top, left + width, top + height)


def _cost(box: Box, rank: int, frame: Box, heavy: Iterable[Box], light: Iterable[Box]) -> float:
    """Return how bad a place is: outside the frame, over labels and points, over error bars, far away."""
    covered = sum(box.overlap(other) for other in heavy)
    crossed = sum(box.overlap(other) for other in light)
    return (0 if frame.holds(box) else _OUTSIDE) + _COVERED * covered + crossed / 4 + rank
