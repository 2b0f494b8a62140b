"""What one stage bought and what it cost, read from its verdict, and the row that the run is about."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pipeline.core.nearness import BACK, FAR
from pipeline.core.runtimes import last_readable
from pipeline.report import numbers

if TYPE_CHECKING:
    from pipeline.core.stage import Target
    from pipeline.results.run import Row, RunReport, Timing

Tone = Literal["better", "worse", "unsure", "nothing", "plain"]

_NOTHING = "bought nothing"
_SKIPPED = "skipped: no gain"
#: What the net under quantization said.
_NET: dict[str, Tone] = {FAR: "worse", BACK: "unsure"}
_BETTER = (" faster", " smaller")
_WORSE = (" slower", " larger")


@dataclass(frozen=True)
class Chip:
    """One thing that a stage bought or cost, in two or three words, or that it bought nothing or was skipped."""

    text: str
    tone: Tone


def told(verdict: str) -> tuple[tuple[Chip, ...], str]:
    """Split a verdict such as "1.90x faster, 71% smaller, for -0.31 points" into its gains and costs, and the rest.

    What is neither a gain nor a cost nor "bought nothing" stays text, as it is written. Of a stage that was skipped,
    or whose file is far from its float file, the reason is the rest.
    """
    if verdict.startswith(_SKIPPED):
        return (Chip(_SKIPPED, "nothing"),), verdict.removeprefix(f"{_SKIPPED} (").removesuffix(")")
    chips: list[Chip] = []
    rest: list[str] = []
    for part in filter(None, verdict.split(", ")):
        words = part.removeprefix("for ").removeprefix("cost ")
        net = next((each for each in _NET if words.startswith(each)), None)
        if net:
            chips.append(Chip(net, _NET[net]))
            rest.append(words.removeprefix(f"{net}: "))
        elif words.startswith(_NOTHING):
            chips.append(Chip(_NOTHING, "nothing"))
            rest.extend(filter(None, [words.removeprefix(_NOTHING).strip(" :;()")]))
        elif tone := _tone(words):
            chips.append(Chip(words.replace("-", numbers.MINUS), tone))
        else:
            rest.append(part)
    return tuple(chips), ", ".join(rest)


def timing(row: Row, target: Target) -> Timing | None:
    """Return a row's latency in the target runtime with the target's number of threads, if it was taken."""
    found = (t for t in row.timings if t.runtime == target.runtime and t.threads == target.threads)
    return next(found, None)


def made(report: RunReport) -> tuple[Row, ...]:
    """Return the rows that have a file of their own: all but those of stages that only look or were skipped."""
    return tuple(row for row in report.rows if not row.looks and not row.skipped)


def result(report: RunReport) -> Row:
    """Return the row of the file that the run is about: the last one that the target's runtime reads."""
    rows = made(report)
    return rows[last_readable((row.form for row in rows), report.target.runtime)]


def _tone(words: str) -> Tone | None:
    """Say whether words tell a gain or a cost."""
    points = words.endswith(" points")
    if words.endswith(_BETTER) or (points and words.startswith("+")):
        return "better"
    if words.endswith(_WORSE) or (points and words.startswith("-")):
        return "worse"
    return None
