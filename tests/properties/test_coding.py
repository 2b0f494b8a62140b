"""What holds for every tensor: each code gives its bytes back. SECATEUR_EXAMPLES=1000 tries as many."""

from __future__ import annotations

import os

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.compress.coding import unpack
from pipeline.compress.coding.pack import pack_files
from pipeline.compress.coding.pieces import TensorPlace
from tests.unit.compress.coding.every_code import KINDS, all_candidates, stored

EXAMPLES = int(os.environ.get("SECATEUR_EXAMPLES", "25"))
TRIES = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize="SECATEUR_EXAMPLES" not in os.environ,
    suppress_health_check=[HealthCheck.too_slow],
)


@st.composite
def tensors(draw: st.DrawFn) -> np.ndarray:
    """Return a tensor of any type, size, number of values and share of one value, which need not be zero."""
    dtype = draw(st.sampled_from(sorted(KINDS)))
    size, values = draw(st.integers(1, 700)), draw(st.integers(1, 300))
    seeded = np.random.default_rng(draw(st.integers(0, 2**32)))
    table = seeded.integers(0, 256, (values, np.dtype(dtype).itemsize), np.uint8).view(dtype).ravel()
    found = table[seeded.integers(0, values, size)]
    return np.where(seeded.random(size) < draw(st.floats(0, 1)), table[0], found)


@TRIES
@given(tensors())
def test_every_code(tensor: np.ndarray) -> None:
    """Whatever the bytes are, NaN of any kind among them."""
    for candidate in all_candidates(tensor):
        assert stored(tensor, candidate)[0] == tensor.tobytes()


@TRIES
@given(st.binary(max_size=3000), st.lists(st.tuples(*[st.integers(0, 3000)] * 2, st.integers(0, 7), st.booleans())))
def test_any_bytes(content: bytes, places: list[tuple[int, int, int, bool]]) -> None:
    """Whatever is said to be a tensor."""
    said = [TensorPlace(start, size, "", kind, is_float) for start, size, kind, is_float in places]
    assert unpack.unpack_files(pack_files({"x": content}, {"x": said}).content) == {"x": content}


@TRIES
@given(st.binary(max_size=300))
def test_noise_is_refused(content: bytes) -> None:
    """Behind the right first bytes, too."""
    for head in (b"", unpack.MAGIC, unpack.MAGIC + b"\1"):
        try:
            unpack.unpack_files(head + content)
        except unpack.Damaged:
            continue
        raise AssertionError(content)
