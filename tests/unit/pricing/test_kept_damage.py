"""Damage that is kept is found again for the same network, samples and moves, and for no others."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from pipeline.pricing.kept_damage import measured_or_kept
from tests.unit.compress.pruning.test_damage import meter

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.compress.pruning.damage import DamageMeter


def found(measure: DamageMeter, grid: tuple[int, ...] = (4, 8)) -> float:
    """Return the damage of narrowing the one group, and note in `CALLS` whether it was measured."""
    (group,) = measure.graph.groups
    scores = {group.name: torch.arange(8.0)}
    damage = measured_or_kept(measure, scores, {group.name: grid}, (), lambda *_: CALLS.append(1))
    return damage.groups[group.name][1]


CALLS: list[int] = []


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    CALLS.clear()


def test_the_same_again_is_not_measured() -> None:
    """A second search with the same network and samples gets the same number."""
    assert found(meter(32, 16)[0]) == found(meter(32, 16)[0])
    assert len(CALLS) == 1


@pytest.mark.parametrize("other", ["weights", "samples", "batches", "widths"])
def test_anything_else_is_measured(other: str) -> None:
    """Other weights, samples, batches or widths are another network, or another question."""
    found(meter(32, 16)[0])
    measure, model = meter(48 if other == "samples" else 32, 32 if other == "batches" else 16)
    if other == "weights":
        with torch.no_grad():
            model[0].weight[0, 0, 0, 0] += 1e-3
    found(measure, (5, 8) if other == "widths" else (4, 8))
    assert len(CALLS) == 2
