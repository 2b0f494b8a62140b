"""Closed loop: states are chosen by a model, and the model is believed only as far as the measured file agrees."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.core.errors import InputError
from pipeline.results.latency_target import Correction, NearestLatencies

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pipeline.compress.pruning.state import NetworkState
    from pipeline.pricing.timing import PairedRatio
    from pipeline.results.run import Interval

#: A file meets its target between this share of it and the target itself.
LOWEST = 0.97
#: What is aimed at inside that range, so that the measurement's own noise stays within.
AIM = 0.985
#: Most corrections.
CORRECTIONS = 6
#: A state this near to the target is changed a little instead of looking for another one.
_NEAR = 0.10


@dataclass(frozen=True)
class LoopStep:
    """One state with its predicted and its measured time, both as fractions of the whole file's."""

    state: NetworkState
    predicted: float
    measured: Interval


@dataclass(frozen=True)
class LoopResult:
    """The chosen step, all that were tried, and whether the chosen one lies between 0.97 and 1.00 of the target.

    Where none does, `below` and `above` are the nearest measured times on both sides of that range.
    """

    chosen: LoopStep
    steps: tuple[LoopStep, ...]
    met: bool
    below: float | None = None
    above: float | None = None

    def terms(self) -> dict[str, Any]:
        """Return the fields of a `LatencyTarget` that say what was measured, and what else was tried."""
        return {
            "ratio": self.chosen.measured,
            "predicted": self.chosen.predicted,
            "met": self.met,
            "nearest": None if self.met else NearestLatencies(below=self.below, above=self.above),
            "corrections": tuple(
                Correction(predicted=step.predicted, measured=step.measured.value) for step in self.steps
            ),
        }


def meet_target(
    factor: float,
    choose: Callable[[float, NetworkState | None], NetworkState],
    predict: Callable[[NetworkState], float],
    measure: Callable[[NetworkState], Interval],
    start: NetworkState | None = None,
) -> LoopResult:
    """Find a state whose file takes between 0.97 and 1.00 of `factor` times the whole file's time.

    Each correction divides the aim by what the last prediction was wrong by, so that only the last step is predicted.
    Near the target, states near the last one are chosen, of which the same error can be expected. Of states that miss,
    the nearest one that is no slower than the target is chosen, else the fastest.

    Args:
        factor: the target, as a fraction of the whole file's time.
        choose: the state to take for a predicted fraction that may not be exceeded, near another one where one is
            given.
        predict: the predicted fraction of a state; it may learn from what was measured.
        measure: the measured fraction of a state's file.
        start: the first state is looked for near this one.

    Raises:
        InputError: `choose` knows no state for the first aim.
    """
    steps: list[LoopStep] = []
    aim, near = AIM * factor, start
    for _ in range(CORRECTIONS):
        try:
            state = choose(aim, near)
        except InputError:
            if not steps:
                raise
            break
        if any(step.state == state for step in steps):
            break
        steps.append(LoopStep(state, predict(state), measure(state)))
        measured = steps[-1].measured.value
        if LOWEST * factor <= measured <= factor:
            return LoopResult(steps[-1], tuple(steps), met=True)
        closest = min(steps, key=lambda step: abs(step.measured.value / (AIM * factor) - 1))
        aim = predict(closest.state) * AIM * factor / closest.measured.value
        near = closest.state if abs(closest.measured.value / factor - 1) < _NEAR else None
    return nearest_step(factor, steps)


def confirmed_ratio(factor: float, measure: Callable[[], PairedRatio]) -> PairedRatio:
    """Measure a file, and where that meets the target, once more: the result is the mean of both.

    The first state that is measured within the range is taken: noise alone would let in states that lie outside.
    """
    found = measure()
    return found.pooled_with(measure()) if LOWEST * factor <= found.ratio.value <= factor else found


def nearest_step(factor: float, steps: Sequence[LoopStep]) -> LoopResult:
    """Return that no step met the target, with the nearest on either side; no slower ones are chosen first."""
    below = [step for step in steps if step.measured.value <= factor]
    above = [step.measured.value for step in steps if step.measured.value > factor]
    chosen = (
        max(below, key=lambda step: step.measured.value) if below else min(steps, key=lambda step: step.measured.value)
    )
    return LoopResult(
        chosen,
        tuple(steps),
        met=False,
        below=chosen.measured.value if below else None,
        above=min(above) if above else None,
    )
