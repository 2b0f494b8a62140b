"""Running captured graphs in float64: the original with zeros in all removed slices."""

from __future__ import annotations

from math import isfinite
from typing import TYPE_CHECKING, Any
from zlib import crc32

import torch
from torch import Tensor, fx, nn
from torch.fx.node import map_arg

from pipeline.compress.pruning.graph.labels import Value
from pipeline.compress.pruning.graph.nodes import layer_path, plain_name
from pipeline.compress.pruning.graph.sizes import Call, arguments_with, resized_arguments
from pipeline.compress.pruning.tensors import masked
from pipeline.compress.pruning.wide import to_float64

if TYPE_CHECKING:
    from pipeline.compress.pruning.graph.capture import CapturedGraph
    from pipeline.compress.pruning.graph.walk import Walk
    from pipeline.compress.pruning.surgery import PrunePlan


def reference_values(captured: CapturedGraph, name: str) -> Tensor:
    """Return what stands for a stored tensor in the certificate, in float64.

    Constants that forward makes anew, and what it computes weights from, cannot be disturbed: they stay what they are.
    """
    if name in captured.precise:
        return captured.precise[name]
    if name in captured.foreign or name in captured.folded:
        return to_float64(captured.stored[name])
    return disturbed(name, captured.stored[name])


def disturbed(name: str, tensor: Tensor) -> Tensor:
    """Return a float64 copy in which no values are equal that would hide a misplaced channel.

    Vectors and constant tensors get a value of their own at every position, equal for equal names; what is not negative
    (variances) stays so. Kernels and matrices of different values, integers, and bounds at infinity are as they were.
    """
    if not tensor.is_floating_point():
        return to_float64(tensor)
    wide = tensor.detach().double()
    vector = wide.numel() == max(wide.shape, default=1)
    if wide.numel() == 0 or not wide.isfinite().all() or (not vector and wide.min() < wide.max()):
        return wide
    generator = torch.Generator().manual_seed(crc32(name.encode()))
    size = max(wide.square().mean().sqrt().item(), 1.0 if vector else 0.0) or 1.0
    factor, offset = (torch.rand(wide.shape, generator=generator, dtype=torch.float64).to(wide.device) for _ in "fo")
    shift = offset - 0.5 if isinstance(tensor, nn.Parameter) else offset
    return wide * (0.75 + factor / 2) + 0.1 * size * shift


class MaskedRun(fx.Interpreter):
    """Runs the captured graph with other tensors, statistics over channels on those that stay."""

    def __init__(self, captured: CapturedGraph, walk: Walk, plan: PrunePlan, silent: frozenset[str]) -> None:
        """Take the graph and the plan. While `renew` is set, running statistics become those of the batch."""
        super().__init__(captured.module)
        self.extra_traceback = False
        self._captured, self._walk, self._keep, self._silent = captured, walk, plan.keep, silent
        self._removed = walk.removed(plan.keep)
        self.renewed: dict[str, Tensor] = {}
        self.renew = False
        self.changed: list[str] = []

    def fetch_attr(self, target: str) -> Any:  # noqa: ANN401 - as fx declares it
        """Return a stored tensor, disturbed, with zeros in what the plan removes."""
        if target in self.renewed:
            return self.renewed[target].clone()
        return masked(reference_values(self._captured, target), self._keep.get(target, {}))

    def run_node(self, n: fx.Node) -> Any:  # noqa: ANN401 - as fx declares it
        """Run one node; statistics over channels on those that stay."""
        if n.name in self._silent:
            return torch.zeros_like(super().run_node(n))
        if self.renew and n.op == "call_function" and plain_name(n) == "batch_norm":
            self._renew_statistics(n)
        notes = self._walk.notes.get(n.name)
        if notes is None or not notes.restricted or not self._touched(n):
            return super().run_node(n)
        return self._restricted(n, super().run_node(n))

    def _touched(self, n: fx.Node) -> bool:
        """Say whether channels leave any of the inputs."""
        values = [self._walk.values[source.name] for source in n.all_input_nodes]
        return any(
            not self._walk.stays(label, size, self._removed).all()
            for value in values
            if isinstance(value, Value)
            for size, label in zip(value.shape, value.labels, strict=True)
            if label is not None
        )

    def _restricted(self, n: fx.Node, plain: Any) -> Any:  # noqa: ANN401 - a tensor or several
        """Call the operator on what stays of its inputs, and put zeros where the rest of its results was.

        Where the results that stay differ from `plain`, those with zeros in the inputs, the call goes on the list.
        """
        target, changes = resized_arguments(Call(n, self._walk, self._removed))
        args, kwargs = arguments_with(n, target, changes)
        args, kwargs = map_arg((args, kwargs), lambda node: self._cut(self.env[node], self._walk.values[node.name]))
        result, value = self.call_function(target, args, kwargs), self._walk.values[n.name]
        several = isinstance(value, list)
        triples = list(zip(*([plain, result, value] if several else [[plain], [result], [value]]), strict=True))
        if any(_differ(self._cut(before, own), after) for before, after, own in triples):
            self.changed.append(f"{plain_name(n)} in {layer_path(n) or 'the network'}")
        spread = [self._spread(after, own) for _, after, own in triples]
        return spread if several else spread[0]

    def _cut(self, tensor: Any, value: Any) -> Any:  # noqa: ANN401 - a tensor with its labelled value, or a size
        for dim, stays in self._masks(value):
            repeated = stays.repeat(tensor.shape[dim] // len(stays))  # once for each image, where the batch is merged
            tensor = tensor.index_select(dim, repeated.nonzero().flatten().to(tensor.device))
        return tensor

    def _spread(self, tensor: Tensor, value: Value) -> Tensor:
        for dim, stays in self._masks(value):
            repeated = stays.repeat(tensor.shape[dim] // int(stays.sum()))
            wide = tensor.new_zeros((*tensor.shape[:dim], len(repeated), *tensor.shape[dim + 1 :]))
            wide.movedim(dim, 0)[repeated] = tensor.movedim(dim, 0)
            tensor = wide
        return tensor

    def _masks(self, value: Any) -> list[tuple[int, Tensor]]:  # noqa: ANN401 - a labelled value, or a size
        if not isinstance(value, Value):
            return []
        masks = [
            (dim, torch.from_numpy(self._walk.stays(label, size, self._removed)))
            for dim, (size, label) in enumerate(zip(value.shape, value.labels, strict=True))
            if label is not None
        ]
        return [(dim, stays) for dim, stays in masks if not stays.all()]

    def _renew_statistics(self, n: fx.Node) -> None:
        value, names = self.env[n.args[0]], n.args[3:5]  # type: ignore[index]
        dims = [dim for dim in range(value.dim()) if dim != 1]
        for name, statistic in zip(names, (value.mean(dims), value.var(dims, correction=0)), strict=True):
            if isinstance(name, fx.Node) and name.op == "get_attr":
                self.renewed[str(name.target)] = self.env[name] = statistic


def _differ(left: Tensor, right: Tensor) -> bool:
    scale = float(left.abs().max()) if left.numel() else 0.0
    return not torch.allclose(left, right, rtol=1e-12, atol=1e-12 * scale if isfinite(scale) else 0.0, equal_nan=True)
