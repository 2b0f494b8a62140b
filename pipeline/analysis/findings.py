"""What is worth a look in an inspected file: layers left in float, conversions, bad scales, dead channels.

All of it follows from the layers and their links; nothing is run.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

import numpy as np

from pipeline.compress.quantization.qdq import SMALLEST_SCALE
from pipeline.results.file_inspection import FLOATS, INTEGERS, Finding, FloatIsland

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from pipeline.analysis.precision_map import Link
    from pipeline.results.file_inspection import FileLayer, Quantizer

#: Share of outputs beyond the range from which on it is told; percentile calibration cuts off up to 1e-3.
_CLIPPED = 0.005
#: Operators that only move numbers or look at shapes: in float they cost nothing to speak of.
MOVERS = frozenset(
    "Reshape Flatten Squeeze Unsqueeze Identity Cast Shape Gather Slice Concat Split Transpose Pad Expand Dropout "
    "ShapeOf Convert Broadcast StridedSlice VariadicSplit".split()
)


def float_islands(layers: Sequence[FileLayer], links: Sequence[Link]) -> tuple[FloatIsland, ...]:
    """Return the layers that compute in float between integer ones, those that touch each other together.

    A tensor counts where it is dequantized for such a layer or quantized after it: read in one type and written in the
    other, once for each tensor and direction. Runtimes narrow it earlier than the file says where only a Reshape or its
    like stands between.
    """
    whole = {layer.name for layer in layers if layer.computed_in in INTEGERS}
    numbers = {layer.name: layer.outputs for layer in layers}
    found = []
    for together in _touching([layer for layer in layers if _in_float(layer)], links):
        names = {layer.name for layer in together}
        widened = [link for link in links if link.reader in names and link.quantizer and link.maker]
        narrowed = [link for link in links if link.maker in names and (link.quantizer or link.reader in whole)]
        between = any(link.maker in whole for link in widened) and any(link.reader in whole for link in narrowed)
        if between:
            ways = {("widened", link.tensor): link for link in widened}
            ways |= {("narrowed", link.tensor): link for link in narrowed}
            found.append(
                FloatIsland(
                    layers=tuple(layer.name for layer in together),
                    operators=tuple(layer.operator for layer in together),
                    tensors=tuple(dict.fromkeys(link.tensor for link in ways.values())),
                    converted_bytes=_bytes(list(ways.values()), numbers),
                )
            )
    return tuple(found)


def inspection_findings(layers: Sequence[FileLayer], found_islands: Sequence[FloatIsland]) -> tuple[Finding, ...]:
    """Return everything to look at, what costs most first. A file without integers has nothing left in float."""
    quantized = any({layer.precision, layer.computed_in} & INTEGERS for layer in layers)
    told = [*_zero_scales(layers), *_saturated(layers)]
    if quantized:
        inside = {name for island in found_islands for name in island.layers}
        outside = [layer for layer in layers if layer.name not in inside]
        told += [*_runs_in_float(layers), *_islands(found_islands), *_left_in_float(outside)]
    return (*told, *_clipped(layers), *_dead(layers))


def _in_float(layer: FileLayer) -> bool:
    return layer.computed_in in FLOATS and layer.fused_into is None


def _touching(layers: Sequence[FileLayer], links: Sequence[Link]) -> Iterator[list[FileLayer]]:
    """Yield layers that hand tensors to each other, all in the order of computation."""
    names = {layer.name for layer in layers}
    beside: dict[str, set[str]] = defaultdict(set)
    for link in links:
        if link.maker in names and link.reader in names:
            beside[link.maker].add(link.reader)
            beside[link.reader].add(link.maker)
    done: set[str] = set()
    for layer in layers:
        if layer.name in done:
            continue
        group, waiting = set[str](), [layer.name]
        while waiting:
            here = waiting.pop()
            group.add(here)
            waiting.extend(beside[here] - group)
        done |= group
        yield [each for each in layers if each.name in group]


def _bytes(ways: Sequence[Link], numbers: Mapping[str, int | None]) -> int | None:
    """Return bytes read and written by conversions between float32 and the quantizers' types."""
    total = 0
    for link in ways:
        size = numbers.get(link.maker or "")
        if size is None:
            return None
        total += size * 4 + size * (link.quantizer.bits if link.quantizer else 8) // 8
    return total


