"""Schedules of iterative pruning: how much is left after each step, so that the total is met after the last."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from pipeline.core.errors import InputError

if TYPE_CHECKING:
    from pipeline.compress.names import ScheduleShape


def remaining_schedule(total: float, steps: int, shape: ScheduleShape) -> tuple[float, ...]:
    """Return what is left after each step, as a fraction of the original network; the last is `total`.

    As targets of a cost these are used as they are; for ratios of channels see `step_ratios`.

    Args:
        total: fraction of the original that is left in the end, in (0, 1): of its channels or of its cost.
        steps: how often the network is pruned, 1 or more.
        shape: `geometric`: every step removes the same fraction of what it finds. `linear`: every step removes the same
            amount, and so larger and larger fractions.

    Raises:
        InputError: there is no step, or `total` is not a fraction.

    Source: the fixed fraction per iteration of Han et al. (NeurIPS 2015) and Frankle and Carbin (ICLR 2019).

    Example:
        >>> remaining_schedule(0.25, 2, "geometric")
        (0.5, 0.25)
        >>> remaining_schedule(0.25, 3, "linear")
        (0.75, 0.5, 0.25)
    """
    if steps < 1 or not 0 < total < 1:
        raise InputError(f"Found {steps} steps that leave {total}; expected 1 or more, and a fraction in (0, 1).")
    if shape == "geometric":
        return (*(total ** (step / steps) for step in range(1, steps)), total)
    return (*(1 - (1 - total) * step / steps for step in range(1, steps)), total)


def step_ratios(left: tuple[float, ...]) -> tuple[float, ...]:
    """Return the fraction of what it finds that each step removes, when these fractions of the original are left.

    Example:
        >>> step_ratios((0.75, 0.375))
        (0.25, 0.5)
    """
    return tuple(1 - after / before for before, after in pairwise((1.0, *left)))
