"""Dynamic Network Surgery: weights are cut and spliced back while the network trains, by two thresholds on |w|."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from pipeline.compress.sparsity.moving import DenseBeneath, MaskTiming, cubic_density, kept_share
from pipeline.compress.training.seeds import epoch_seed
from pipeline.core.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor, nn

    from pipeline.compress.sparsity.layers import SparseLayer

#: A weight is cut at this share of its layer's threshold, and comes back above the other.
CUT, SPLICE = 0.9, 1.1
#: Halvings of the interval of c: more digits than float32 has.
_HALVINGS = 60


def surgery_masks(
    weights: Mapping[str, Tensor], masks: Mapping[str, Tensor], statistics: Mapping[str, tuple[float, float]], c: float
) -> dict[str, Tensor]:
    """Return the next masks: cut where |w| <= 0.9 t, back where |w| > 1.1 t, else as they were.

    The threshold of a layer is t = max(mean + c * deviation, 0), of |w| at the start of the training.
    """
    found = {}
    for name, weight in weights.items():
        mean, deviation = statistics[name]
        threshold, size = max(mean + c * deviation, 0.0), weight.abs()
        found[name] = (size > SPLICE * threshold) | (masks[name].to(size.device) & (size > CUT * threshold))
    return found


def weight_statistics(weights: Mapping[str, Tensor]) -> dict[str, tuple[float, float]]:
    """Return mean and deviation (of the population) of |w| by layer."""
    found = {}
    for name, weight in weights.items():
        size = weight.double().abs()
        found[name] = float(size.mean()), float(size.std(correction=0))
    return found


class NetworkSurgery(DenseBeneath):
    """Cuts and splices with a probability that falls with time, until the masks freeze.

    Source: Guo et al., "Dynamic Network Surgery for Efficient DNNs" (NIPS 2016, arXiv 1608.04493), and the authors'
    code for what the paper leaves open: thresholds by mean and deviation of |w| before training, never taken again, an
    update at step n with probability (1 + gamma n)^-power, the two factors. Differs: statistics are of weights without
    biases, which have no mask; c is found by bisection instead of being given, again every `timing.every` steps, so
    that the density comes down the cubic ramp to the one that was asked for. With one c throughout, weights come back
    by the thousand, and what has to leave at the end is more than a network bears.
    """

    def __init__(
        self,
        layers: Sequence[SparseLayer],
        alive: Mapping[str, Tensor],
        density: float,
        timing: MaskTiming,
        *,
        gamma: float,
        power: float,
        seed: int,
    ) -> None:
        """Take the density to end with, how fast updates become rare, and the seed that they are drawn by.

        Raises InputError when the weights as they are now could not come down to it: a layer would be left empty.
        """
        super().__init__(layers, alive, timing)
        self.target, self.gamma, self.power, self.seed = density, gamma, power, seed
        self.start = kept_share(alive.values())
        self.statistics = weight_statistics(self.dense)
        self._require_some(self._masks(self._bisected(density)))
        self.c = self._bisected(self.start)

    def due(self, done: int) -> bool:
        """Return whether masks are updated: by chance, and whenever the thresholds move."""
        return super().due(done) or self._drawn(done - 1)

    def move(self, model: nn.Module, optimizer: torch.optim.Optimizer, done: int) -> None:
        """Update the masks; the thresholds first, when it is time, to the density of this step."""
        del model, optimizer
        if super().due(done):
            self.c = self._bisected(cubic_density(done / self.timing.last, self.start, self.target))
        self.masks = self._masks(self.c)
        self._require_some(self.masks)

    def _require_some(self, masks: Mapping[str, Tensor]) -> None:
        if empty := [name for name, mask in masks.items() if not bool(mask.any())]:
            raise InputError(
                f"density: {self.target:.3g} leaves {empty[0]} empty, by thresholds that are the same for all layers "
                "in deviations of their weights: raise density, or name the layer in keep"
            )

    def _drawn(self, step: int) -> bool:
        generator = torch.Generator().manual_seed(epoch_seed(self.seed, step))
        probability: float = (1 + self.gamma * step) ** -self.power
        return float(torch.rand((), generator=generator)) < probability

    def _masks(self, c: float) -> dict[str, Tensor]:
        found = surgery_masks(self.dense, self.masks, self.statistics, c)
        return {name: mask & self.alive[name].to(mask.device) for name, mask in found.items()}

    def _bisected(self, density: float) -> float:
        """Return the c whose next masks have the density: fewer weights stay for a larger c."""
        spread = {name: pair for name, pair in self.statistics.items() if pair[1]}
        low = min((-mean / deviation for mean, deviation in spread.values()), default=0.0)
        sizes = {name: float(weight.abs().max()) for name, weight in self.dense.items()}
        high = max(((sizes[name] / CUT - mean) / std for name, (mean, std) in spread.items()), default=0.0)
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            low, high = (middle, high) if kept_share(self._masks(middle).values()) > density else (low, middle)
        return high

    def state(self) -> dict[str, Any]:
        """Return masks, dense weights, statistics and c."""
        statistics = {name: list(pair) for name, pair in self.statistics.items()}
        return {**super().state(), "statistics": statistics, "c": self.c}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned."""
        super().restore(state)
        self.statistics = {name: (mean, deviation) for name, (mean, deviation) in state["statistics"].items()}
        self.c = state["c"]
