"""An inspection as text that every form of it shares: headline figures, group table, reasons."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.report import numbers

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pipeline.results.inspection import Inspection, Layer, Part

TIMES = "\N{MULTIPLICATION SIGN}"
_NUMBER = re.compile(r"(?<![^.])\d+(?![^.])")


@dataclass(frozen=True)
class Figure:
    """One headline number with its name and a remark."""

    name: str
    number: str
    note: str


@dataclass(frozen=True)
class GroupLine:
    """One group as a table shows it; shares are of the network's MACs, 0 to 1."""

    name: str
    width: str
    makers: tuple[str, ...]
    readers: tuple[str, ...]
    along: tuple[str, ...]
    parameters: str
    macs: str
    share: float
    saved: str
    saved_share: float


@dataclass(frozen=True)
class KeptReason:
    """Why layers cannot be pruned, which ones, and where the operator stands that prevents it."""

    text: str
    layers: tuple[str, ...]
    places: tuple[str, ...]


def figures(inspection: Inspection) -> tuple[Figure, ...]:
    """Return the headline: parameters, MACs, groups, what of the MACs can be pruned, how many layers cannot."""
    shapes = " and ".join(TIMES.join(map(str, spec.shape[1:])) for spec in inspection.inputs)
    channels = sum(group.width for group in inspection.groups if group.width > 1)
    whole, layers = len(inspection.layers_kept_whole), len(inspection.layers)
    return (
        Figure("Parameters", numbers.count(inspection.parameters), f"in {numbers.plural(layers, 'layer')}"),
        Figure("MACs", numbers.count(inspection.macs), f"of one input {shapes}"),
        Figure("Groups", str(len(inspection.groups)), f"of {numbers.plural(channels, 'channel')} that can be removed"),
        Figure("Prunable", share(inspection.prunable_macs, inspection.macs), "of the MACs involve a removable channel"),
        Figure("Unprunable", f"{whole} of {layers}", "layers, in their outputs"),
    )


def group_lines(inspection: Inspection) -> tuple[GroupLine, ...]:
    """Return the rows of the group table in forward order."""
    return tuple(
        GroupLine(
            name=group.name,
            width=str(group.width),
            makers=condensed(group.makers),
            readers=condensed(group.readers),
            along=condensed(group.along),
            parameters=numbers.count(group.parameters),
            macs=numbers.count(group.macs),
            share=_fraction(group.macs, inspection.macs),
            saved=share(group.saved_macs, inspection.macs),
            saved_share=_fraction(group.saved_macs, inspection.macs),
        )
        for group in inspection.groups
    )


def reasons(inspection: Inspection) -> tuple[KeptReason, ...]:
    """Return why layers cannot be pruned, except for operators without a rule."""
    return tuple(
        KeptReason(why.reason, condensed(why.layers), condensed(why.places))
        for why in inspection.kept_whole
        if why.has_rule
    )


def without_rule(inspection: Inspection) -> tuple[KeptReason, ...]:
    """Return the operators that have no rule, with what they keep whole."""
    return tuple(
        KeptReason(why.operator or why.reason, condensed(why.layers), condensed(why.places))
        for why in inspection.kept_whole
        if not why.has_rule
    )


def condensed(names: Iterable[str]) -> tuple[str, ...]:
    """Write names that differ in their numbers alone as one: 'layer1.[0-2].conv2'. Order is that of the first.

    Where they differ in more than one number: 'layer*.*.conv2 (8)', with how many they are.
    """
    alike: dict[str, list[str]] = {}
    for name in names:
        alike.setdefault(_NUMBER.sub("*", name), []).append(name)
    return tuple(_as_one(found) for found in alike.values())


def _as_one(names: list[str]) -> str:
    columns = list(zip(*(name.split(".") for name in names), strict=True))
    differing = [position for position, column in enumerate(columns) if len(set(column)) > 1]
    parts = [column[0] for column in columns]
    for position in differing:
        parts[position] = f"[{_ranges(map(int, columns[position]))}]" if len(differing) == 1 else "*"
    return ".".join(parts) + (f" ({len(names)})" if len(differing) > 1 else "")


def _ranges(values: Iterable[int]) -> str:
    """Write whole numbers as ranges: '0-2,5'."""
    runs: list[list[int]] = []
    for value in sorted(set(values)):
        if runs and value == runs[-1][-1] + 1:
            runs[-1].append(value)
        else:
            runs.append([value])
    return ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def share(part: int, whole: int) -> str:
    """Write a share of something in percent with one decimal; a dash where the whole is nothing."""
    return f"{100 * part / whole:.1f} %" if whole else numbers.DASH


def _fraction(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


def tooltip_lines(layer: Layer, inspection: Inspection) -> str:
    """Describe one layer in a few lines, for a tooltip."""
    lines = [
        f"{layer.name}: {layer.kind}",
        *(_side("reads", part) for part in layer.reads),
        *(_side("makes", part) for part in layer.makes),
        f"{numbers.count(layer.macs)} MACs ({share(layer.macs, inspection.macs)})",
        f"{numbers.count(layer.parameters)} parameters",
    ]
    return "\n".join(lines)


def _side(verb: str, part: Part) -> str:
    channels = numbers.plural(part.channels, "channel")
    if part.group is not None:
        return f"{verb} {channels} of group {part.group}"
    return f"{verb} {channels} that stay{f': {part.reason}' if part.reason else ''}"
