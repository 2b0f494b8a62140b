"""What a criterion is given and what it gives."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pipeline.core.errors import InputError

if TYPE_CHECKING:
    from pipeline.compress.pruning.graph import ChannelGraph
    from pipeline.compress.pruning.graph.capture import CapturedGraph

#: The input [N, ...], or all of them in the order of the network's forward.
Inputs = Tensor | tuple[Tensor, ...]
#: Inputs, and what the loss wants beside the network's outputs: a tensor [N, ...], a list of N, or what the loss knows.
Batch = tuple[Inputs, Any]
Batches = Iterable[Batch]
#: (outputs as forward returns them, targets) -> the mean over the batch, a scalar.
Loss = Callable[[Any, Any], Tensor]


def input_tuple(inputs: Inputs) -> tuple[Tensor, ...]:
    """Return all inputs of a batch, also where there is one."""
    return (inputs,) if isinstance(inputs, Tensor) else inputs


def sample_copies(batch: Batch, copies: int) -> Iterator[Batch]:
    """Yield a batch of copies of each sample. Raises InputError when the targets of samples cannot be told apart."""
    inputs, targets = input_tuple(batch[0]), batch[1]
    count = len(inputs[0])
    if not isinstance(targets, Tensor | list) or len(targets) != count:
        raise InputError("This criterion looks at one sample at a time, and the task gives targets of whole batches.")
    for place in range(count):
        one = targets[place : place + 1]
        repeated = torch.cat([one] * copies) if isinstance(one, Tensor) else one * copies
        yield tuple(torch.cat([each[place : place + 1]] * copies) for each in inputs), repeated


@dataclass(frozen=True)
class ScoreRequest:
    """Everything that a criterion may need. Only the groups of `graph` are scored.

    Attributes:
        captured: the network; never changed.
        graph: its groups; leave those out that are to stay whole.
        batches: starts a new pass over the calibration data; where the network fixes its batch, all of that size.
        loss: for criteria of gradients; the mean over the batch.
        seed: for random scores and sampled outputs.
        channel_cost: what one channel of each group costs, by group, for `group_fisher`; absent: activation memory.
    """

    captured: CapturedGraph
    graph: ChannelGraph
    batches: Callable[[], Batches] | None = None
    loss: Loss | None = None
    seed: int = 0
    channel_cost: Mapping[str, float] | None = None

    @property
    def tensors(self) -> dict[str, Tensor]:
        """The parameters by name, those that replace computed weights included."""
        return dict(self.captured.module.named_parameters())

    def stream(self) -> Iterator[Batch]:
        """Yield the batches of one pass. Raises InputError when there are none."""
        empty = True
        for batch in self.batches() if self.batches else ():
            empty = False
            yield batch
        if empty:
            raise InputError("This criterion looks at activations: it needs at least one batch of calibration data.")

    def mean_loss(self) -> Loss:
        """Return the loss. Raises InputError when there is none."""
        if self.loss is None:
            raise InputError("This criterion looks at gradients: it needs a loss.")
        return self.loss


@dataclass(frozen=True)
class Scoring:
    """Scores, float64 [width] by group, higher = more important, and what else the criterion found.

    Attributes:
        scores: by the groups' names.
        details: numbers for the report.
        products: of `thinet` alone: what `reconstruction.rescale` needs once it is known what stays.
    """

    scores: dict[str, Tensor]
    details: dict[str, Any] = field(default_factory=dict)
    products: dict[str, dict[str, Tensor]] | None = None
