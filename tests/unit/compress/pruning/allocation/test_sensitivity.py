"""Curves of groups that are pruned alone, and the limits that follow."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from pipeline.compress.pruning.allocation import Constraints, global_allocation, ratio_limits, sensitivity
from pipeline.core.errors import StageError

if TYPE_CHECKING:
    from pipeline.compress.pruning.allocation import Kept

SCORES = {"robust": torch.arange(16.0), "fragile": torch.arange(16.0), "narrow": torch.arange(4.0)}


def accuracy(kept: Kept) -> float:
    """Return 0.9 less 0.001 for each channel of `robust`, and 0.01 for each of `fragile`, that is gone."""
    lost = {name: 16 - len(indices) for name, indices in kept.items()}
    return 0.9 - 0.001 * lost.get("robust", 0) - 0.01 * lost.get("fragile", 0)


def test_curves_have_what_was_measured_at_each_width() -> None:
    """On a grid of 4, ratios of 0.25, 0.3 and 0.5 are widths of 12, 12 and 8; a narrow group has only its own."""
    asked: list[Kept] = []

    def measure(kept: Kept) -> float:
        asked.append(kept)
        return accuracy(kept)

    curves = sensitivity(SCORES, [0.5, 0.25, 0.3], Constraints(0.1, 4), measure)
    assert curves == {
        "robust": {16: 0.9, 12: pytest.approx(0.896), 8: pytest.approx(0.892)},
        "fragile": {16: 0.9, 12: pytest.approx(0.86), 8: pytest.approx(0.82)},
        "narrow": {4: 0.9},
    }
    assert asked == [
        {},
        {"robust": tuple(range(4, 16))},
        {"robust": tuple(range(8, 16))},
        {"fragile": tuple(range(4, 16))},
        {"fragile": tuple(range(8, 16))},
    ]


@pytest.mark.parametrize(
    ("tolerance", "expected"),
    [
        (0.0, {"robust": 0, "fragile": 0, "narrow": 0}),
        (0.005, {"robust": 0.25, "fragile": 0, "narrow": 0}),
        (0.05, {"robust": 0.5, "fragile": 0.25, "narrow": 0}),
    ],
)
def test_the_largest_ratio_within_the_tolerance(tolerance: float, expected: dict[str, float]) -> None:
    """Four channels cost `robust` 0.004 and `fragile` 0.04, eight twice that."""
    assert ratio_limits(sensitivity(SCORES, [0.25, 0.5], Constraints(0.1, 4), accuracy), tolerance) == expected


def test_a_curve_that_recovers_is_not_trusted() -> None:
    """After the first point that is too low nothing counts, however good."""
    assert ratio_limits({"a": {8: 0.9, 6: 0.89, 4: 0.5, 2: 0.9}}, 0.02) == {"a": 0.25}


def test_limits_bound_a_ranking() -> None:
    """The fragile group keeps three quarters although its scores are the lowest."""
    constraints = Constraints(0.1, 4)
    found = ratio_limits(sensitivity(SCORES, [0.25, 0.5], constraints, accuracy), 0.05)
    scores = {"robust": torch.arange(16.0) + 100, "fragile": torch.arange(16.0)}
    kept = global_allocation(scores, constraints.limited(found)).at_ratio(0.25)
    assert (len(kept["robust"]), len(kept["fragile"])) == (12, 12)


def test_a_measurement_that_is_no_number_is_refused() -> None:
    """NaN compares as false with everything, so it would pass every tolerance."""
    with pytest.raises(StageError, match="measurement of 8 channels of 'robust' gave nan"):
        sensitivity(SCORES, [0.5], Constraints(0.1, 8), lambda kept: float("nan") if kept else 1.0)
