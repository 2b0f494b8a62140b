"""What a one-shot method of sparsity is given and what it gives."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor, nn

    from pipeline.compress.pruning.samples import Samples
    from pipeline.compress.sparsity.allocation import SparsityAim
    from pipeline.compress.sparsity.layers import SparseLayer


@dataclass(frozen=True)
class SparsityRequest:
    """What a method may look at. It changes nothing: new weights stand in what it returns.

    Attributes:
        model: the network, in eval mode, on the CPU.
        layers: the weights that may become zero.
        aim: how many stay, and where zeros may lie.
        alive: by parameter, where a weight is not zero for good already.
        samples: training samples and the task's loss, for methods that need them; none are loaded before.
        seed: of what is drawn.
    """

    model: nn.Module
    layers: Sequence[SparseLayer]
    aim: SparsityAim
    alive: Mapping[str, Tensor]
    samples: Samples
    seed: int


@dataclass(frozen=True)
class Solution:
    """Masks by parameter (bool, true where a weight stays), weights that changed, and what else is to be told."""

    masks: Mapping[str, Tensor]
    weights: Mapping[str, Tensor] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)
