"""Every code gives every tensor back, at every density, and takes what it said."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.compress.coding import ranges, unpack
from pipeline.compress.coding.candidates import piece_candidates
from tests.unit.compress.coding.every_code import KINDS, LANES, all_candidates, stored

#: Bits by which a size may be off: lanes end anywhere within their states, and bits within a byte.
SLACK = LANES * (unpack.STATE_BITS + unpack.WORD_BITS) + 16


def clustered(density: float | str, size: int, dtype: str) -> np.ndarray:
    """Return values out of 15 clusters, the rest zero; a density may be none, one, or all."""
    seeded = np.random.default_rng(0)
    flags = {"none": np.arange(size) < 0, "one": np.arange(size) == size // 2, "all": np.arange(size) >= 0}.get(
        str(density)
    )
    if flags is None:
        flags = seeded.random(size) < float(density)
    values = (seeded.integers(-7, 8, size) * 8 + 1).astype(dtype)
    return np.where(flags, values, 0).astype(dtype)


@pytest.mark.parametrize("dtype", sorted(KINDS))
@pytest.mark.parametrize("density", ["none", "one", 0.01, 0.5, "all"])
def test_every_code_at_every_density(dtype: str, density: float | str) -> None:
    """Each gives the bytes back, zeros at the end included."""
    for size in (16, 1501):
        tensor = clustered(density, size, dtype)
        found = all_candidates(tensor)
        for candidate in found:
            assert stored(tensor, candidate)[0] == tensor.tobytes(), candidate.name
    names = {candidate.name for candidate in found}
    assert {"raw", "huffman", "range"} <= names | ({"huffman"} if density in {"none", "one"} else set())


@pytest.mark.parametrize("dtype", ["float32", "float16", "int32", "int8", "float64", "int64"])
def test_every_code_of_many_values(dtype: str) -> None:
    """Values that are all different, with NaN, infinities, negative zero and extremes among floats."""
    seeded = np.random.default_rng(0)
    tensor = (seeded.normal(size=1500) * 40).astype(dtype)
    if tensor.dtype.kind == "f":
        tensor[:6] = np.array([np.nan, np.inf, -np.inf, -0.0, 0.0, 1e-7], dtype)
    else:
        tensor[:2] = np.iinfo(dtype).min, np.iinfo(dtype).max
    for dense in (tensor, np.where(seeded.random(1500) < 0.1, tensor, tensor.dtype.type(0))):
        for candidate in all_candidates(dense):
            assert stored(dense, candidate)[0] == dense.tobytes(), candidate.name


@pytest.mark.parametrize("density", [0.3, 0.1, 0.05, 0.01])
def test_sizes_are_as_predicted(density: float) -> None:
    """On independent places every size is that of the candidate within 2 %."""
    tensor = clustered(density, 40_000, "int8")
    ways = {(candidate.code, candidate.name): candidate for candidate in all_candidates(tensor)}
    for candidate in ways.values():
        found = stored(tensor, candidate)[1]
        assert found == pytest.approx(candidate.bits, rel=0.02, abs=SLACK), candidate.name


def test_range_coding_is_near_the_bound() -> None:
    """Within 2 % of the zeroth-order entropy at 5 % density, where every other code is further off."""
    tensor = clustered(0.05, 200_000, "float32")
    best: dict[str, float] = {}
    for candidate in all_candidates(tensor):
        best[candidate.name] = min(candidate.bits, best.get(candidate.name, candidate.bits))
    bound = ranges.entropy_bits(np.unique(tensor, return_counts=True)[1])
    assert bound <= best["range"] <= 1.02 * bound
    assert best["range"] < best["huffman"] < best["relative"] < best["bitmap"] < best["raw"]


def test_codes_that_are_not_allowed_are_not_used() -> None:
    """Names leave out the rest."""
    tensor = clustered(0.1, 5000, "int8")
    for name in ("bitmap", "relative", "huffman", "range"):
        found = piece_candidates(tensor.tobytes(), 4, is_float=False, lanes=LANES, codes=(name,))
        assert {candidate.name for candidate in found} <= {"raw", "general", "fixed", name}
        assert name in {candidate.name for candidate in found}


def test_floating_point_noise_stays_as_it_is() -> None:
    """Sign, exponent and a few bits of dense weights are coded: about 27 of 32 bits are left."""
    tensor = np.random.default_rng(0).normal(size=50_000).astype(np.float32)
    best = min(all_candidates(tensor), key=lambda candidate: candidate.bits)
    assert best.name == "range"
    assert 25.5 < best.bits / tensor.size < 27
