"""Rules for sums of products: convolution, linear, matmul, einsum, attention, distances.

Here a labelled dimension may disappear: both factors lose the same positions. With a stored tensor as one factor the
result is that of zeros in the other; two computed factors are multiplied over the positions that stay, and the
certificate says whether that is the same. The table of all rules is in graph_rules.py.
"""

from __future__ import annotations

from collections import defaultdict
from math import prod
from typing import TYPE_CHECKING

from pipeline.compress.pruning.graph.labels import SYMBOLIC, Label, Labels, Rule, Site, Value, broadcast, unknown

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


def convolution(site: Site) -> list[Labels]:
    """Convolve: the input's channels meet dimension 1 of the weight, dimension 0 becomes the output's channels."""
    value, weight = site.value("input"), site.value("weight")
    if not isinstance(site.arguments["groups"], int) or weight.shape[0] >= SYMBOLIC:
        return unknown(site)  # kernels of its own for each image
    # Shapes: input [B, C, *pixels] or [C, *pixels]; weight [O, C / groups, *kernel]; output [B, O, *pixels].
    channel = len(value.shape) - len(weight.shape) + 1  # the batch may be missing
    inner = value.labels[channel]
    if site.arguments["groups"] == 1:
        site.contract(inner, weight.labels[1], stored=weight.stored)
    else:
        _grouped(site, inner, weight)
    out = site.join(*(tensor.labels[0] for tensor in site.values("weight", "bias")))
    kernel = tuple(label if kept else None for label, kept in _slid_over(site, value, weight, channel))
    labels = (*value.labels[:channel], out, *kernel)
    # MACs: positions of the output [B, O, *pixels], times input channels of a group, times positions of the kernel
    reading = weight.labels[1] if site.arguments["groups"] > 1 else inner
    _count(site, site.shapes[0], labels, [(weight.shape[1], reading), (prod(weight.shape[2:]), None)])
    return [labels]


def _slid_over(site: Site, value: Value, weight: Value, channel: int) -> Iterator[tuple[Label, bool]]:
    """Yield the labels that a kernel slides over, and whether the output has as many positions.

    Efficient channel attention convolves the vector of channel means: its kernel then goes over those that stay.
    """
    for axis in range(channel + 1, len(value.shape)):
        label, same = value.labels[axis], site.shapes[0][axis] == value.shape[axis]
        if label is not None and same:
            site.statistic(label, "slides a kernel over channels")
        elif label is not None:
            site.freeze(label, "slides a kernel over channels")
        yield label, same
    for label in weight.labels[2:]:
        site.freeze(label, "")


def transposed_convolution(site: Site) -> list[Labels]:
    """Convolve upwards: the weight's dimension 0 meets the input, dimension 1 is the output (of each group)."""
    value, weight, groups = site.value("input"), site.value("weight"), site.arguments["groups"]
    channel = len(value.shape) - len(weight.shape) + 1
    for label in value.labels[channel + 1 :]:
        site.freeze(label, "slides a kernel over channels")
    for label in weight.labels[2:]:
        site.freeze(label, "")
    inner, bias = value.labels[channel], [tensor.labels[0] for tensor in site.values("bias")]
    if groups == 1:
        site.contract(inner, weight.labels[0], stored=weight.stored)
        out = site.join(weight.labels[1], *bias)
    else:
        out = _grouped_transposed(site, inner, weight, bias)
    # input [B, C, *pixels], weight [C, O / groups, *kernel]: each input position is multiplied with a whole kernel
    labels = (*value.labels[:channel], out, *(None for _ in weight.labels[2:]))
    pixels = [(size, None) for size in value.shape[channel + 1 :]]
    kernel = [(weight.shape[1], weight.labels[1]), (prod(weight.shape[2:]), None)]
    outer = list(zip(value.shape[:channel], value.labels[:channel], strict=True))
    site.notes.products.append([*outer, (weight.shape[0], inner), *pixels, *kernel])
    return [labels]


