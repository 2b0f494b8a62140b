"""Allocation over layers by merged traces."""

from __future__ import annotations

import pytest
import torch

from pipeline.compress.sparsity.trace_allocation import allocate_steps
from pipeline.core.errors import InputError


def test_layers_lose_what_matters_least_to_their_own_outputs() -> None:
    """Relative to all that a layer can lose."""
    losses = {
        "flat": torch.tensor([[1.0, 1.0], [1.0, 1.0]], dtype=torch.float64),  # 0.25 each
        "steep": torch.tensor([[10.0, 990.0], [20.0, 980.0]], dtype=torch.float64),  # 0.005, 0.495, 0.01, 0.49
    }
    found = allocate_steps(losses, 5)
    assert found["steep"].tolist() == [1, 1]
    assert sorted(found["flat"].tolist()) == [1, 2]
    assert [int(each.sum()) for each in allocate_steps(losses, 2).values()] == [0, 2]


def test_each_layer_keeps_a_weight() -> None:
    """Also one that costs nothing."""
    losses = {"free": torch.zeros(2, 3, dtype=torch.float64), "dear": torch.ones(1, 4, dtype=torch.float64)}
    found = allocate_steps(losses, 8)
    assert [int(each.sum()) for each in found.values()] == [5, 3]
    with pytest.raises(InputError, match="without a weight"):
        allocate_steps(losses, 9)