def _zero_scales(layers: Sequence[FileLayer]) -> Iterator[Finding]:
    """Yield tensors whose scale is zero, not finite, or too small: all their numbers become one."""
    bad: dict[str, str] = {}
    for layer in layers:
        weights = [layer.weights.quantizer] if layer.weights and layer.weights.quantizer else []
        for quantizer in (*weights, *layer.reads, *((layer.makes,) if layer.makes else ())):
            if _is_bad(quantizer):
                bad.setdefault(quantizer.tensor, layer.name)
    if bad:
        names = ", ".join(bad)
        yield Finding(
            kind="zero scale",
            message=f"scales that are zero, not finite or below {SMALLEST_SCALE:.1e}: {names}. Their values are lost",
            layers=tuple(dict.fromkeys(bad.values())),
        )


def _is_bad(quantizer: Quantizer) -> bool:
    if quantizer.scale_min is None or quantizer.scale_max is None:
        return False
    return not (quantizer.scale_min >= SMALLEST_SCALE and np.isfinite(quantizer.scale_max))


def _saturated(layers: Sequence[FileLayer]) -> Iterator[Finding]:
    """Yield layers in which stored numbers stand at the end of their type."""
    names = tuple(layer.name for layer in layers if layer.saturated_bias)
    if names:
        yield Finding(
            kind="saturated",
            message="biases at the limit of 32 bits: the scales of input and weight are too small for them",
            layers=names,
        )


def _runs_in_float(layers: Sequence[FileLayer]) -> Iterator[Finding]:
    wrong = [layer for layer in layers if layer.precision in INTEGERS and layer.ran_in in FLOATS]
    if wrong:
        kinds = ", ".join(dict.fromkeys(layer.operator for layer in wrong))
        yield Finding(
            kind="runs in float",
            message=f"quantized in the file, computed in float by the runtime: {kinds}",
            layers=tuple(layer.name for layer in wrong),
        )


def _islands(found: Sequence[FloatIsland]) -> Iterator[Finding]:
    """Yield the islands, those of the same operators together."""
    alike: dict[str, list[FloatIsland]] = defaultdict(list)
    for island in found:
        alike[", ".join(dict.fromkeys(island.operators))].append(island)
    for operators, same in sorted(alike.items(), key=lambda each: -_total(each[1])):
        size = f": {_total(same):,} bytes read and written per inference" if _total(same) else ""
        places = f" in {len(same)} places" if len(same) > 1 else ""
        yield Finding(
            kind="float island",
            message=f"{operators} in float between integer layers{places}, dequantized and quantized again{size}",
            layers=tuple(name for island in same for name in island.layers),
        )


def _total(found: Sequence[FloatIsland]) -> int:
    return sum(island.converted_bytes or 0 for island in found)


def _left_in_float(layers: Sequence[FileLayer]) -> Iterator[Finding]:
    """Yield what computes in float, by operator; what only moves numbers is left out."""
    by_operator: dict[str, list[str]] = defaultdict(list)
    for layer in layers:
        if _in_float(layer) and layer.operator not in MOVERS and layer.precision not in INTEGERS:
            by_operator[layer.operator].append(layer.name)
    for operator, names in sorted(by_operator.items(), key=lambda each: -len(each[1])):
        yield Finding(kind="left in float", message=f"{operator} is left in float", layers=tuple(names))


def _clipped(layers: Sequence[FileLayer]) -> Iterator[Finding]:
    much = sorted(
        (layer for layer in layers if layer.clipped is not None and layer.clipped >= _CLIPPED),
        key=lambda layer: -(layer.clipped or 0.0),
    )
    if much:
        most = f"{much[0].name}: {100 * (much[0].clipped or 0.0):.1f} %"
        yield Finding(
            kind="clipped",
            message=f"outputs beyond the range of their scale, most in {most}",
            layers=tuple(layer.name for layer in much),
        )


def _dead(layers: Sequence[FileLayer]) -> Iterator[Finding]:
    dead = [layer for layer in layers if layer.dead_channels]
    if not dead:
        return
    total = sum(layer.dead_channels or 0 for layer in dead)
    of = sum(layer.channels or 0 for layer in dead)
    known = [layer.lost_channels for layer in dead if layer.lost_channels is not None]
    lost = f"; {sum(known)} of them change in the float file" if known else ""
    yield Finding(
        kind="dead channels",
        message=f"{total} of {of} channels never change on these inputs{lost}",
        layers=tuple(layer.name for layer in sorted(dead, key=lambda layer: -(layer.dead_channels or 0))),
    )
