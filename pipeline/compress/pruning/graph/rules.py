"""What each ATen operator does to channels: one rule per family of operators, and the table `RULES` at the end.

A rule receives a `Site` (one call of an operator) and returns the labels of each output tensor. It joins the atoms that
must be removed together and freezes those that may not be removed. Four principles keep every rule exact:

- a labelled dimension may disappear in a sum of products (graph_contractions.py), whose factors both lose it;
- statistics over channels (layer norm, softmax, mean) go over those that stay, and are noted as such, or are frozen;
- whatever picks channels by position or value (select, sort, flip) freezes them;
- an operator that is not in the table freezes all that it touches, and says so.

To add an operator: put it in the row of its family; for a new family, write its rule and a row. If one of its arguments
states a size, graph_sizes.py needs a row too.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from pipeline.compress.pruning.graph.contractions import CONTRACTION_RULES
from pipeline.compress.pruning.graph.labels import Label, Labels, Rule, Site, broadcast
from pipeline.compress.pruning.graph.layout import LAYOUT_RULES
from pipeline.compress.pruning.graph.recurrent import RECURRENT_RULES
from pipeline.compress.pruning.graph.signals import SIGNAL_RULES

if TYPE_CHECKING:
    from collections.abc import Iterable

#: A group norm of fewer groups loses the same channels of each group; one of more loses whole groups.
_MANY_GROUPS = 8


def elementwise(site: Site) -> list[Labels]:
    """Combine tensors position by position: activations, residual sums, gates, casts."""
    return [broadcast(site, site.values(), shape) for shape in site.shapes]


def reduction(site: Site) -> list[Labels]:
    """Reduce the positions along `dim` to one: mean, sum, maximum, norm."""
    value = site.value("self")
    axes = site.axes(len(value.shape))
    _statistics(site, [value.labels[axis] for axis in axes])
    whole = tuple(None if axis in axes else label for axis, label in enumerate(value.labels))
    rest = tuple(label for axis, label in enumerate(value.labels) if axis not in axes)
    return [whole if len(shape) == len(value.shape) else rest for shape in site.shapes]


def normalisation(site: Site) -> list[Labels]:
    """Weigh the positions along `dim` against each other: softmax. Bins of a distribution are not pruned."""
    value = site.value("self")
    for axis in site.axes(len(value.shape)) if site.bins else ():
        site.freeze(value.labels[axis], "has the bins of a distribution, whose values are fixed")
    _statistics(site, [value.labels[axis] for axis in site.axes(len(value.shape))])
    return [value.labels for _ in site.shapes]


def _statistics(site: Site, labels: Iterable[Label]) -> None:
    for label in labels:
        site.statistic(label, "takes statistics over channels")


def _picking(site: Site) -> list[Labels]:
    """Pick, order or mix the positions along `dim`, which are not pruned: select, sort, flip, cumulative sums."""
    value = site.value("self", "input")
    axes = site.axes(len(value.shape))
    for axis in axes:
        site.freeze(value.labels[axis], "mixes or picks channels")
    whole = tuple(None if axis in axes else label for axis, label in enumerate(value.labels))
    rest = tuple(label for axis, label in enumerate(value.labels) if axis not in axes)
    return [whole if len(shape) == len(value.shape) else rest for shape in site.shapes]


def spatial(site: Site) -> list[Labels]:
    """Pool or resize the last dimensions, as many as the operator's name says (avg_pool2d: two)."""
    value = site.value("input", "self")
    (count,) = (int(digit) for digit in re.findall(r"(\d)d", site.operator))
    for label in value.labels[-count:]:
        site.freeze(label, "mixes channels")
    return [value.labels[:-count] + (None,) * count for _ in site.shapes]


def sampling(site: Site) -> list[Labels]:
    """Sample pixels at computed places: only the channels may leave."""
    value, grid = site.value("input"), site.value("grid")
    for label in (*value.labels[2:], *grid.labels):
        site.freeze(label, "samples positions")
    return [(value.labels[0], value.labels[1], *(None for _ in value.labels[2:]))]


