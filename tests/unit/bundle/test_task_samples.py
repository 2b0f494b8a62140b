"""Raw samples of any form: which are images, how files become them, what others are made in their likeness."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytest
from PIL import Image

from pipeline.bundle import task_samples
from pipeline.bundle.on_device.infer import Rejected
from pipeline.bundle.on_device.task.answers import (
    first_difference,
    load_arrays,
    prediction_arrays,
    prediction_lists,
    prediction_text,
)
from pipeline.bundle.on_device.task.infer import png_bytes, raw_image, read_sample
from pipeline.bundle.task_parts import image_in
from pipeline.core.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.bundle.content import Content

CONTENT = cast("Content", SimpleNamespace(task=SimpleNamespace(kit=None, kind="small")))
GENERATOR = np.random.default_rng(0)


def drawn(*shape: int) -> Any:  # noqa: ANN401 - pixels
    """Return random pixels."""
    return GENERATOR.integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize(
    ("raw", "layout", "colour"),
    [
        (drawn(3, 8, 9), "CHW", "rgb"),
        (drawn(8, 9, 3), "HWC", "rgb"),
        (drawn(1, 8, 9), "CHW", "grey"),
        (drawn(8, 9), "HW", "grey"),
        ({"photo": drawn(8, 9, 1)}, "HWC", "grey"),
    ],
    ids=lambda each: each if isinstance(each, str) else "",
)
def test_an_image_file_becomes_the_raw_sample(tmp_path: Path, raw: Any, layout: str, colour: str) -> None:  # noqa: ANN401
    """In the axes and the colours that the task takes, to the pixel."""
    image = image_in(raw)
    assert image == {"name": "photo" if isinstance(raw, dict) else "raw", "layout": layout, "colour": colour}
    facts = {"image": image, "raw_is_dict": isinstance(raw, dict)}
    (tmp_path / "image.png").write_bytes(png_bytes(raw_image(raw, facts)))
    with Image.open(tmp_path / "image.png") as written:
        assert (written.size, written.mode) == ((9, 8), "RGB")
    found = read_sample(tmp_path / "image.png", facts)
    assert not first_difference(prediction_arrays(raw), prediction_arrays(found), 0.0)


@pytest.mark.parametrize(
    "raw", [drawn(8), drawn(8, 9, 2), drawn(3, 8, 9).astype(np.float32), {"one": drawn(8, 9), "two": 1}, "text", 7]
)
def test_what_is_no_image(raw: Any) -> None:  # noqa: ANN401 - whatever a user gives
    """Other shapes and types, and images with something beside them."""
    assert image_in(raw) is None


@pytest.mark.parametrize(
    "raw",
    [
        drawn(3, 16, 16),
        drawn(16, 16, 3),
        drawn(16, 16),
        np.arange(9),
        np.float32([0.5, 0.7]),
        np.array([True, False]),
        4,
        0.5,
    ],
    ids=str,
)
def test_made_values_are_like_the_known_ones(raw: Any) -> None:  # noqa: ANN401 - whatever a user gives
    """Of the same type and shape and about the same range; the same for the same seed, and others for others."""
    made = [task_samples._made_value([raw, raw], raw, seed, CONTENT) for seed in (0, 0, 1)]
    assert type(made[0]) is type(raw)
    assert (np.shape(made[0]), np.asarray(made[0]).dtype) == (np.shape(raw), np.asarray(raw).dtype)
    assert np.array_equal(made[0], made[1])
    if np.asarray(raw).dtype.kind in "iub":
        assert np.min(raw) * (np.ndim(raw) < 2) <= np.min(made[0]) <= np.max(made[0]) <= max(255, np.max(raw))
    if np.size(raw) > 8:
        assert not np.array_equal(made[0], made[2])
        assert not np.array_equal(made[0], raw)


def test_arrays_of_any_name_are_kept(tmp_path: Path) -> None:
    """Also of names that numpy takes for arguments, and values without axes."""
    arrays = {"file": np.arange(3), "allow_pickle": np.array(2.5), "a/b": np.array("text"), "empty": np.zeros((0, 6))}
    task_samples.write_arrays(tmp_path / "any.npz", arrays)
    found = load_arrays(tmp_path / "any.npz")
    assert not first_difference(arrays, found, 0.0)
    assert found["allow_pickle"].shape == ()


def test_text_is_not_made() -> None:
    """Nobody's text can stand for somebody's: the two ways out are named."""
    with pytest.raises(InputError, match=r"task small: a sample holds text.*data_licence.*sample_source: validation"):
        task_samples._made_value(["a"], "a", 0, CONTENT)


def test_predictions_in_arrays_and_words() -> None:
    """Nested ones have names by their places; what is not finite is null for programs."""
    prediction = {"boxes": np.float32([[1, np.nan]]), "names": ["a", "b"], "parts": [np.arange(2), {"sure": True}]}
    arrays = prediction_arrays(prediction)
    names = ["boxes", "names", "parts.0", "parts.1.sure"]
    assert list(arrays) == [f"prediction.{name}" for name in names]
    assert prediction_lists(prediction)["prediction.boxes"] == [[1.0, None]]
    assert prediction_text(prediction).splitlines() == [
        "boxes: 1, nan",
        "names: a, b",
        "parts.0: 0, 1",
        "parts.1.sure: True",
    ]
    assert prediction_text(np.arange(20)) == "0, 1, 2, 3, 4, 5, 6, 7 and 12 more, [20]"
    with pytest.raises(Rejected, match="parts is a NoneType"):
        prediction_arrays({"parts": None})


@pytest.mark.parametrize(
    ("found", "says"),
    [
        ({"a": np.float32([1.0, 9.99]), "b": np.array(["x"])}, ""),
        (
            {"a": np.float32([1.0, 8.0]), "b": np.array(["x"])},
            "1 of 2 values of a differ, first 8.0, expected 10.0 at [1]",
        ),
        ({"a": np.float32([1.0, np.nan]), "b": np.array(["x"])}, "1 of 2 values of a differ, first nan"),
        ({"a": np.float32([1.0, 10.0]), "b": np.array(["y"])}, "1 of 1 values of b differ, first y, expected x"),
        ({"a": np.float32([1.0]), "b": np.array(["x"])}, "a is float32 [1], expected float32 [2]"),
        ({"a": np.float32([1.0, 10.0])}, "it has a, expected a, b"),
    ],
)
def test_how_predictions_differ(found: dict[str, Any], says: str) -> None:
    """Numbers by a share of the largest, all else at all; the first place is named."""
    expected = {"a": np.float32([1.0, 10.0]), "b": np.array(["x"])}
    told = first_difference(expected, found, 0.01)
    assert told.startswith(says)
    assert bool(told) == bool(says)
