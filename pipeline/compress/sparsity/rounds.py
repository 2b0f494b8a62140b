"""Prune and retrain in rounds: how much each layer can lose, what is cut by that, and what a training does meanwhile.

Source: Han et al., "Learning both Weights and Connections for Efficient Neural Networks" (NIPS 2015, arXiv 1506.02626):
a threshold of each layer that is its quality factor times the deviation of its weights, the factor from a scan of one
layer at a time; several rounds of cutting and training what is left; L1 or L2 penalties; dropout that shrinks with the
connections. Differs: the density is given, so thresholds are the quality factors times one number for all layers.
Neurons without inputs keep their biases.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import nn

from pipeline.compress.training.inference import forward_hooks, inference_mode
from pipeline.compress.training.training import Regulariser

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import Tensor

    from pipeline.compress.sparsity.layers import SparseLayer

#: Quality factors that a scan tries, in deviations of a layer's weights, and that of a layer that bears none of them.
QUALITIES = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 2.5, 3.0)
_LEAST = 0.125


def live_deviation(weight: Tensor, mask: Tensor) -> float:
    """Return the standard deviation (of the population) of the weights that a mask keeps; 0 where it keeps none."""
    live = weight.detach()[mask].double()
    return float(live.std(correction=0)) if live.numel() else 0.0


@torch.no_grad()
def scan_qualities(
    layers: Sequence[SparseLayer], masks: Mapping[str, Tensor], score: Callable[[], float], tolerance: float
) -> dict[str, float]:
    """Return the quality factor of each layer: the largest before the score falls by more than `tolerance` of it.

    One layer at a time has its weights below factor times deviation at zero while `score` (higher is better) looks at
    the network; its weights are put back afterwards.
    """
    base = score()
    lowest = base - tolerance * abs(base)
    found = {}
    for each in layers:
        whole, deviation = each.weight.detach().clone(), live_deviation(each.weight, masks[each.name])
        found[each.name] = _LEAST
        for quality in QUALITIES:
            each.weight.masked_fill_(whole.abs() < quality * deviation, 0)
            fell = score() < lowest
            each.weight.copy_(whole)
            if fell:
                break
            found[each.name] = quality
    return found


def quality_scores(
    layers: Sequence[SparseLayer], masks: Mapping[str, Tensor], qualities: Mapping[str, float]
) -> dict[str, Tensor]:
    """Return |w| / (quality factor * deviation): one ranking of all weights cuts each layer at its own threshold.

    Weights that are masked have -inf. The largest weight of each layer always stays, so that none becomes empty.
    """
    found = {}
    for each in layers:
        mask = masks[each.name]
        unit = qualities[each.name] * live_deviation(each.weight, mask) or 1.0
        scores = (each.weight.detach().abs() / unit).masked_fill(~mask, -math.inf)
        if bool(mask.any()):
            scores[torch.unravel_index(scores.argmax(), scores.shape)] = torch.finfo(scores.dtype).max
        found[each.name] = scores
    return found


def round_density(start: float, end: float, number: int, rounds: int) -> float:
    """Return the density after a round, the first being 1: each round cuts the same fraction of what it finds."""
    return float(start * (end / start) ** (number / rounds))


class L1Penalty(Regulariser):
    """strength * sum of |w| over the weights of these parameters; L2 is the optimizer's weight decay."""

    def __init__(self, names: Sequence[str], strength: float) -> None:
        """Take the parameters by name."""
        self.names, self.strength = tuple(names), strength

    @torch.no_grad()
    def add_gradients(self, model: nn.Module, step: int) -> None:
        """Add strength * sign(w); that of a zero is 0."""
        del step
        parameters = dict(model.named_parameters(remove_duplicate=False))
        for name in self.names if self.strength else ():
            weight = parameters[name]
            if weight.grad is not None:
                weight.grad.add_(weight.sign(), alpha=self.strength)


def rescale_dropout(
    model: nn.Module, inputs: tuple[Tensor, ...], densities: Mapping[str, float], layers: Sequence[SparseLayer]
) -> dict[str, float]:
    """Multiply the rate of each dropout layer by the square root of the density of the layer that it feeds, in place.

    That is the layer with weights which is called next in one pass on `inputs`; a dropout layer before none of these
    keeps its rate. Returns the new rates by name. A network has to come with the rates of its dense form.
    """
    owners = {each.layer: densities[each.name] for each in layers}
    calls: list[str] = []
    drops = nn.modules.dropout._DropoutNd  # noqa: SLF001 - the only common class
    watched = {name: module for name, module in model.named_modules() if name in owners or isinstance(module, drops)}
    with inference_mode(model), forward_hooks(watched.items(), lambda name: lambda *_: calls.append(name)):
        model(*inputs)
    found: dict[str, float] = {}
    for place, name in enumerate(calls):
        module = watched[name]
        fed = next((other for other in calls[place + 1 :] if other in owners), None)
        if isinstance(module, drops) and fed and name not in found:
            module.p *= math.sqrt(owners[fed])
            found[name] = module.p
    return found
