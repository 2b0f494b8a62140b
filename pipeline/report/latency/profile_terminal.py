"""A cost model in the terminal: the whole file, what sets its floor, classes of operators, the longest layers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich import box
from rich.bar import Bar
from rich.console import Group
from rich.table import Table
from rich.text import Text

from pipeline.report import numbers

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import RenderableType

    from pipeline.results.profile import ClassPrice, CostProfile, FittedPrices, PriceFloor

#: Layers that are named; the others share a line.
LONGEST = 12
_BAR_WIDTH = 24
#: A nanosecond: less is nothing.
_LEAST_MS = 1e-6
_COARSE = (
    "None by layer: the file has no template, so that times follow multiply-accumulates alone. A target is met by "
    "measuring at each step."
)
_READ = (
    "Granule: the step of widths in which the class's time rises; widths are best multiples of it. Times are those of "
    "the model, which shares out the whole file's."
)


def profile_table(profile: CostProfile) -> RenderableType:
    """Return what `secateur profile` prints. Text from the network is never read as rich's markup."""
    heading = f"{profile.network}: {profile.precision} file, {_place(profile)}"
    parts: list[RenderableType] = [Text(heading, style="bold"), _facts(profile), Text()]
    if profile.fitted:
        parts += [_classes(profile.fitted), Text(), _layers(profile.fitted), Text(_READ, style="dim")]
    return Group(*parts)


def _place(profile: CostProfile) -> str:
    threads = numbers.plural(profile.threads, "thread")
    return f"{profile.runtime} {profile.runtime_version} on {profile.device}, {threads}, batch {profile.batch}"


def _facts(profile: CostProfile) -> Table:
    found = Table.grid(padding=(0, 2, 0, 0))
    found.add_column(no_wrap=True)
    found.add_column(overflow="fold")
    for name, text in _lines(profile):
        found.add_row(Text(name, style="dim"), text)
    return found


def _lines(profile: CostProfile) -> Iterator[tuple[str, Text]]:
    whole = profile.whole
    yield "Whole file", Text(f"{numbers.milliseconds(whole.value)} {numbers.bounds(whole)}")
    if profile.fitted:
        yield "Floor", Text(_floor(profile.fitted.floor, whole.value))
        yield "Model's error", _error(profile.fitted)
    elif profile.probes or not profile.sizes:
        yield "Cost model", Text(_COARSE)
    for each in profile.sizes:
        share = f"{numbers.significant(each.ratio.value)}x {numbers.bounds(each.ratio)}"
        yield f"With {each.side} px", Text(f"{numbers.milliseconds(each.ratio.value * whole.value)}, {share}")
    yield "Probes", Text(f"{len(profile.probes)} in {numbers.duration(profile.seconds)}")


def _floor(floor: PriceFloor, whole_ms: float) -> str:
    """Write the least that can be reached, and what sets it, the largest part first."""
    parts = sorted(floor.parts.items(), key=lambda item: -item[1])
    why = ", ".join(f"{name} {numbers.milliseconds(ms)}" for name, ms in parts if ms >= _LEAST_MS)
    least = f"{numbers.significant(floor.factor)}x, {numbers.milliseconds(floor.factor * whole_ms)}"
    return f"{least}: {why}" if why else least


def _error(fitted: FittedPrices) -> Text:
    error = fitted.error
    told = f"{100 * error.median:.1f} % in the median, {100 * error.p90:.1f} % in one of ten, of states held out: "
    verdict = ("trusted", "green") if error.trusted else ("not trusted: every step will be measured", "yellow")
    return Text.assemble(told, verdict)


def _table(*columns: tuple[str, bool]) -> Table:
    """Return an empty table; of each column its title and whether it holds numbers."""
    found = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    for title, number in columns:
        found.add_column(title, justify="right" if number else "left", no_wrap=number, overflow="fold")
    return found


def _classes(fitted: FittedPrices) -> Table:
    """Return the classes of operators, the longest first, with their share as a bar; at the end what no node takes."""
    classes = sorted(fitted.classes, key=lambda each: -each.milliseconds)
    longest = max((each.milliseconds for each in classes), default=0.0) or 1.0
    found = _table(
        ("Operators", False), ("Nodes", True), ("Time", True), ("Share", True), ("", False), ("Granule", True)
    )
    for each in classes:
        bar = Bar(longest, 0, each.milliseconds, width=_BAR_WIDTH, color="blue")
        found.add_row(Text(each.name), str(each.layers), *_time(each.milliseconds, fitted), bar, _granule(each))
    if overhead := fitted.floor.parts.get("overhead"):
        found.add_row(Text("outside of nodes", style="dim"), "", *_time(overhead, fitted))
    return found


def _time(milliseconds: float, fitted: FittedPrices) -> tuple[str, str]:
    """Write a time and its share of the whole file's."""
    whole = sum(each.milliseconds for each in fitted.layers) + fitted.floor.parts.get("overhead", 0.0)
    shown = milliseconds if milliseconds >= _LEAST_MS else 0.0
    return numbers.milliseconds(shown), f"{100 * milliseconds / (whole or 1.0):.1f} %"


def _granule(price: ClassPrice) -> Text:
    return Text("not seen", style="dim") if price.granule is None else Text(str(price.granule))


def _layers(fitted: FittedPrices) -> Table:
    layers = sorted(fitted.layers, key=lambda each: -each.milliseconds)
    found = _table(("Longest", False), ("Operator", False), ("Time", True), ("Share", True))
    for each in layers[:LONGEST]:
        found.add_row(Text(each.name, style="bold"), Text(each.operator), *_time(each.milliseconds, fitted))
    if rest := layers[LONGEST:]:
        named = Text(numbers.plural(len(rest), "other node"), style="dim")
        found.add_row(named, "", *_time(sum(each.milliseconds for each in rest), fitted))
    return found
