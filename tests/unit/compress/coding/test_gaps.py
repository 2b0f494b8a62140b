"""Relative index: gaps at the edges, counts against the formula, and its own optimum."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.compress.coding.gaps import GAP_BITS, best_gap_bits, entry_bits, relative_index


def restored(zeros: np.ndarray, real: np.ndarray, size: int) -> list[int]:
    """Return the places of nonzero elements, entry by entry."""
    place, found = -1, []
    for gap, is_real in zip(zeros, real, strict=True):
        place += gap + 1
        if is_real:
            found.append(place)
    assert place < size
    return found


@pytest.mark.parametrize("bits", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("more", [-1, 0, 1])
def test_runs_at_the_edge(bits: int, more: int) -> None:
    """2**m - 1 zeros need no filler, 2**m need one, and 2**(m + 1) two."""
    for times in (1, 2):
        run = times * 2**bits + more
        flags = np.zeros(run + 1, bool)
        flags[-1] = True
        found = relative_index(flags, bits)
        assert len(found.zeros) == run // 2**bits + 1
        assert restored(*found, len(flags)) == [run]


def test_figure_of_the_paper() -> None:
    """Han et al., figure 2: 10 zeros are more than 3 bits hold; a filler stands for 8 of them."""
    flags = np.zeros(16, bool)
    flags[[1, 4, 15]] = True
    found = relative_index(flags, 3)
    assert found.zeros.tolist() == [1, 2, 7, 2]
    assert found.real.tolist() == [True, True, False, True]


def test_nothing_and_zeros_at_the_end() -> None:
    """Zeros behind the last element have no entry."""
    assert len(relative_index(np.zeros(1000, bool), 4).zeros) == 0
    flags = np.zeros(1000, bool)
    flags[0] = True
    assert len(relative_index(flags, 4).zeros) == 1


@pytest.mark.parametrize("density", [0.3, 0.1, 0.05, 0.02])
def test_formula_predicts_the_bits(density: float) -> None:
    """On random masks the bits are those of the formula within 2 %."""
    flags = np.random.default_rng(0).random(400_000) < density
    for bits in (3, 5, 8):
        found = relative_index(flags, bits)
        each = len(found.zeros) * (bits + 5) / flags.sum()
        assert each == pytest.approx(entry_bits(density, bits, 5), rel=0.02)


@pytest.mark.parametrize(
    ("density", "bits", "each"),
    [(0.3, 3, 8.49), (0.2, 4, 9.26), (0.1, 5, 10.36), (0.05, 6, 11.43), (0.02, 7, 12.98), (0.01, 8, 14.07)],
)
def test_best_bits(density: float, bits: int, each: float) -> None:
    """Worked out by hand for values of 5 bits; no other number of bits is better."""
    assert best_gap_bits(density, 5) == bits
    assert entry_bits(density, bits, 5) == pytest.approx(each, abs=0.005)
    assert all(entry_bits(density, bits, 5) <= entry_bits(density, other, 5) for other in GAP_BITS)
