"""Inputs of a sample that fit a bundle's network, and the words for those that do not."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pipeline.bundle.on_device.infer import Rejected
from pipeline.bundle.on_device.task.inputs import InputType, check_input
from pipeline.bundle.on_device.task.task_code import TaskCode

OPEN = InputType("uint8", (3, 8, 12), {1: "height"}, is_image=True, is_raw=True)
MAP = InputType("float32", (2, 8, 12), {}, is_image=False)


@pytest.mark.parametrize(
    ("wanted", "dtype", "shape", "says"),
    [
        (OPEN, "uint8", (3, 8, 12), ""),
        (OPEN, "uint8", (3, 99, 12), ""),
        (OPEN, "uint8", (3, 99, 13), "allowed: uint8 [3, height, 12]; resize to 12x99"),
        (OPEN, "uint8", (99, 12, 3), "allowed: uint8 [3, height, 12]; channels last: transpose(2, 0, 1)"),
        (OPEN, "float32", (8, 12, 3), "height, 12]; channels last: transpose(2, 0, 1); give pixels from 0 to 255, "),
        (OPEN._replace(is_image=False), "uint8", (3, 0, 12), "is uint8 [3, 0, 12], allowed: uint8 [3, height, 12]"),
        (MAP, "float32", (2, 9, 12), "is float32 [2, 9, 12], allowed: float32 [2, 8, 12]"),
        (MAP, "float64", (2, 8, 12), "is float64 [2, 8, 12], allowed: float32 [2, 8, 12]"),
    ],
)
def test_what_fits(wanted: InputType, dtype: str, shape: tuple[int, ...], says: str) -> None:
    """Open sizes fit any; advice is given where it would help, and nothing but an image is resized."""
    values = np.zeros(shape, dtype)
    if not says:
        check_input("x", values, wanted)
        return
    with pytest.raises(Rejected) as error:
        check_input("x", values, wanted)
    assert says in str(error.value)
    assert (";" in str(error.value)) == (";" in says)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_numbers_that_are_none(value: float) -> None:
    """int8 files make numbers of them."""
    values = np.zeros((2, 8, 12), np.float32)
    values[1, 2, 3] = value
    with pytest.raises(Rejected, match="the input x holds values that are NaN or infinite"):
        check_input("x", values, MAP)


@pytest.mark.parametrize(("channels", "fits"), [(1, True), (2, False), (3, True)])
def test_grey_is_repeated_for_a_network_of_colours(channels: int, *, fits: bool) -> None:
    """As the data were; no other number of channels is."""
    raw = {"dtype": "uint8", "shape": [3, 4, 4]}
    taken = {"name": "image", "dtype": "float32", "shape": [3, 4, 4], "raw": raw}
    facts: dict[str, Any] = {"inputs": [taken], "made_by": "normalise", "code": {"module": "detection"}}
    code = TaskCode(SimpleNamespace(), {**facts, "mean": [0.5] * 3, "std": [0.5] * 3})
    sample = {"image": np.full((channels, 4, 4), 255, np.uint8)}
    if not fits:
        with pytest.raises(Rejected, match=r"uint8 \[2, 4, 4\], allowed: uint8 \[3, 4, 4\]$"):
            code.inputs(sample)
        return
    assert np.array_equal(code.inputs(sample)["image"], np.ones((3, 4, 4), np.float32))
