"""The learning rate of each step of a training."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.compress.names import RateSchedule

#: Of one_cycle: the share of the steps in which the rate rises, and the peak over the first rate.
RISING, FIRST = 0.3, 25.0


@dataclass(frozen=True)
class RateCurve:
    """A learning rate over `steps` steps, `peak` at the most.

    Attributes:
        schedule: cosine falls to zero (Loshchilov and Hutter 2017). constant stays (the fine-tuning of Han et al.
            2015). one_cycle rises from a 25th of the peak for 30 % of the steps and falls to zero, both by cosine
            (Smith and Topin 2018; momentum is not cycled). rewind is the part of the cosine behind `from_fraction`
            of it: the end of the training that made the network, once more (Renda et al. 2020).
        warm: steps of linear warm-up, for cosine and constant.
        from_fraction: of rewind, from 0 (all of the cosine) to below 1.
    """

    schedule: RateSchedule
    peak: float
    steps: int
    warm: int
    from_fraction: float

    def at_step(self, step: int) -> float:
        """Return the rate of a step, counted from 0."""
        if self.schedule == "one_cycle":
            return self._one_cycle(step)
        warm = 0 if self.schedule == "rewind" else self.warm
        if step < warm:
            return self.peak * (step + 1) / warm
        if self.schedule == "constant":
            return self.peak
        start = self.from_fraction if self.schedule == "rewind" else 0.0
        return self.peak * _falling(start + (1 - start) * (step - warm) / max(1, self.steps - warm))

    def _one_cycle(self, step: int) -> float:
        top = RISING * self.steps
        if step < top:
            low = self.peak / FIRST
            return low + (self.peak - low) * (1 - _falling(step / top))
        return self.peak * _falling((step - top) / max(1.0, self.steps - top))


def _falling(progress: float) -> float:
    """Return half a cosine: 1 at 0, 0 at 1."""
    return 0.5 * (1 + math.cos(math.pi * progress))
