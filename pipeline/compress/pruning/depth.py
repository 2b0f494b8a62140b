"""Depth: whole residual blocks leave, so that only their shortcut remains.

A block is a sum of two values of one shape, one of which (the branch) is computed from the other alone. Removing it is
exact: the network computes what it did with zeros in the branch.

Source: residual networks lose single blocks with little harm, Veit et al. 2016; block influence, Men et al. (ShortGPT)
2024.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import takewhile
from typing import TYPE_CHECKING

import torch
from torch import Tensor, fx, nn
from torch.nn.functional import cosine_similarity

from pipeline.compress.pruning.certificate import Reference, check_values
from pipeline.compress.pruning.graph.capture import record_values
from pipeline.compress.pruning.graph.nodes import changes_something, layer_path, plain_name, spell_keywords
from pipeline.compress.pruning.prune import PrunedNetwork
from pipeline.compress.pruning.rewrite import rewrite_module, training_switches
from pipeline.compress.pruning.surgery import PrunePlan
from pipeline.compress.pruning.trial import Trial
from pipeline.core.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from pipeline.compress.pruning.graph import ChannelGraph
    from pipeline.compress.pruning.graph.capture import CapturedGraph
    from pipeline.compress.pruning.graph.exported import Example


@dataclass(frozen=True)
class ResidualBlock:
    """A residual block by the nodes of the captured graph: `result` = `shortcut` + `branch`.

    `name` is the innermost module that holds the whole branch, `layers` are those with tensors in it.
    """

    name: str
    shortcut: str
    branch: str
    result: str
    layers: tuple[str, ...]


def residual_blocks(captured: CapturedGraph) -> tuple[ResidualBlock, ...]:
    """Find the residual blocks, in the order of the graph. Two blocks in one module get names that end in :2, :3."""
    found: list[ResidualBlock] = []
    names: dict[str, int] = {}
    for node in captured.module.graph.nodes:
        if node.op == "call_function" and plain_name(node) == "add" and len(node.all_input_nodes) == 2:  # noqa: PLR2004
            first, second = node.all_input_nodes
            for shortcut, branch in ((first, second), (second, first)):
                inside = _inside(shortcut, branch, node)
                if inside and _shape(shortcut) == _shape(branch) == _shape(node):
                    name = _common([layer_path(each) for each in inside]) or "network"
                    names[name] = names.get(name, 0) + 1
                    label = name if names[name] == 1 else f"{name}:{names[name]}"
                    layers = {
                        layer_path(each): None
                        for each in inside
                        if any(s.op == "get_attr" for s in each.all_input_nodes)
                    }
                    found.append(ResidualBlock(label, shortcut.name, branch.name, node.name, tuple(layers)))
                    break
    return tuple(found)


def _shape(node: fx.Node) -> tuple[object, ...] | None:
    value = node.meta.get("val")
    return tuple(value.shape) if isinstance(value, Tensor) else None


def _inside(shortcut: fx.Node, branch: fx.Node, result: fx.Node) -> list[fx.Node]:
    """Return the calls of a branch from `shortcut` alone that `result` alone reads; empty if it is none."""
    inside: dict[fx.Node, None] = {}
    waiting = [branch]
    reached = False
    while waiting:
        node = waiting.pop()
        if node is shortcut:
            reached = True
        elif _is_size(node):  # the batch, which comes from an input
            continue
        elif node.op == "placeholder":
            return []
        elif node.op == "call_function" and node not in inside:
            inside[node] = None
            waiting += node.all_input_nodes
    weighted = any(source.op == "get_attr" for node in inside for source in node.all_input_nodes)
    alone = all(user in inside or user is result for node in inside for user in node.users if not _is_size(node))
    return list(inside) if reached and weighted and alone and branch in inside else []


def _is_size(node: fx.Node) -> bool:
    return not isinstance(node.meta.get("val"), (Tensor, list, tuple))


def _common(paths: Sequence[str]) -> str:
    levels = zip(*(path.split(".") for path in paths if path), strict=False)
    return ".".join(level[0] for level in takewhile(lambda level: len(set(level)) == 1, levels))


@torch.no_grad()
def block_influence(
    captured: CapturedGraph, blocks: Sequence[ResidualBlock], batches: Iterable[Example]
) -> dict[str, float]:
    """Return how much each block turns its input: 1 - mean cosine similarity of shortcut and result, by block name.

    The mean goes over images, or over tokens: vectors along the last dimension of three-dimensional values, and whole
    feature maps otherwise.

    Source: block influence of ShortGPT (Men et al. 2024).
    Cost: one forward pass over the batches.
    Limits: a block whose small change matters much to the classes is not seen.
    """
    totals = dict.fromkeys((block.name for block in blocks), 0.0)
    counts = dict.fromkeys(totals, 0)
    nodes = {node for block in blocks for node in (block.shortcut, block.result)}
    for batch in batches:
        values = record_values(captured, nodes, batch)
        for block in blocks:
            similarity = cosine_similarity(_rows(values[block.shortcut]), _rows(values[block.result]), dim=1)
            totals[block.name] += float((1 - similarity).sum())
            counts[block.name] += len(similarity)
    return {name: total / max(1, counts[name]) for name, total in totals.items()}


def _rows(value: Tensor) -> Tensor:
    """Return one vector per image, or per token of [N, tokens, channels]."""
    return value.flatten(0, 1) if value.dim() == 3 else value.flatten(1)  # noqa: PLR2004


def prune_blocks(
    captured: CapturedGraph, graph: ChannelGraph, model: nn.Module, names: Collection[str]
) -> PrunedNetwork:
    """Remove these residual blocks. The result is rewritten from the graph, with its proof.

    Raises:
        InputError: a block is not known.
        StageError: the result is not the original with zeros in the branches, or does not train or take any batch.
    """
    blocks = {block.name: block for block in residual_blocks(captured)}
    if unknown := sorted(set(names) - blocks.keys()):
        raise InputError(f"Blocks {', '.join(unknown)} are not in the network. Blocks: {', '.join(blocks) or 'none'}")
    if graph.walk is None:
        raise InputError("The graph has no walk: expected what trace() returned.")
    plan = PrunePlan({})
    chosen = [blocks[name] for name in blocks if name in names]
    reference = Reference(captured, graph.walk, plan, silent=frozenset(block.branch for block in chosen))
    switches = training_switches(captured, model)
    pruned = rewrite_module(without_blocks(captured, chosen), graph.walk, plan, switches)
    trial = Trial(model, captured.example)
    certificate = trial.complete(reference.certify(pruned), reference, pruned, switches.lost)
    trial.check_batches(pruned)
    check_values(captured, pruned, plan)
    return PrunedNetwork(pruned, plan, certificate, "whole blocks have left", tuple(block.name for block in chosen))


def without_blocks(captured: CapturedGraph, blocks: Iterable[ResidualBlock]) -> CapturedGraph:
    """Return the captured network with the results of these blocks replaced by their shortcuts."""
    graph = fx.Graph()
    spell_keywords(graph)
    copies: dict[fx.Node, fx.Node] = {}
    graph.output(graph.graph_copy(captured.module.graph, copies))
    named = {old.name: new for old, new in copies.items()}
    for block in sorted(blocks, key=lambda block: list(named).index(block.result), reverse=True):
        _bypass(named[block.result], named[block.shortcut])
    graph.eliminate_dead_code(is_impure_node=changes_something)
    return replace(captured, module=fx.GraphModule(captured.module, graph))


def _bypass(result: fx.Node, shortcut: fx.Node) -> None:
    """Let what reads the result read the shortcut, which others may read too: nothing is written into it in place."""
    value = shortcut
    for user in [node for node in result.graph.nodes if node in result.users]:
        written = _in_place(user) and user.args[0] is result
        user.replace_input_with(result, value)
        if written:
            operator = user.target
            packet = getattr(torch.ops.aten, plain_name(user))
            user.target = getattr(packet, operator._overloadname)  # noqa: SLF001 - what an overload is called
            value = user  # what was written into the result


def _in_place(node: fx.Node) -> bool:
    """Say whether a call writes into its first argument and returns it, as relu_ does."""
    if not isinstance(node.target, torch._ops.OpOverload):  # noqa: SLF001 - the type of operators
        return False
    return node.target._schema.name == f"aten::{plain_name(node)}_"  # noqa: SLF001