def _channel_norm(site: Site) -> list[Labels]:
    """Normalise or scale each channel (dimension 1) by its own stored numbers: batch norm, instance norm, PReLU."""
    value = site.value("input", "self")
    stored = site.values("weight", "bias", "running_mean", "running_var")
    channel = site.join(value.labels[1], *(tensor.labels[0] for tensor in stored if tensor.shape != (1,)))
    if site.arguments.get("training"):
        _statistics(site, (value.labels[0], *value.labels[2:]))
    return [(value.labels[0], channel, *value.labels[2:])]


def group_norm(site: Site) -> list[Labels]:
    """Normalise within groups of channels.

    Of many groups, whole ones leave, so that no statistic changes; few groups each lose the same positions.
    """
    value, groups = site.value("input"), site.arguments["num_groups"]
    per_group = value.shape[1] // groups
    same = keeps_groups(groups, value.shape[1])
    site.tie(value.labels[1], (groups, per_group), axis=0 if same else 1)
    if same:
        _statistics(site, [value.labels[1]])
    _statistics(site, value.labels[2:])
    return _channel_norm(site)


def keeps_groups(groups: int, channels: int) -> bool:
    """Say whether a group norm keeps its number of groups when channels leave."""
    return groups < min(_MANY_GROUPS, channels // groups)


def instance_norm(site: Site) -> list[Labels]:
    """Normalise each channel over its own pixels."""
    _statistics(site, site.value("input").labels[2:])
    return _channel_norm(site)


def layer_norm(site: Site) -> list[Labels]:
    """Normalise over the last dimensions together: layer norm and RMS norm."""
    value = site.value("input")
    count = len(site.arguments["normalized_shape"])
    affine = [tensor.labels for tensor in site.values("weight", "bias")]
    labels = [site.join(label, *own) for label, *own in zip(value.labels[-count:], *affine, strict=True)]
    _statistics(site, labels)
    return [(*value.labels[:-count], *labels)]


def gate(site: Site) -> list[Labels]:
    """Split into two halves along `dim`, one of which opens the other (GLU); the halves are tied."""
    value = site.value("self")
    cut = site.arguments["dim"] % len(value.shape)
    label, half = value.labels[cut], value.shape[cut] // 2
    site.tie(label, (2, half), axis=0)
    return [(*value.labels[:cut], None if label is None else label[:half], *value.labels[cut + 1 :])]


def embedding(site: Site) -> list[Labels]:
    """Look rows up in a stored table [entries, features]; all entries are kept."""
    table, indices = site.value("weight"), site.value("indices")
    site.freeze(table.labels[0], "" if table.stored else "looks entries up")
    return [(*indices.labels, table.labels[1])]


def _indexing(site: Site) -> list[Labels]:
    """Look entries up by tensors of indices, one per dimension or none; other dimensions keep their labels.

    A mask of several dimensions stands for as many, of which one is left.
    """
    value = site.value("self")
    given = list(site.arguments["indices"])
    axes = [axis for axis, index in enumerate(given) if index is not None]
    rank = len(site.shapes[0])
    if len(axes) == 1 and rank == len(value.shape) - len(given[axes[0]].shape) + 1:
        axes = list(range(axes[0], axes[0] + len(given[axes[0]].shape)))
    inside = [label for index in site.values("indices") for label in index.labels]
    for label in (*(value.labels[axis] for axis in axes), *inside):
        site.freeze(label, "" if value.stored else "looks entries up")
    rest = [label for axis, label in enumerate(value.labels) if axis not in axes]
    looked_up: list[Label] = [None] * (rank - len(rest))
    adjacent = axes == list(range(axes[0], axes[-1] + 1))
    before = axes[0] if adjacent else 0
    return [(*rest[:before], *looked_up, *rest[before:])]


def filled(site: Site) -> list[Labels]:
    """Make a tensor of one value: any position may leave with what it meets."""
    return [tuple(site.fresh(size) for size in shape) for shape in site.shapes]


#: Rule and ATen operators, without `aten.` and the underscore of in-place ones; `name.overload` goes before `name`.
_TABLE: tuple[tuple[Rule, str], ...] = (
    *LAYOUT_RULES,
    *CONTRACTION_RULES,
    *RECURRENT_RULES,
    *SIGNAL_RULES,
    (elementwise, "relu relu6 hardtanh leaky_relu elu selu celu gelu silu mish sigmoid hardsigmoid hardswish tanh"),
    (elementwise, "softplus softsign logsigmoid log_sigmoid threshold hardshrink softshrink tanhshrink clamp clip"),
    (elementwise, "clamp_min clamp_max exp expm1 log log1p log2 sqrt rsqrt square reciprocal abs neg sign sin cos erf"),
    (elementwise, "tan atan asin acos sinh cosh exp2 log10 trunc frac special_erf nan_to_num logit rrelu bernoulli"),
    (elementwise, "asinh acosh atanh erfc erfinv special_erfc special_expit special_log1p special_expm1 sinc fmin"),
    (elementwise, "heaviside hypot float_power logaddexp logaddexp2 xlogy special_xlogy signbit fmax positive"),
    (elementwise, "floor ceil round add sub rsub mul div pow maximum minimum max.other min.other where masked_fill"),
    (elementwise, "multiply divide subtract true_divide floor_divide fmod remainder lerp addcmul addcdiv atan2 copy"),
    (elementwise, "__and__ __or__ __xor__ __iand__ __ior__ logical_xor bitwise_xor not_equal greater less isfinite"),
    (
        elementwise,
        "eq ne lt le gt ge logical_and logical_or logical_not bitwise_and bitwise_or bitwise_not isnan isinf",
    ),
    (
        elementwise,
        (
            "dropout feature_dropout alpha_dropout feature_alpha_dropout zeros_like ones_like full_like empty_like "
            "rand_like randn_like zero fill uniform normal"
        ),
    ),
    (
        reduction,
        "mean sum prod amax amin max min std var std_mean var_mean norm linalg_vector_norm any all logsumexp",
    ),
    (normalisation, "softmax log_softmax _softmax _log_softmax"),
    (_picking, "argmax argmin flip roll select unbind cumsum cumprod topk sort argsort median index_select"),
    (spatial, "max_pool1d max_pool2d max_pool3d avg_pool1d avg_pool2d avg_pool3d adaptive_max_pool3d"),
    (spatial, "max_pool1d_with_indices max_pool2d_with_indices max_pool3d_with_indices lp_pool1d lp_pool2d"),
    (elementwise, "real imag angle conj _conj conj_physical resolve_conj resolve_neg complex polar sgn"),
    (spatial, "adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d"),
    (spatial, "upsample_nearest1d upsample_nearest2d upsample_nearest3d _upsample_nearest_exact2d upsample_linear1d"),
    (spatial, "upsample_bilinear2d upsample_bicubic2d upsample_trilinear3d _upsample_bilinear2d_aa"),
    (spatial, "_upsample_bicubic2d_aa reflection_pad1d reflection_pad2d replication_pad1d replication_pad2d"),
    (sampling, "grid_sampler grid_sampler_2d grid_sampler_3d"),
    (_channel_norm, "batch_norm prelu"),
    (instance_norm, "instance_norm"),
    (group_norm, "group_norm"),
    (layer_norm, "layer_norm rms_norm"),
    (gate, "glu"),
    (embedding, "embedding"),
    (_indexing, "index.Tensor"),
    (filled, "zeros ones full new_zeros new_ones new_full empty new_empty rand randn"),
)
RULES: dict[str, Rule] = {name: rule for rule, names in _TABLE for name in names.split()}
#: Operators that keep a stored tensor a stored tensor.
LAYOUT: frozenset[str] = frozenset(name for _, names in LAYOUT_RULES for name in names.split())
