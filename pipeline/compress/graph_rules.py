"""What each ATen operator does to channels: one rule per family of operators, and the table `RULES` at the end.

A rule receives a `Site` (one call of an operator) and returns the labels of each output tensor. It joins the atoms that
must leave together and freezes those that may not leave. Three principles keep every rule exact:

- a labelled dimension may disappear only in a sum of products with a stored tensor (convolution, linear, matmul), whose
  removed slices leave too; wherever else it disappears or is mixed (mean, softmax, select) it is frozen;
- a dimension that the user's code splits (chunk, view) is tied so that what remains still splits evenly;
- an operator that is not in the table freezes all that it touches, and says so.

To add an operator: put it in the row of its family; for a new family, write its rule and a row.
"""

from __future__ import annotations

import re

from pipeline.compress.graph_labels import Label, Labels, Rule, Site, Value, broadcast, unknown
from pipeline.compress.graph_layout import LAYOUT_RULES


def elementwise(site: Site) -> list[Labels]:
    """Combine tensors position by position: activations, residual sums, gates, casts, expansion to a size."""
    return [broadcast(site, site.values(), shape) for shape in site.shapes]


def reduction(site: Site) -> list[Labels]:
    """Mix or drop the positions along `dim`: mean, softmax, select, flip. These dimensions are kept whole."""
    value = site.value("self")
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


def convolution(site: Site) -> list[Labels]:
    """Convolve: the input's channels meet dimension 1 of the weight, dimension 0 becomes the output's channels."""
    value, weight = site.value("input"), site.value("weight")
    channel = _before_kernel(site, value, weight)
    if site.arguments["groups"] == 1:
        site.contract(value.labels[channel], weight.labels[1], stored=weight.stored)
    else:
        _grouped(site, value.labels[channel], weight)
    out = site.join(*(tensor.labels[0] for tensor in site.values("weight", "bias")))
    return [(*value.labels[:channel], out, *(None for _ in weight.labels[2:]))]


def transposed_convolution(site: Site) -> list[Labels]:
    """Convolve upwards: the weight's dimension 0 meets the input, dimension 1 is the output. With groups: frozen."""
    if site.arguments["groups"] != 1:
        return unknown(site)
    value, weight = site.value("input"), site.value("weight")
    channel = _before_kernel(site, value, weight)
    site.contract(value.labels[channel], weight.labels[0], stored=weight.stored)
    out = site.join(weight.labels[1], *(tensor.labels[0] for tensor in site.values("bias")))
    return [(*value.labels[:channel], out, *(None for _ in weight.labels[2:]))]


def _before_kernel(site: Site, value: Value, weight: Value) -> int:
    """Freeze what the kernel slides over and return the axis of the input's channels."""
    channel = len(value.shape) - len(weight.shape) + 1
    for label in (*value.labels[channel + 1 :], *weight.labels[2:]):
        site.freeze(label, "")
    return channel


def _grouped(site: Site, label: Label, weight: Value) -> None:
    """Tie the channels of a grouped convolution so that what remains is one again.

    With at least as many groups as inputs per group (depthwise is the extreme), whole groups leave: the inputs and the
    outputs of a group are one class. Otherwise every group loses the same positions and the number of groups stays.
    """
    groups = site.arguments["groups"]
    per_group_out, per_group_in = weight.shape[0] // groups, weight.shape[1]
    out = weight.labels[0]
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


def linear(site: Site) -> list[Labels]:
    """Multiply the last dimension with a weight [out, in] and add a bias."""
    value, weight = site.value("input"), site.value("weight")
    site.contract(value.labels[-1], weight.labels[1], stored=weight.stored)
    out = site.join(*(tensor.labels[0] for tensor in site.values("weight", "bias")))
    return [(*value.labels[:-1], out)]


def matmul(site: Site) -> list[Labels]:
    """Multiply matrices [..., i, j] and [..., j, k], either of which may be a stored tensor; addmm adds a third."""
    left, right = site.value("mat1", "batch1", "self"), site.value("mat2", "batch2", "other")
    if len(left.shape) == 1 or len(right.shape) == 1:
        return unknown(site)
    if right.stored:
        site.contract(left.labels[-1], right.labels[-2], stored=True)
    else:
        site.contract(right.labels[-2], left.labels[-1], stored=left.stored)
    outer = [Value(value.shape[:-2], value.labels[:-2]) for value in (left, right)]
    shape = site.shapes[0]
    product = Value(shape, (*broadcast(site, outer, shape[:-2]), left.labels[-2], right.labels[-1]))
    added = site.values("self") if "mat1" in site.arguments or "batch1" in site.arguments else []
    return [broadcast(site, [product, *added], shape)]


