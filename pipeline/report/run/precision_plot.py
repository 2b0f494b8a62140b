"""The drawing of a search for a precision: change in accuracy over speedup, one point for each file that has both.

Colours, fonts and dark mode come from the page's style sheet by class name. Shapes differ as well: the float file is
a hollow square, the chosen file a filled diamond, one that was kept a filled circle, one that was dropped a cross.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from markupsafe import Markup

from pipeline.report import numbers
from pipeline.report.drawing import chart, svg
from pipeline.report.drawing.chart import NamedPoint
from pipeline.report.drawing.placement import CHARACTER_WIDTH, LINE_HEIGHT, Axis, Box, round_axis
from pipeline.report.run import precision_rows, rows

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pipeline.results.precision import CandidateFile, PrecisionPlan

_WIDE, _NARROW, _HEIGHT = 1000, 360, 420
_LETTERS_WIDE, _LETTERS_NARROW = 40, 22
_ROOM = 210  # px that the name of the float file's speed needs, beside the word in the corner
#: A file that lost more than this many points, and four times what may be lost, is drawn at the lower edge.
_DEEPEST, _TIMES_ALLOWED = 3.0, 4.0


@dataclass(frozen=True)
class _Point:
    """One candidate on the scales: change in accuracy in points and speedup, each with its interval.

    The float file is what all others are compared with: no change, and a speedup of 1.
    """

    number: int
    candidate: CandidateFile
    change: float = 0.0
    changes: tuple[float, float] = (0.0, 0.0)
    speed: float = 1.0
    speeds: tuple[float, float] = (1.0, 1.0)

    @property
    def role(self) -> str:
        return self.candidate.state if self.number else "float"


def score_over_speedup(plan: PrecisionPlan, *, wide: bool = True) -> Markup:
    """Draw the change in accuracy over the speedup; empty when no candidate but the float file has both.

    Lines: the allowed drop, and the float file's speed. Whiskers: the intervals of both numbers.
    """
    drawn = _drawn(plan)
    if len(drawn) < 2:  # noqa: PLR2004 - one point compares nothing
        return Markup()
    width = _WIDE if wide else _NARROW
    frame = Box(52, 48, width - 14, _HEIGHT - 46)
    across, up = _axes(drawn, plan, frame, most=10 if wide else 6)
    plot = _Plot(plan, frame, across, up, _LETTERS_WIDE if wide else _LETTERS_NARROW)
    return svg.picture(
        (width, _HEIGHT), f"Change in {plan.metric.name} over speedup", _description(drawn, plan), plot.parts(drawn)
    )


def not_drawn(plan: PrecisionPlan) -> str:
    """Say how many candidates lack one of the two numbers, or nothing."""
    left = len(plan.candidates) - len(_drawn(plan))
    return f"{numbers.plural(left, 'candidate')} without one of the two numbers: not drawn." if left else ""


def _drawn(plan: PrecisionPlan) -> list[_Point]:
    found = [_Point(0, plan.candidates[0])]
    for number, each in enumerate(plan.candidates[1:], start=1):
        gap, factor = each.difference, each.speedup
        if gap and factor:
            scale = _scale(plan)
            changes, speeds = sorted((scale * gap.low, scale * gap.high)), (factor.low, factor.high)
            found.append(_Point(number, each, scale * gap.value, (changes[0], changes[1]), factor.value, speeds))
    return found


def _scale(plan: PrecisionPlan) -> float:
    """Return what a difference of scores is multiplied with: shares become points, and better is upwards."""
    return (100 if plan.metric.is_share else 1) * (1 if plan.metric.higher_is_better else -1)


def _drop(plan: PrecisionPlan) -> float:
    """Return how much may be lost, on the scale of the drawing."""
    whole = abs(_scale(plan) * (plan.candidates[0].accuracy or 0.0))
    return plan.accuracy_drop / 100 * whole if plan.drop_unit == "%" else plan.accuracy_drop


def _axes(drawn: Sequence[_Point], plan: PrecisionPlan, frame: Box, most: int) -> tuple[Axis, Axis]:
    """Return the scale of speedups and that of points, which ends where reading a loss would help nobody."""
    drop = _drop(plan)
    deepest = -max(_DEEPEST if plan.metric.is_share else 0.0, _TIMES_ALLOWED * drop)
    lowest = min(-1.2 * drop, *(min(point.change, point.changes[0]) for point in drawn))
    highest = max(0.0, *(max(point.change, point.changes[1]) for point in drawn))
    slowest = min(1.0, *(min(point.speed, point.speeds[0]) for point in drawn))
    fastest = max(1.0, *(max(point.speed, point.speeds[1]) for point in drawn))
    across = round_axis(slowest, fastest, frame.left, frame.right, most=most)
    return across, round_axis(max(lowest, deepest), highest, frame.bottom, frame.top, most=8)


@dataclass(frozen=True)
class _Plot:
    plan: PrecisionPlan
    frame: Box
    across: Axis
    up: Axis
    letters: int

    def parts(self, drawn: Sequence[_Point]) -> Iterator[Markup]:
        """Yield everything, what lies below first; the chosen file is drawn last and labelled first."""
        chosen = self.plan.chosen
        ordered = sorted(drawn, key=lambda point: (point.number == chosen, point.number == 0, point.number))
        yield chart.grid(self.across, self.up, self.frame)
        yield from self._limits()
        yield from self._titles()
        yield from (self._candidate(point) for point in ordered)
        named = [self._named(point) for point in reversed(ordered)]
        yield from chart.labels(named, self.frame, self._beside())

    def _limits(self) -> Iterator[Markup]:
        """Yield the field where a file may ship, the line of the allowed drop, and that of the float file's speed."""
        frame, drop, same = self.frame, self.up(-_drop(self.plan)), self.across(1.0)
        yield svg.rectangle("allowed", same, frame.top, frame.right - same, drop - frame.top)
        yield svg.line("limit", frame.left, drop, frame.right, drop)
        yield svg.line("limit", same, frame.top, same, frame.bottom)
        yield svg.text("hint", frame.right - 4, drop + 14, self._allowed, "end")
        anchor = "start" if same < frame.right - _ROOM else "end"
        yield svg.text("hint", same, frame.top - 6, "1x, as fast as float", anchor)

    @property
    def _allowed(self) -> str:
        return f"allowed: {precision_rows.allowed_change(self.plan)}"

    def _beside(self) -> tuple[Box, Box, Box]:
        """Return the boxes of both lines and of the name of the lower one, which labels had better not cover."""
        frame, drop, same = self.frame, self.up(-_drop(self.plan)), self.across(1.0)
        words = Box(frame.right - 4 - CHARACTER_WIDTH * len(self._allowed), drop, frame.right, drop + LINE_HEIGHT + 3)
        return words, Box(frame.left, drop - 2, frame.right, drop + 2), Box(same - 2, frame.top, same + 2, frame.bottom)

    def _titles(self) -> Iterator[Markup]:
        frame = self.frame
        where = rows.place(self.plan.runtime, self.plan.threads)
        middle = (frame.left + frame.right) / 2
        unit = numbers.score_change_unit(self.plan.metric)
        yield svg.text("name", 4, 16, f"Change in validation {self.plan.metric.name}, {unit}")
        yield svg.text("name", middle, frame.bottom + 38, f"Speedup over the float file, {where}", "middle")
        yield svg.text("hint", frame.right, frame.top - 6, "better \N{NORTH EAST ARROW}", "end")

    def _height(self, change: float) -> float:
        """Return the pixel of a change in accuracy; what lies below the scale comes to its edge."""
        return self.up(max(change, self.up.low))

    def _candidate(self, point: _Point) -> Markup:
        x, y = self.across(point.speed), self._height(point.change)
        slow, fast = map(self.across, point.speeds)
        low, high = map(self._height, point.changes)
        kind = f"whisker {point.role}"
        parts = [svg.line(kind, slow, y, fast, y), svg.line(kind, x, low, x, high)]
        if point.change < self.up.low:
            parts.append(_shape("below", f"M{x - 5:.1f} {y + 7:.1f}h10l-5 8z"))
        parts += self._symbols(point, x, y)
        return svg.group(
            "candidate",
            parts,
            precision_rows.tooltip_lines(precision_rows.line(point.number, point.candidate, self.plan.metric)),
        )

    def _symbols(self, point: _Point, x: float, y: float) -> Iterator[Markup]:
        """Yield the sign of one candidate; the float file that was chosen has both signs."""
        if point.number == 0:
            yield svg.rectangle("symbol float", x - 6, y - 6, 12, 12)
        if point.number == self.plan.chosen:
            size = 8 if point.number else 5
            yield _shape("symbol chosen", f"M{x:.1f} {y - size:.1f}l{size} {size}l-{size} {size}l-{size} -{size}z")
        elif point.role == "dropped":
            yield _shape("symbol dropped", f"M{x - 5:.1f} {y - 5:.1f}l10 10m0 -10l-10 10")
        elif point.number:
            yield svg.circle("symbol kept", x, y, 5)

    def _named(self, point: _Point) -> NamedPoint:
        x = self.across(point.speed)
        low, high = map(self._height, point.changes)
        beyond = f" ({numbers.signed(point.change, 1)})" if point.change < self.up.low else ""
        return NamedPoint(
            x,
            self._height(point.change),
            chart.shortened(f"{point.number} {point.candidate.label}", self.letters) + beyond,
            f"{point.number}{beyond}",
            Box(x - 2, high, x + 2, low),
            strong=point.number in {0, self.plan.chosen},
        )


def _shape(kind: str, path: str) -> Markup:
    return Markup('<path class="{}" d="{}"/>').format(kind, path)


def _description(drawn: Sequence[_Point], plan: PrecisionPlan) -> str:
    """Tell the drawing to those who cannot see it."""
    return "; ".join(
        f"{point.number} {point.candidate.label}: {numbers.ratio(point.speed)}, "
        f"{numbers.signed(point.change, 2)} {numbers.score_change_unit(plan.metric)}, {point.candidate.state}"
        for point in drawn
    )