def _grouped(site: Site, label: Label, weight: Value) -> None:
    """Tie the channels of a grouped convolution so that what remains is one again.

    With at least as many groups as inputs per group (depthwise is the extreme), whole groups leave: the inputs and the
    outputs of a group are one class. Otherwise every group loses the same positions and the number of groups stays.
    """
    groups = site.arguments["groups"]
    per_group_out, per_group_in = weight.shape[0] // groups, weight.shape[1]
    out = weight.labels[0]
    # weight [O, C / groups, *kernel]; channels lie group after group, as [groups, channels of a group]
    if groups >= per_group_in:
        site.tie(label, (groups, per_group_in), axis=1)
        site.tie(out, (groups, per_group_out), axis=1)
        site.join(None if label is None else label[::per_group_in], None if out is None else out[::per_group_out])
        site.freeze(weight.labels[1], "")
    else:
        site.tie(label, (groups, per_group_in), axis=0)
        site.tie(out, (groups, per_group_out), axis=0)
        first = None if label is None else label[:per_group_in]
        site.contract(first, weight.labels[1], stored=weight.stored)


def _grouped_transposed(site: Site, label: Label, weight: Value, biases: Sequence[Label]) -> Label:
    """Remove whole groups: inputs and outputs of one are removed together. The kernel's outputs per group are kept."""
    groups = site.arguments["groups"]
    per_group_in, per_group_out = weight.shape[0] // groups, weight.shape[1]
    # weight [C, O / groups, *kernel]: rows are [groups, inputs of a group], outputs [groups, outputs of a group]
    joined = site.join(label, weight.labels[0])
    site.tie(joined, (groups, per_group_in), axis=1)
    site.freeze(weight.labels[1], "")
    out = None if joined is None else joined[::per_group_in].repeat(per_group_out)
    return site.join(out, *biases)


def linear(site: Site) -> list[Labels]:
    """Multiply the last dimension with a weight [out, in] and add a bias."""
    value, weight = site.value("input"), site.value("weight")
    site.contract(value.labels[-1], weight.labels[-1], stored=weight.stored)
    out = site.join(*(tensor.labels[0] for tensor in site.values("weight", "bias")))
    labels = (*value.labels[:-1], out)
    _count(site, site.shapes[0], labels, [(value.shape[-1], value.labels[-1])])
    return [labels]


def matmul(site: Site) -> list[Labels]:
    """Multiply matrices [..., i, j] and [..., j, k], either of which may be a stored tensor; addmm adds a third."""
    left, right = site.value("mat1", "batch1", "self"), site.value("mat2", "batch2", "other")
    if len(left.shape) == 1 or len(right.shape) == 1:
        return unknown(site)
    site.contract(*_factors(left, right), stored=left.stored or right.stored)
    # [..., i, j] @ [..., j, k] -> [..., i, k]: j is summed over, the leading dimensions are broadcast
    outer = [Value(value.shape[:-2], value.labels[:-2]) for value in (left, right)]
    shape = site.shapes[0]
    product = Value(shape, (*broadcast(site, outer, shape[:-2]), left.labels[-2], right.labels[-1]))
    _count(site, shape, product.labels, [(left.shape[-1], left.labels[-1])])
    added = site.values("self") if "mat1" in site.arguments or "batch1" in site.arguments else []
    return [broadcast(site, [product, *added], shape)]


def _factors(left: Value, right: Value) -> tuple[Label, Label]:
    """Return the labels that are summed over, that of a stored factor last."""
    return (right.labels[-2], left.labels[-1]) if left.stored else (left.labels[-1], right.labels[-2])


def einsum(site: Site) -> list[Labels]:
    """Sum products over the letters that the result does not have. An equation with dots is frozen."""
    inputs, _, result = site.arguments["equation"].replace(" ", "").partition("->")
    values = site.values("tensors")
    if "." in inputs or not result:
        return unknown(site)
    meeting: dict[str, list[tuple[int, Label, bool]]] = defaultdict(list)
    for letters, value in zip(inputs.split(","), values, strict=True):
        for letter, size, label in zip(letters, value.shape, value.labels, strict=True):
            meeting[letter].append((size, label, value.stored))
    # "bij,bjk->bik": letters of the result are joined over all factors, the others (here j) are summed over
    labels: dict[str, Label] = {}
    for letter, found in meeting.items():
        if letter in result:
            widest = max(size for size, _, _ in found)
            labels[letter] = site.join(*(label for size, label, _ in found if size == widest))
        else:
            found.sort(key=lambda each: each[2])
            first = site.join(*(label for _, label, _ in found[:-1])) if len(found) > 1 else found[0][1]
            site.contract(first, found[-1][1], stored=found[-1][2])
            labels[letter] = found[-1][1]
    if len(values) > 1:
        site.notes.products.append([(max(size for size, _, _ in meeting[key]), labels[key]) for key in meeting])
    return [tuple(labels[letter] for letter in result)]


