"""Mean activation: channels that are rarely far from zero matter least."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from pipeline.compress.pruning.importance.feature_maps import FeatureMaps

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.compress.pruning.graph import ChannelGraph
    from pipeline.compress.pruning.graph.capture import CapturedGraph
    from pipeline.compress.pruning.importance.request import Batches


def mean_activation(captured: CapturedGraph, graph: ChannelGraph, batches: Batches) -> dict[str, Tensor]:
    """Return the mean of |a| over samples, pixels and a group's feature maps, float64 [width] by group.

    Source: the baseline of Molchanov et al., ICLR 2017; absolute values, since maps
    before an activation or after a SiLU have both signs.
    Raises: InputError when a group has no feature map; StageError when samples cannot be told apart in one.
    Cost: one forward pass for each batch.
    Limits: blind to what the next layer does with the channel; groups compare only after normalisation.
    """
    maps = FeatureMaps(captured, graph, "mean_activation")
    return maps.averaged(batches, lambda each: each.abs().flatten(2).mean(2, dtype=torch.float64))
