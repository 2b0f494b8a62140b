"""Where the groups of an inspection are drawn: a lane next to the rows of their layers, and a colour, for each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pipeline.results.inspection import Inspection

#: Colours of the page's style sheet, k0 to k7. Neighbouring groups differ; further apart, colours come again.
COLOURS = 8


@dataclass(frozen=True)
class Span:
    """The rows (from 0) of the layers that make and that read a group's channels."""

    makers: tuple[int, ...]
    readers: tuple[int, ...]

    @property
    def first(self) -> int:
        """The first of these rows."""
        return min((*self.makers, *self.readers))

    @property
    def last(self) -> int:
        """The last of these rows."""
        return max((*self.makers, *self.readers))

    def meets(self, other: Span, apart: int = 0) -> bool:
        """Say whether the two overlap, or have fewer than `apart` rows between them."""
        return self.first - apart <= other.last and other.first - apart <= self.last


@dataclass(frozen=True)
class Rail:
    """One group in the drawing.

    `number` counts the groups from 1 in the table's order. `lane` counts from the left; None: no room for its line.
    """

    number: int
    span: Span
    colour: int
    lane: int | None


def rails(inspection: Inspection, most: int) -> dict[str, Rail]:
    """Return the rail of each group by name, on at most `most` lanes. A group without a drawn layer has none."""
    rows = {layer.name: row for row, layer in enumerate(inspection.layers)}
    spans, numbered = {}, {}
    for number, group in enumerate(inspection.groups, 1):
        makers, readers = (
            tuple(sorted(rows[layer] for layer in layers if layer in rows)) for layers in (group.makers, group.readers)
        )
        if makers or readers:
            spans[group.name], numbered[group.name] = Span(makers, readers), number
    colour, lane = colours(spans), lanes(spans, most)
    return {name: Rail(numbered[name], span, colour[name], lane[name]) for name, span in spans.items()}


def colours(spans: Mapping[str, Span]) -> dict[str, int]:
    """Give each group, from top to bottom, the colour that has been unused for longest and that no neighbour has."""
    given: dict[str, int] = {}
    recent = list(range(COLOURS))
    for name in sorted(spans, key=lambda name: spans[name].first):
        near = {colour for other, colour in given.items() if spans[other].meets(spans[name], apart=2)}
        chosen = next((colour for colour in recent if colour not in near), recent[0])
        recent.remove(chosen)
        recent.append(chosen)
        given[name] = chosen
    return given


def lanes(spans: Mapping[str, Span], most: int) -> dict[str, int | None]:
    """Put each group on the first lane that is free along its rows, long ones first: trunks stay on the left."""
    taken: list[list[Span]] = [[] for _ in range(most)]
    given: dict[str, int | None] = {}
    for name in sorted(spans, key=lambda name: (spans[name].first - spans[name].last, spans[name].first)):
        lane = next(
            (lane for lane, there in enumerate(taken) if not any(spans[name].meets(other) for other in there)), None
        )
        if lane is not None:
            taken[lane].append(spans[name])
        given[name] = lane
    return given
