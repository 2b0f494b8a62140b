"""Splits are stratified, exact in size, disjoint and the same for the same seed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.errors import InputError
from pipeline.data.splits import stratified


@given(
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=6),
    share=st.floats(0.05, 0.95),
    seed=st.integers(0, 2**31),
)
def test_parts_are_disjoint_complete_and_proportional(sizes: list[int], share: float, seed: int) -> None:
    """Every position is in exactly one part, the count is exact, and each stratum is within one of its share."""
    strata = np.repeat(np.arange(len(sizes)), sizes)
    count = round(share * len(strata))
    if not 0 < count < len(strata):
        return
    rest, drawn = stratified(strata, count, seed)
    assert len(drawn) == count
    assert sorted([*rest, *drawn]) == list(range(len(strata)))
    for stratum, size in enumerate(sizes):
        exact = size * count / len(strata)
        assert abs((strata[drawn] == stratum).sum() - exact) < 1


def test_same_seed_same_split() -> None:
    """The seed alone decides which images are drawn."""
    strata = np.arange(300) % 3
    first, second, other = (stratified(strata, 75, seed)[1] for seed in (1, 1, 2))
    assert (first == second).all()
    assert (first != other).any()


@pytest.mark.parametrize("count", [0, 10])
def test_empty_part_is_refused(count: int) -> None:
    """A split without images on one side is bad input, and the message says how many there are."""
    with pytest.raises(InputError, match=f"cannot take {count} of 10 images"):
        stratified(np.zeros(10, dtype=np.int64), count, 0)