def attention(site: Site) -> list[Labels]:
    """Attend: query and key lose the same dimensions of each head, whose scale stays; values pass through."""
    query, key, value = (site.value(name) for name in ("query", "key", "value"))
    if site.arguments.get("enable_gqa"):
        for each in (query, key, value):
            site.freeze(each.labels[-3], "shares keys between heads")
    site.contract(query.labels[-1], key.labels[-1], stored=False)
    site.contract(key.labels[-2], value.labels[-2], stored=False)
    # query [..., L, E], key [..., S, E], value [..., S, V]: scores [..., L, S], output [..., L, V]
    masks = site.values("attn_mask")
    scores = Value((*site.shapes[0][:-1], key.shape[-2]), (*query.labels[:-2], query.labels[-2], key.labels[-2]))
    joined = broadcast(site, [scores, *masks], scores.shape)
    outer = broadcast(
        site,
        [Value(each.shape[:-2], each.labels[:-2]) for each in (query, key, value)],
        site.shapes[0][:-2],
    )
    labels = (*outer, joined[-2], value.labels[-1])
    for size, label in ((query.shape[-1], query.labels[-1]), (value.shape[-1], value.labels[-1])):
        _count(site, scores.shape, (*outer, *joined[-2:]), [(size, label)])
    return [labels]


def distances(site: Site) -> list[Labels]:
    """Measure the distance of each row of [..., P, M] to each row of [..., R, M]: both lose the same columns.

    Zeros in both add nothing to a distance, so that their removal is exact.
    """
    left, right = site.value("x1"), site.value("x2")
    last = (right, left) if left.stored else (left, right)
    site.contract(*(value.labels[-1] for value in last), stored=left.stored or right.stored)
    outer = [Value(value.shape[:-2], value.labels[:-2]) for value in (left, right)]
    return [(*broadcast(site, outer, site.shapes[0][:-2]), left.labels[-2], right.labels[-2])]


def similarity(site: Site) -> list[Labels]:
    """Compare vectors along `dim` (the last one without it), of which both lose the same positions.

    Zeros in both change no cosine; a pairwise distance adds a small number to each difference: it is a statistic.
    """
    values = site.values("x1", "x2")
    rank = max(len(value.shape) for value in values)
    shape = tuple(max(value.shape[axis] for value in values if len(value.shape) >= -axis) for axis in range(-rank, 0))
    labels = broadcast(site, values, shape)
    cut = site.arguments.get("dim", -1) % rank
    if site.operator.endswith("pairwise_distance"):
        site.statistic(labels[cut], "adds to every difference")
    site.notes.restricted = labels[cut] is not None
    kept: Labels = (None,) if site.arguments.get("keepdim") else ()
    return [(*labels[:cut], *kept, *labels[cut + 1 :])]


def _count(site: Site, shape: Sequence[int], labels: Sequence[Label], summed: Sequence[tuple[int, Label]]) -> None:
    """Note the multiply-accumulates: as many as the result has positions, times those that are summed over."""
    site.notes.products.append([*zip(shape, labels, strict=True), *summed])


#: Operators of this file, by rule; names as in graph_rules.py.
CONTRACTION_RULES: tuple[tuple[Rule, str], ...] = (
    (convolution, "conv1d conv2d conv3d"),
    (transposed_convolution, "conv_transpose1d conv_transpose2d conv_transpose3d"),
    (linear, "linear"),
    (matmul, "matmul mm bmm addmm baddbmm"),
    (einsum, "einsum"),
    (attention, "scaled_dot_product_attention"),
    (distances, "cdist"),
    (similarity, "cosine_similarity pairwise_distance"),
)
