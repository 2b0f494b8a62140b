"""Sizes that a graph states as numbers, as they are once channels have left: `view(b, 49, 3, 32)`, `split([48, 16])`.

A row of `_RESIZE` says for an operator which arguments change. Operators without a row state no size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from pipeline.compress.pruning.graph.labels import SYMBOLIC, Value
from pipeline.compress.pruning.graph.nodes import arguments_of, plain_name
from pipeline.compress.pruning.graph.rules import keeps_groups

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray
    from torch.fx import Node

    from pipeline.compress.pruning.graph.walk import Walk


@dataclass(frozen=True)
class Call:
    """A call with what leaves it: `removed` says of each atom whether it represents a class that leaves."""

    node: Node
    walk: Walk
    removed: NDArray[np.bool_]

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments by schema name."""
        return arguments_of(self.node)

    @property
    def results(self) -> list[Value]:
        """The labelled results."""
        value = self.walk.values[self.node.name]
        return value if isinstance(value, list) else [value]

    def given(self, name: str) -> Value:
        """Return the labelled value of a tensor argument."""
        value: Value = self.walk.values[self.arguments[name].name]
        return value

    def stays(self, value: Value, axis: int) -> NDArray[np.bool_]:
        """Say of each position of an axis whether it stays."""
        return self.walk.stays(value.labels[axis], value.shape[axis], self.removed)

    def loses(self, value: Value, axis: int) -> bool:
        """Say whether positions of an axis leave."""
        return value.labels[axis] is not None and not self.stays(value, axis).all()

    def size(self, value: Value, axis: int) -> int:
        """Return how many positions of an axis stay."""
        return value.shape[axis] if value.labels[axis] is None else int(self.stays(value, axis).sum())


Changes = dict[str, Any]


def resized_arguments(call: Call) -> tuple[Any, Changes]:
    """Return the operator to call, and those arguments that change, by name."""
    rule = _RESIZE.get(plain_name(call.node))
    changes = rule(call) if rule else {}
    target: Any = call.node.target
    if "split_sizes" in changes and target is not torch.ops.aten.split_with_sizes.default:
        target = torch.ops.aten.split_with_sizes.default
        changes = {"self": call.arguments["self"], "dim": call.arguments["dim"], **changes}
    return target, changes


def _shape(argument: str) -> Callable[[Call], Changes]:
    """Return a rule for an operator whose argument lists the sizes of its result, or the last of them."""

    def rule(call: Call) -> Changes:
        stated, result = list(call.arguments[argument]), call.results[0]
        first = len(result.shape) - len(stated)
        merged = [
            axis for axis, size in enumerate(stated) if not isinstance(size, int) and call.loses(result, first + axis)
        ]
        for position, size in enumerate(stated):
            if isinstance(size, int) and (size >= 0 or (merged and result.shape[first + position] < SYMBOLIC)):
                stated[position] = call.size(result, first + position)
        for position in merged:  # the batch times something: what is left over
            stated[position] = -1
        return {argument: stated}

    return rule


def _repeats(call: Call) -> Changes:
    stated, result, value = list(call.arguments["repeats"]), call.results[0], call.given("self")
    before = (1,) * (len(stated) - len(value.shape)) + value.shape
    for axis, size in enumerate(before):
        if size == 1 and isinstance(stated[axis], int):
            stated[axis] = call.size(result, axis)
    return {"repeats": stated}


def _unflatten(call: Call) -> Changes:
    sizes, result, value = list(call.arguments["sizes"]), call.results[0], call.given("self")
    first = call.arguments["dim"] % len(value.shape)
    for position, size in enumerate(sizes):
        if isinstance(size, int) and size >= 0:
            sizes[position] = call.size(result, first + position)
    return {"sizes": sizes}


def _split(call: Call) -> Changes:
    value = call.given("self")
    axis = call.arguments["dim"] % len(value.shape)
    if not call.loses(value, axis):
        return {}
    return {"split_sizes": [call.size(part, axis) for part in call.results]}


def _slice(call: Call) -> Changes:
    value = call.given("self")
    axis = call.arguments["dim"] % len(value.shape)
    if value.labels[axis] is None or call.arguments["step"] != 1:
        return {}
    stays, size = call.stays(value, axis), value.shape[axis]
    start, end = call.arguments["start"] or 0, call.arguments["end"]
    start = start + size if start < 0 else min(start, size)
    end = size if end is None else (end + size if end < 0 else min(end, size))
    return {"start": int(stays[:start].sum()), "end": int(stays[:end].sum())}


def _narrow(call: Call) -> Changes:
    value = call.given("self")
    axis = call.arguments["dim"] % len(value.shape)
    if value.labels[axis] is None:
        return {}
    stays, start, length = call.stays(value, axis), call.arguments["start"], call.arguments["length"]
    return {"start": int(stays[:start].sum()), "length": int(stays[start : start + length].sum())}


def _convolution_groups(call: Call) -> Changes:
    groups, value, weight = call.arguments["groups"], call.given("input"), call.given("weight")
    if groups == 1 or not isinstance(groups, int):
        return {}
    channels = call.size(value, len(value.shape) - len(weight.shape) + 1)
    transposed = plain_name(call.node).startswith("conv_transpose")
    per_group = weight.shape[0] // groups if transposed else call.size(weight, 1)
    return {"groups": channels // per_group}


def _norm_groups(call: Call) -> Changes:
    groups, value = call.arguments["num_groups"], call.given("input")
    if keeps_groups(groups, value.shape[1]):
        return {}
    return {"num_groups": call.size(value, 1) * groups // value.shape[1]}


def _scale(call: Call) -> Changes:
    """State the scale, which would otherwise follow the smaller size of a head."""
    size = call.given("query").shape[-1]
    return {"scale": size**-0.5} if call.arguments.get("scale") is None else {}


_RESIZE: dict[str, Callable[[Call], Changes]] = {
    **dict.fromkeys(
        "view expand zeros ones full empty rand randn new_zeros new_ones new_full new_empty _unsafe_view".split(),
        _shape("size"),
    ),
    "reshape": _shape("shape"),
    "layer_norm": _shape("normalized_shape"),
    "rms_norm": _shape("normalized_shape"),
    "repeat": _repeats,
    "unflatten": _unflatten,
    **dict.fromkeys(["chunk", "split", "split_with_sizes", "unsafe_chunk", "unsafe_split", "tensor_split"], _split),
    "slice": _slice,
    "narrow": _narrow,
    **dict.fromkeys((f"conv{kind}{rank}d" for kind in ("", "_transpose") for rank in (1, 2, 3)), _convolution_groups),
    "group_norm": _norm_groups,
    "scaled_dot_product_attention": _scale,
}


def arguments_with(node: Node, target: Any, changes: Changes) -> tuple[tuple[Any, ...], dict[str, Any]]:  # noqa: ANN401
    """Return positional and keyword arguments of a call with these changes."""
    if target != node.target:
        return (), dict(changes)
    if not changes:
        return node.args, dict(node.kwargs)
    names = [argument.name for argument in target._schema.arguments]  # noqa: SLF001 - as in arguments_of
    args, kwargs = list(node.args), dict(node.kwargs)
    for name, value in changes.items():
        position = names.index(name)
        if position < len(args):
            args[position] = value
        else:
            kwargs[name] = value
    return tuple(args), kwargs
