"""Normalisation, by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from pipeline.compress.pruning.importance.normalise import normalised_scores

if TYPE_CHECKING:
    from pipeline.compress.pruning.importance.names import Normalisation


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("none", [3, 1, 0, 0]),
        ("mean", [3, 1, 0, 0]),
        ("max", [1, 1 / 3, 0, 0]),
        ("l2", [3 / 10**0.5, 1 / 10**0.5, 0, 0]),
        ("rank", [1, 0.75, 0.375, 0.375]),
    ],
)
def test_normalisations(how: Normalisation, expected: list[float]) -> None:
    """Equal scores share the mean of their places."""
    scores = {"g": torch.tensor([3.0, 1.0, 0.0, 0.0]), "larger": torch.tensor([30.0, 10.0, 0.0, 0.0])}
    found = normalised_scores(scores, how)
    assert found["g"].tolist() == pytest.approx(expected)
    assert found["g"].dtype == torch.float64
    if how != "none":
        assert torch.allclose(found["larger"], found["g"])


@pytest.mark.parametrize("how", ["none", "mean", "max", "l2"])
def test_groups_of_zeros_stay_zeros(how: Normalisation) -> None:
    """Nothing is divided by zero."""
    assert normalised_scores({"g": torch.zeros(3)}, how)["g"].tolist() == [0, 0, 0]
