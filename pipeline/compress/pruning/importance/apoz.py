"""Average percentage of zeros: channels whose activation is hardly ever open matter least."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.compress.pruning.importance.feature_maps import FeatureMaps

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.compress.pruning.graph import ChannelGraph
    from pipeline.compress.pruning.graph.capture import CapturedGraph
    from pipeline.compress.pruning.importance.request import Batches


def apoz(captured: CapturedGraph, graph: ChannelGraph, batches: Batches) -> dict[str, Tensor]:
    """Return 1 - APoZ, the share of positive activations over samples, pixels and maps, float64 [width] by group.

    Source: Hu et al., Network Trimming, 2016. Differs: what is not positive counts as zero, which is the same behind a
    ReLU and means something behind a GELU or SiLU as well.
    Raises: InputError when a group has no feature map; StageError when samples cannot be told apart in one.
    Cost: one forward pass for each batch.
    Limits: says how often a channel is open, not how much depends on it.
    """
    maps = FeatureMaps(captured, graph, "apoz")
    return maps.averaged(batches, lambda each: (each > 0).double().flatten(2).mean(2))
