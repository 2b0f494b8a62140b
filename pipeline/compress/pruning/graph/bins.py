"""Softmax over bins: a distribution whose expectation over fixed numbers is the result, as the distance of a box side.

Each bin stands for a number (0, 1, 2 ...) that nobody trains. Without a bin its number could not be predicted any
more, so bins are no channels. Source: distribution focal loss (Li et al., NeurIPS 2020), deep expectation (Rothe et
al. 2015).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn

from pipeline.compress.pruning.graph.nodes import arguments_of, plain_name
from pipeline.compress.pruning.graph.rules import LAYOUT

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import fx

_FOLLOWED = LAYOUT | {"dropout"}
_CONTRACTIONS = frozenset("conv1d conv2d conv3d linear matmul mm bmm addmm einsum".split())
_SUMS = frozenset({"sum", "mean"})


def distributions(graph: fx.Graph, stored: Mapping[str, Tensor]) -> Iterator[fx.Node]:
    """Yield the softmax calls of a captured graph whose results are weighed with numbers that nothing trains.

    Those are constants, buffers, and parameters without gradient in a network that has others with one.
    """
    trains = any(isinstance(each, nn.Parameter) and each.requires_grad for each in stored.values())
    fixed: set[fx.Node] = set()
    for node in graph.nodes:
        if node.op == "get_attr":
            tensor = stored.get(str(node.target))
            if tensor is not None and not (isinstance(tensor, nn.Parameter) and (tensor.requires_grad or not trains)):
                fixed.add(node)
        elif node.op == "call_function" and all(source in fixed for source in node.all_input_nodes):
            fixed.add(node)
    for node in graph.nodes:
        if node.op == "call_function" and plain_name(node) in {"softmax", "_softmax"} and node not in fixed:
            reached = list(_reached(node))
            if any(_weighs(user, source, fixed) for user, source in reached):
                yield node


def _reached(node: fx.Node) -> Iterator[tuple[fx.Node, fx.Node]]:
    """Yield the calls that read a value, with what they read, through operators that only move numbers."""
    waiting = [node]
    while waiting:
        source = waiting.pop()
        for user in source.users:
            yield user, source
            if plain_name(user) in _FOLLOWED and user.all_input_nodes[0] is source:
                waiting.append(user)


def _weighs(user: fx.Node, source: fx.Node, fixed: set[fx.Node]) -> bool:
    """Say whether a call sums a value's products with fixed numbers."""
    others = [each for each in user.all_input_nodes if each is not source and isinstance(each.meta.get("val"), Tensor)]
    if not others or not all(each in fixed for each in others):
        return False
    name = plain_name(user)
    if name in _CONTRACTIONS:
        return bool(arguments_of(user).get("groups", 1) == 1)
    return name in {"mul", "multiply"} and any(plain_name(after) in _SUMS for after, _ in _reached(user))
