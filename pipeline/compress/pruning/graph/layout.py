"""Rules for operators that move numbers and change none: reshape, permute, concatenate, split, pad.

A stored tensor stays a stored tensor through them. The table of all rules is in graph_rules.py.
"""

from __future__ import annotations

from itertools import accumulate, pairwise
from math import prod
from operator import mul
from typing import TYPE_CHECKING

import numpy as np

from pipeline.compress.pruning.graph.labels import SYMBOLIC, Label, Labels, Rule, Site, broadcast, unknown

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


def unchanged(site: Site) -> list[Labels]:
    """Copy, cast or detach."""
    return [site.value("self", "input").labels]


def expand(site: Site) -> list[Labels]:
    """Repeat dimensions of size 1 up to a size: any of these equal positions may leave."""
    values, shape = site.values(), site.shapes[0]
    labels = broadcast(site, values, shape)
    if len(values) > 1:
        return [labels]
    before = (1,) * (len(shape) - len(values[0].shape)) + values[0].shape
    sizes = zip(labels, before, shape, strict=True)
    return [tuple(site.fresh(size) if old == 1 < size else label for label, old, size in sizes)]


def repeat(site: Site) -> list[Labels]:
    """Put copies next to each other: all copies of a channel are removed together."""
    value, shape = site.value("self"), site.shapes[0]
    missing = len(shape) - len(value.shape)
    result: list[Label] = []
    for size, before, label in zip(shape, (1,) * missing + value.shape, (None,) * missing + value.labels, strict=True):
        if before == 1:
            result.append(site.fresh(size))
        else:
            result.append(None if label is None else np.tile(label, size // before))
    return [tuple(result)]


def repeat_interleave(site: Site) -> list[Labels]:
    """Repeat each position along `dim`; the copies are removed together."""
    value, dim = site.value("self"), site.arguments.get("dim")
    if dim is None:
        return unknown(site)
    labels, times = list(value.labels), site.arguments["repeats"]
    label = labels[dim % len(labels)]
    labels[dim % len(labels)] = None if label is None else np.repeat(label, times)
    return [tuple(labels)]


def move(site: Site) -> list[Labels]:
    """Move dimensions to other places."""
    labels = site.value("self").labels
    rank = len(labels)
    given = [site.arguments[key] for key in ("source", "destination")]
    sources, places = ([axis % rank for axis in ([each] if isinstance(each, int) else each)] for each in given)
    rest = iter(axis for axis in range(rank) if axis not in sources)
    order = [sources[places.index(axis)] if axis in places else next(rest) for axis in range(rank)]
    return [tuple(labels[axis] for axis in order)]


def permute(site: Site) -> list[Labels]:
    """Reorder all dimensions."""
    value = site.value("self")
    return [tuple(value.labels[axis] for axis in site.axes(len(value.shape)))]


def transpose(site: Site) -> list[Labels]:
    """Swap two dimensions; without arguments, the last two."""
    labels = list(site.value("self").labels)
    if len(labels) > 1:
        given = site.arguments  # swapaxes calls them axis0 and axis1
        first, second = given.get("dim0", given.get("axis0", -2)), given.get("dim1", given.get("axis1", -1))
        labels[first], labels[second] = labels[second], labels[first]
    return [tuple(labels)]


def reshape(site: Site) -> list[Labels]:
    """View with other sizes: view, flatten, unflatten, squeeze, unsqueeze."""
    value, target = site.value("self"), site.shapes[0]
    if 0 in value.shape or prod(value.shape) != prod(target):
        return unknown(site)
    result: list[Label] = [None] * len(target)
    # [B, 6, 4, 5] -> [B, 3, 8, 5] has the blocks B | 6, 4 -> 3, 8 | 5; each is regrouped for itself
    for given, wanted in _blocks(value.shape, target):
        labels = [value.labels[axis] for axis in given]
        regrouped = _regroup(site, labels, [value.shape[axis] for axis in given], [target[axis] for axis in wanted])
        for axis, label in zip(wanted, regrouped, strict=True):
            result[axis] = label
    return [tuple(result)]


def _blocks(first: Sequence[int], second: Sequence[int]) -> Iterator[tuple[list[int], list[int]]]:
    """Yield the smallest runs of axes of two shapes that hold equally many numbers; sizes of 1 belong to none."""
    left, right = ([axis for axis, size in enumerate(shape) if size != 1] for shape in (first, second))
    while left:
        given, wanted = [left.pop(0)], [right.pop(0)]
        while (have := prod(first[axis] for axis in given)) != (want := prod(second[axis] for axis in wanted)):
            if have < want:
                given.append(left.pop(0))
            else:
                wanted.append(right.pop(0))
        yield given, wanted


def _regroup(site: Site, labels: list[Label], given: list[int], wanted: list[int]) -> list[Label]:
    """Cut dimensions of sizes `given` into their common factors with `wanted` and put those together."""
    strides = [1, *sorted({*accumulate(reversed(given), mul), *accumulate(reversed(wanted), mul)})]
    if any(high % low for low, high in pairwise(strides)):
        for label in labels:
            site.freeze(label, "cuts across channels")
        return [None] * len(wanted)
    # given [6, 4], wanted [3, 8]: strides 1, 4, 8, 24, so both are made of the factors [3, 2, 4]
    factors = [high // low for low, high in pairwise(strides)][::-1]
    open_to = [free for sizes in _runs(factors, wanted) for free in [_batch_first(sizes)] * len(sizes)]
    pieces: list[Label] = []
    for label, sizes in zip(labels, _runs(factors, given), strict=True):
        pieces += _split(site, label, sizes, open_to[len(pieces) :])
    result = []
    for sizes in _runs(factors, wanted):
        result.append(_merge(site, pieces[: len(sizes)], sizes))
        pieces = pieces[len(sizes) :]
    return result


def _runs(factors: list[int], products: list[int]) -> Iterator[list[int]]:
    """Yield the consecutive runs of `factors` whose products are `products`."""
    start = 0
    for product in products:
        stop = start + 1
        while prod(factors[start:stop]) < product:
            stop += 1
        yield factors[start:stop]
        start = stop


def _batch_first(sizes: list[int]) -> bool:
    """Say whether the batch, if it is one of these factors, is the outermost: labels then repeat with every image."""
    return all(size < SYMBOLIC for size in sizes[1:])


def _per_image(sizes: list[int]) -> list[int]:
    return [size // SYMBOLIC if size >= SYMBOLIC else size for size in sizes]


def _split(site: Site, label: Label, sizes: list[int], open_to: list[bool]) -> list[Label]:
    """Split a dimension: its atoms go on the one factor along which they differ, so what was merged comes apart again.

    Where they differ along several, they go on the largest (of an attention, on the dimensions of a head, or on the
    heads if the options say so) and are tied along the others: what remains still splits. A factor that would merge
    into the batch is not chosen.
    """
    result: list[Label] = [None] * len(sizes)
    if label is None or len(sizes) == 1:
        return [label, *result[1:]]
    inner = _per_image(sizes)
    grid = site.atoms.roots(label).reshape(inner)
    # atoms [heads * width] seen as [heads, width]: along which axes do different atoms meet?
    varying = [axis for axis in range(len(inner)) if (grid != grid.take([0], axis)).any()]
    choice = [axis for axis in varying if open_to[axis]] or varying or list(range(len(inner)))
    if site.cuts_heads and site.options.heads and len(choice) > 1:
        kept = choice[-2]
    elif site.attention:
        kept = choice[-1]
    else:
        kept = max(choice, key=lambda axis: inner[axis])
    for axis in set(varying) - {kept}:
        site.tie(label, tuple(inner), axis)
    result[kept] = np.moveaxis(label.reshape(inner), kept, 0).reshape(inner[kept], -1)[:, 0]
    return result


def _merge(site: Site, labels: list[Label], sizes: list[int]) -> Label:
    """Merge dimensions: atoms are repeated along those without any. Of two with atoms, the one with fewer is frozen."""
    labelled = [axis for axis, label in enumerate(labels) if label is not None and not site.atoms.frozen(label).all()]
    inner = _per_image(sizes)
    labelled.sort(key=lambda axis: inner[axis])
    for axis in labelled[:-1] if _batch_first(sizes) else labelled:
        site.freeze(labels[axis], "merges channels with another dimension")
    column = labels[labelled[-1]] if labelled else None
    if column is None or not _batch_first(sizes):
        return None
    # [heads, width] -> [heads * width]: atoms of one factor are repeated along the others
    column = column.reshape([-1 if other == labelled[-1] else 1 for other in range(len(inner))])
    return np.broadcast_to(column, inner).reshape(-1)


def concatenate(site: Site) -> list[Labels]:
    """Put tensors one after another along `dim`; the other dimensions are joined."""
    values = [value for value in site.values("tensors") if value.shape != (0,)]
    cut = site.arguments["dim"] % len(values[0].shape)
    labels = [site.join(*meeting) for meeting in zip(*(_without(value.labels, cut) for value in values), strict=True)]
    pieces = [value.labels[cut] for value in values]
    sizes = [value.shape[cut] for value in values]
    # [B, C1, ...] and [B, C2, ...] -> [B, C1 + C2, ...]; positions without a label (0) stay
    label = None
    if sum(sizes) >= SYMBOLIC:
        for piece in pieces:
            site.freeze(piece, "concatenates channels with the batch")
    elif any(piece is not None for piece in pieces):
        fixed = (np.zeros(size, np.int64) for size in sizes)
        label = np.concatenate([zeros if piece is None else piece for piece, zeros in zip(pieces, fixed, strict=True)])
    return [(*labels[:cut], label, *labels[cut:])]


def _without(labels: Labels, axis: int) -> Labels:
    return labels[:axis] + labels[axis + 1 :]


def stack(site: Site) -> list[Labels]:
    """Put tensors next to each other along a new dimension."""
    values = site.values("tensors")
    new = site.arguments["dim"] % (len(values[0].shape) + 1)
    labels = broadcast(site, values, values[0].shape)
    return [(*labels[:new], None, *labels[new:])]


def chunk(site: Site) -> list[Labels]:
    """Split along `dim`. Equal parts are tied, so that the network's own code still splits evenly; others are not."""
    value = site.value("self")
    cut = site.arguments["dim"] % len(value.shape)
    label = value.labels[cut]
    sizes = [shape[cut] for shape in site.shapes]
    if value.shape[cut] >= SYMBOLIC:
        return unknown(site)
    if len(set(sizes)) == 1:
        site.tie(label, (len(sizes), sizes[0]), axis=0)
    parts = [None] * len(sizes) if label is None else np.split(label, np.cumsum(sizes)[:-1])
    return [(*value.labels[:cut], part, *value.labels[cut + 1 :]) for part in parts]


def _take_slice(site: Site) -> list[Labels]:
    """Take a range along `dim`. One of equal parts ties the parts, as for `chunk`; every n-th ties n neighbours."""
    value, shape = site.value("self"), site.shapes[0]
    cut = site.arguments["dim"] % len(shape)
    label, size, whole = value.labels[cut], shape[cut], value.shape[cut]
    if whole >= SYMBOLIC and label is not None and size != whole:
        return unknown(site)
    if label is not None and size != whole:
        start, step = site.arguments.get("start") or 0, site.arguments.get("step", 1)
        start = min(start + whole if start < 0 else start, whole)
        if step != 1 and whole % step == 0 and start < step and size == whole // step:
            site.tie(label, (size, step), axis=1)  # rotary positions: neighbours are removed together
        elif step != 1:
            site.freeze(label, "takes every other channel")
        elif size > 1 and whole % size == 0 and start % size == 0:
            site.tie(label, (whole // size, size), axis=0)
        label = label[start : start + size * step : step]
    return [(*value.labels[:cut], label, *value.labels[cut + 1 :])]


def pad(site: Site) -> list[Labels]:
    """Pad the last dimensions. Constant channels are positions that nothing may remove; reflections are frozen."""
    value = site.value("self")
    labels, widths = list(value.labels), site.arguments.get("pad", site.arguments.get("padding"))
    constant = site.arguments.get("mode", "constant") == "constant" and "pad" in site.arguments
    for position, (low, high) in enumerate(zip(widths[::2], widths[1::2], strict=True), start=1):
        label = labels[-position]
        if label is None or low == high == 0:
            continue
        if constant and min(low, high) >= 0:
            labels[-position] = np.pad(label, (low, high))
        else:
            site.freeze(label, "pads channels")
            labels[-position] = None
    return [tuple(labels)]


def pixel_shuffle(site: Site) -> list[Labels]:
    """Turn channels into pixels: the channels that become one channel are removed together."""
    value, factor = site.value("self"), site.arguments["upscale_factor"] ** 2
    label = _above_pixels(site)
    site.tie(label, (value.shape[-3] // factor, factor), axis=1)
    # [..., C * factor, H, W] -> [..., C, H * r, W * r] with r * r = factor: `factor` neighbours become one channel
    return [(*value.labels[:-3], None if label is None else label[::factor], None, None)]


def pixel_unshuffle(site: Site) -> list[Labels]:
    """Turn pixels into channels: the channels that come from one channel are removed together."""
    value, factor = site.value("self"), site.arguments["downscale_factor"] ** 2
    label = _above_pixels(site)
    return [(*value.labels[:-3], None if label is None else np.repeat(label, factor), None, None)]


def _above_pixels(site: Site) -> Label:
    """Freeze the last two dimensions and return the label of the one before."""
    *_, channel, height, width = site.value("self").labels
    site.freeze(height, "moves pixels into channels")
    site.freeze(width, "moves pixels into channels")
    return channel


def _channel_shuffle(site: Site) -> list[Labels]:
    """Interleave `groups` equal parts of the channels, which are tied."""
    value, groups = site.value("self"), site.arguments["groups"]
    label = value.labels[1]
    site.tie(label, (groups, value.shape[1] // groups), axis=0)
    # channels [groups, C / groups] -> [C / groups, groups]
    mixed = None if label is None else label.reshape(groups, -1).T.reshape(-1)
    return [(value.labels[0], mixed, *value.labels[2:])]


#: Operators of this file, by rule; names as in graph_rules.py.
LAYOUT_RULES: tuple[tuple[Rule, str], ...] = (
    (unchanged, "clone contiguous detach alias to _to_copy lift_fresh_copy lift_fresh type_as"),
    (expand, "expand expand_as"),
    (permute, "permute"),
    (transpose, "transpose swapaxes swapdims t mT numpy_T"),
    (move, "movedim moveaxis"),
    (repeat, "repeat"),
    (repeat_interleave, "repeat_interleave.self_int"),
    (reshape, "view reshape _unsafe_view view_as reshape_as flatten unflatten squeeze unsqueeze"),
    (concatenate, "cat concat"),
    (stack, "stack"),
    (chunk, "chunk split split_with_sizes unsafe_chunk unsafe_split tensor_split"),
    (_take_slice, "slice narrow"),
    (pad, "pad constant_pad_nd"),
    (pixel_shuffle, "pixel_shuffle"),
    (pixel_unshuffle, "pixel_unshuffle"),
    (_channel_shuffle, "channel_shuffle native_channel_shuffle"),
)
