"""Constants into biases: inputs of layers that are the same for every input of the network need no weights.

A channel of constant value c adds c times the sum of its weights to each output. That goes into the layer's bias, or
where it has none and a batch norm follows out of the norm's running mean, and the weights become zero.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx

from pipeline.compress.pruning.graph.nodes import arguments_of, plain_name
from pipeline.compress.sparsity.constants import TRANSPOSED, ConstantRun, pads_edges

if TYPE_CHECKING:
    from collections.abc import Collection

    from pipeline.compress.pruning.graph.capture import CapturedGraph

#: A channel is one number where its values differ by less than this share of them: rounding in float32.
_ROUNDING = 1e-6


@torch.no_grad()
def fold_constants(captured: CapturedGraph, names: Collection[str]) -> dict[str, Tensor]:
    """Fold constant inputs into biases and set their weights to zero, in place; return which weights have such inputs.

    Exact are linear layers, and convolutions without padding; with padding, or without a place for the sum, and
    transposed ones, only a constant of zero. Layers come in the order of the graph: what is folded into one can make
    the inputs of the next constant.

    Args:
        captured: the network's graph, whose stored tensors are the network's own.
        names: of the parameters whose weights may become zero. Those that the graph reads twice are left alone.

    Returns: by name, in the weight's shape, whether the input that a weight multiplies is constant: those of them that
        are not zero could not be folded.

    Cost: a forward pass of the example, and one of its marks.
    """
    fold = _Fold(captured, names)
    ConstantRun(captured, fold.at_layer).run(*(each.clone() for each in captured.example), enable_io_processing=False)
    return fold.constant


class _Fold:
    def __init__(self, captured: CapturedGraph, names: Collection[str]) -> None:
        self._stored, self._names, self.constant = captured.stored, names, dict[str, Tensor]()
        read = [node for node in captured.module.graph.nodes if node.op == "get_attr"]
        uses = Counter[str]()
        for node in read:
            uses[str(node.target)] += len(node.users)
        self._once = {name for name, count in uses.items() if count == 1} - captured.foreign

    def at_layer(self, node: fx.Node, value: Tensor, marks: Tensor) -> None:
        """Fold the constant inputs of one layer."""
        name = self._own(node.args[1])
        if name is None or name not in self._names:
            return
        weight, bias = self._stored[name], self._place(node)
        known, numbers = _constants(value, marks, value.dim() - max(1, weight.dim() - 1))
        folded = known & ((numbers == 0) | (bias is not None and not pads_edges(node)))
        if plain_name(node) in TRANSPOSED:
            constant, columns = (each.reshape(-1, *[1] * (weight.dim() - 1)) for each in (known, folded))
        else:
            groups = arguments_of(node).get("groups", 1)
            constant, columns = (_by_output(each, weight, groups) for each in (known, folded))
            if bias is not None:
                tensor, sign = bias
                sums = weight.double() * columns * _by_output(torch.where(folded, numbers, 0), weight, groups)
                tensor.copy_(tensor.double() + sign * sums.flatten(1).sum(1))
        weight.masked_fill_(columns, 0)
        self.constant[name] = constant.expand_as(weight)

    def _own(self, source: Any) -> str | None:  # noqa: ANN401 - what a graph has for an argument
        """Return the name of a tensor that the network stores and the graph reads only here."""
        stored = isinstance(source, fx.Node) and source.op == "get_attr" and str(source.target) in self._once
        return str(source.target) if stored else None

    def _place(self, node: fx.Node) -> tuple[Tensor, int] | None:
        """Return what holds a layer's constants, and the sign in which they go there; None where nothing does."""
        bias = arguments_of(node).get("bias")
        if bias is not None:
            name, sign = self._own(bias), 1
        else:
            name, sign = self._own(self._mean(node)), -1
        return None if name is None else (self._stored[name], sign)

    @staticmethod
    def _mean(node: fx.Node) -> Any:  # noqa: ANN401 - as `_own` takes it
        """Return the running mean of the batch norm that alone reads a layer; None where there is none."""
        norm = next(iter(node.users), node)
        rank = node.meta["val"].dim()
        batched = rank == 2 if plain_name(node) == "linear" else rank == node.args[1].meta["val"].dim()  # type: ignore[union-attr]  # noqa: PLR2004
        alone = len(node.users) == 1 and plain_name(norm) == "batch_norm" and norm.args[0] is node
        arguments = arguments_of(norm) if alone and batched else {"training": True}
        return None if arguments["training"] else arguments["running_mean"]


def _constants(value: Tensor, marks: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """Return for each channel along an axis whether it is one number for all inputs and places, and that (float64)."""
    rows = value.movedim(axis, 0).flatten(1).double()
    low, high = rows.amin(1), rows.amax(1)
    same = high - low <= _ROUNDING * torch.maximum(low.abs(), high.abs())
    steady = marks.movedim(axis, 0).flatten(1).amax(1) == 0
    return steady & same & high.isfinite(), (low + high) / 2


def _by_output(channels: Tensor, weight: Tensor, groups: int) -> Tensor:
    """Return what is known of each input [I] for each output: [O, I / groups, 1, ...]."""
    by_group = channels.view(groups, -1).repeat_interleave(weight.shape[0] // groups, 0)
    return by_group.reshape(*by_group.shape, *[1] * (weight.dim() - 2))