def channel_norm(site: Site) -> list[Labels]:
    """Normalise or scale each channel (dimension 1) by its own stored numbers: batch norm, instance norm, PReLU."""
    value = site.value("input", "self")
    stored = site.values("weight", "bias", "running_mean", "running_var")
    channel = site.join(value.labels[1], *(tensor.labels[0] for tensor in stored if tensor.shape != (1,)))
    return [(value.labels[0], channel, *value.labels[2:])]


def group_norm(site: Site) -> list[Labels]:
    """Normalise within groups of channels: a group's channels leave together, so that no statistic changes."""
    value, groups = site.value("input"), site.arguments["num_groups"]
    site.tie(value.labels[1], (groups, value.shape[1] // groups), axis=1)
    if not site.values("weight"):
        site.freeze(value.labels[1], "has no weight, so its number of groups is a literal")
    return instance_norm(site)


def instance_norm(site: Site) -> list[Labels]:
    """Normalise each channel over its own pixels."""
    for label in site.value("input").labels[2:]:
        site.freeze(label, "mixes channels")
    return channel_norm(site)


def layer_norm(site: Site) -> list[Labels]:
    """Normalise over the last dimensions together: they are kept whole, since statistics over fewer would differ."""
    value = site.value("input")
    count = len(site.arguments["normalized_shape"])
    for label in (*value.labels[-count:], *(label for v in site.values("weight", "bias") for label in v.labels)):
        site.freeze(label, "takes statistics over channels")
    return [value.labels[:-count] + (None,) * count]


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
    site.freeze(table.labels[0], "looks entries up")
    return [(*indices.labels, table.labels[1])]


#: Rule and ATen operators, without `aten.` and the underscore of in-place ones; `name.overload` goes before `name`.
_TABLE: tuple[tuple[Rule, str], ...] = (
    *LAYOUT_RULES,
    (elementwise, "relu relu6 hardtanh leaky_relu elu selu celu gelu silu mish sigmoid hardsigmoid hardswish tanh"),
    (elementwise, "softplus softsign logsigmoid log_sigmoid threshold hardshrink softshrink tanhshrink clamp clip"),
    (elementwise, "clamp_min clamp_max exp expm1 log log1p log2 sqrt rsqrt square reciprocal abs neg sign sin cos erf"),
    (elementwise, "floor ceil round add sub rsub mul div pow maximum minimum max.other min.other where masked_fill"),
    (elementwise, "multiply divide subtract true_divide floor_divide fmod remainder lerp addcmul addcdiv atan2 copy"),
    (
        elementwise,
        "eq ne lt le gt ge logical_and logical_or logical_not bitwise_and bitwise_or bitwise_not isnan isinf",
    ),
    (elementwise, "dropout feature_dropout alpha_dropout zeros_like ones_like full_like"),
    (
        reduction,
        "mean sum prod amax amin max min argmax argmin std var std_mean var_mean norm linalg_vector_norm any all",
    ),
    (reduction, "softmax log_softmax _softmax _log_softmax logsumexp flip roll select unbind"),
    (spatial, "max_pool1d max_pool2d max_pool3d max_pool2d_with_indices avg_pool1d avg_pool2d avg_pool3d"),
    (spatial, "adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d"),
    (spatial, "upsample_nearest1d upsample_nearest2d upsample_nearest3d _upsample_nearest_exact2d upsample_linear1d"),
    (spatial, "upsample_bilinear2d upsample_bicubic2d upsample_trilinear3d _upsample_bilinear2d_aa"),
    (convolution, "conv1d conv2d conv3d"),
    (transposed_convolution, "conv_transpose1d conv_transpose2d conv_transpose3d"),
    (linear, "linear"),
    (matmul, "matmul mm bmm addmm baddbmm"),
    (channel_norm, "batch_norm prelu"),
    (instance_norm, "instance_norm"),
    (group_norm, "group_norm"),
    (layer_norm, "layer_norm"),
    (gate, "glu"),
    (embedding, "embedding"),
)
RULES: dict[str, Rule] = {name: rule for rule, names in _TABLE for name in names.split()}
#: Operators that keep a stored tensor a stored tensor.
LAYOUT: frozenset[str] = frozenset(name for _, names in LAYOUT_RULES for name in names.split())
