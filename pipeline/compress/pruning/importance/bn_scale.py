"""Scale of norms: a channel that its batch norm multiplies by almost nothing matters least."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from pipeline.compress.pruning.graph.nodes import plain_name
from pipeline.compress.pruning.importance.call import argument, stored
from pipeline.compress.pruning.importance.slices import require_groups

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.compress.pruning.graph import ChannelGraph
    from pipeline.compress.pruning.graph.capture import CapturedGraph

_NORMS = frozenset({"batch_norm", "instance_norm", "group_norm", "layer_norm", "rms_norm"})


def bn_scale(captured: CapturedGraph, graph: ChannelGraph) -> dict[str, Tensor]:
    """Return the mean of |gamma| over the norms that scale each channel, float64 [width] by group.

    Source: network slimming, Liu et al., Learning Efficient Convolutional Networks, ICCV 2017, which ranks |gamma| of
    all layers together. Where several norms are coupled, their mean, so that all groups stay on the scale of gamma.
    Raises: InputError naming the groups that no norm with a scale follows: they have no gamma to be compared with.
    Cost: one pass over the norms; no data.
    Limits: means little unless the network was trained with a penalty on gamma; blind to the shift, and to what the
    next layer does with the channel.
    """
    scales = _scales(captured)
    scores = {}
    for group in graph.groups:
        owned = [
            scales[member.tensor][torch.from_numpy(member.positions)]
            for member in group.members
            if member.tensor in scales and not member.consumes
        ]
        if owned:
            scores[group.name] = torch.cat(owned, dim=1).mean(1)
    require_groups(graph, scores, "bn_scale", "norms with a scale after the layers that produce the channels")
    return scores


def _scales(captured: CapturedGraph) -> dict[str, Tensor]:
    """Return |gamma| of all norms over channels, float64 [channels] by the tensor's name."""
    nodes = [node for node in captured.module.graph.nodes if plain_name(node) in _NORMS]
    weights = [argument(node, "weight") for node in nodes]
    names = [str(weight.target) for weight in weights if weight is not None and weight.op == "get_attr"]
    tensors = {name: stored(captured, name).detach().double().cpu().abs() for name in names}
    return {name: tensor for name, tensor in tensors.items() if tensor.dim() == 1}
