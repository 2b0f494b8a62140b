"""How well the next layers' outputs can be reconstructed from fewer channels: ThiNet's measure and its rescaling.

A layer that consumes a group's channels gives y = sum over channels c of x_c, x_c what c contributes to one output
value, bias apart. Everything that ThiNet asks is about sums of x_c * x_d over sampled outputs: the products Q. The
error of leaving out a set T is the sum of Q over T x T, and the best scale of those that stay solves a linear system
in Q.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pipeline.compress.pruning.graph.capture import record_values
from pipeline.compress.pruning.graph.nodes import plain_name
from pipeline.compress.pruning.importance.call import argument, result, stored
from pipeline.compress.pruning.importance.request import input_tuple
from pipeline.compress.pruning.importance.slices import require_groups

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import fx

    from pipeline.compress.pruning.graph import ChannelGraph, Group, Member
    from pipeline.compress.pruning.graph.capture import CapturedGraph
    from pipeline.compress.pruning.importance.request import Batches

#: By group and by the weight of each layer that consumes its channels: float64 [width, width].
Products = dict[str, dict[str, Tensor]]

_LAYERS = frozenset(f"conv{kind}{dims}d" for kind in ("", "_transpose") for dims in (1, 2, 3)) | {"linear"}

#: Products are of single precision: combinations of channels with less than this fraction of the largest are rounding.
_RESOLUTION = 1e-6


@dataclass(frozen=True)
class _Use:
    """A group whose channels one call of a layer consumes."""

    group: str
    member: Member
    call: fx.Node
    source: fx.Node


def consumer_products(
    captured: CapturedGraph, graph: ChannelGraph, batches: Batches, *, points: int = 10, seed: int = 0
) -> Products:
    """Return the sum of x_c * x_d over sampled outputs of each consuming layer, divided by that of y^2.

    So that layers compare and add, errors are relative: the products of one layer sum to 1 if it reads no other
    channels, and are all 0 where its sampled outputs are.

    Args:
        captured: the network.
        graph: its groups.
        batches: calibration data; targets are not read.
        points: sampled outputs for each image (or other row of the layer's input, such as a window) and layer.
        seed: of the choice of outputs.

    Source: Luo et al., ThiNet, ICCV 2017, which samples outputs in the same way.
    Raises: InputError naming the groups that something else than convolutions and linear layers with stored weights
        consumes, such as the product of queries and keys.
    Cost: one forward pass for each batch, and about `points` + 1 passes of each consuming layer.
    """
    uses = [use for group in graph.groups for use in _uses(captured, group)]
    require_groups(
        graph, {use.group for use in uses}, "thinet", "convolutions or linear layers that alone read the channels"
    )
    calls: dict[fx.Node, list[_Use]] = defaultdict(list)
    for use in uses:
        calls[use.call].append(use)
    generator = torch.Generator().manual_seed(seed)
    totals: Products = {group.name: {} for group in graph.groups}
    energies: dict[str, float] = defaultdict(float)
    for inputs, _ in batches:
        with torch.no_grad():
            values = record_values(captured, {use.source.name for use in uses}, input_tuple(inputs))
        for sharing in calls.values():
            given = values[sharing[0].source.name]
            parts = _contributions(captured, sharing[0], given, torch.rand(points, len(given), generator=generator))
            energies[sharing[0].member.tensor] += float(parts.sum(1).square().sum())
            for use in sharing:
                rows = parts[:, torch.from_numpy(use.member.positions).to(parts.device)].sum(2)
                layers = totals[use.group]
                layers[use.member.tensor] = layers.get(use.member.tensor, 0) + (rows.T @ rows).cpu()
    return {
        name: {tensor: product / (energies[tensor] or 1.0) for tensor, product in layers.items()}
        for name, layers in totals.items()
    }


def factors(product: Tensor, kept: Sequence[int]) -> Tensor:
    """Return what to multiply each kept channel with, so that one layer's output changes least: float64 [kept].

    Least squares on what the group contributes to the sampled outputs. Where they leave a choice (dead or equal
    channels), the factors nearest to 1.

    Source: Luo et al., ThiNet, ICCV 2017, the scales after the selection.
    """
    chosen = torch.as_tensor(kept)
    among = product[chosen][:, chosen]
    change: Tensor = torch.linalg.pinv(among, rtol=_RESOLUTION, hermitian=True) @ (
        product[chosen].sum(1) - among.sum(1)
    )
    return 1 + change


@torch.no_grad()
def rescale_consumers(
    graph: ChannelGraph, tensors: Mapping[str, Tensor], products: Products, kept: Mapping[str, Sequence[int]]
) -> None:
    """Multiply the weights of the consuming layers in place, so that kept channels make up for those that will leave.

    Call it before channels are removed; then what is certified is the rescaled network.

    Args:
        graph: the groups.
        tensors: the network's tensors by name; those of consuming layers are changed.
        products: what `consumer_products` returned.
        kept: class indices by group; groups that are not named, or stay whole, are left alone.
    """
    for group in graph.groups:
        indices = list(kept.get(group.name, range(group.width)))
        for member in group.members:
            if member.consumes and len(indices) < group.width:
                weight = tensors[member.tensor]
                scale = torch.ones(weight.shape[member.dim], dtype=torch.float64)
                found = factors(products[group.name][member.tensor], indices)
                scale[torch.from_numpy(member.positions[indices])] = found[:, None]
                weight.mul_(scale.to(weight).view([-1 if dim == member.dim else 1 for dim in range(weight.dim())]))


def _uses(captured: CapturedGraph, group: Group) -> list[_Use]:
    """Return the calls of the layers that consume a group's channels; none if one of them cannot be computed alone."""
    found = []
    for member in group.members:
        if member.consumes:
            calls = [node for node in captured.module.graph.nodes if _source(node, member.tensor)]
            if not calls:
                return []
            found += [_Use(group.name, member, call, source) for call in calls if (source := argument(call, "input"))]
    return found


def _source(node: fx.Node, tensor: str) -> bool:
    """Say whether a node is a convolution or linear layer with this weight, of which all but the input is stored."""
    weight, source = argument(node, "weight"), argument(node, "input")
    others = [other for other in node.all_input_nodes if other is not source]
    known = plain_name(node) in _LAYERS and weight is not None and weight.target == tensor
    return known and source is not None and all(other.op == "get_attr" for other in others)


def _contributions(captured: CapturedGraph, use: _Use, given: Tensor, chosen: Tensor) -> Tensor:
    """Return what each position of a weight's input side contributes to sampled outputs, [points * rows, positions].

    The layer is linear in its input, so input times gradient of one output, summed over a channel, is the channel's
    part of that output, float64. `chosen` [points, rows] in [0, 1) says which output of each row is taken.
    """
    value = given.detach().requires_grad_()
    channel = value.dim() - 1 if plain_name(use.call) == "linear" else 1
    size = stored(captured, use.member.tensor).shape[use.member.dim]
    parts = []
    with torch.enable_grad():
        outputs = result(captured, use.call, use.source, value).flatten(1)
        for place in (chosen.to(value.device) * outputs.shape[1]).long():
            taken = outputs.gather(1, place[:, None]).sum()
            (slope,) = torch.autograd.grad(taken, value, retain_graph=True)
            by_channel = (value.detach() * slope).double().movedim(channel, 1).unsqueeze(-1).flatten(2).sum(2)
            # A grouped convolution has one position of its weight for the same channel of every group.
            parts.append(by_channel.reshape(len(by_channel), -1, size).sum(1))
    return torch.cat(parts)
