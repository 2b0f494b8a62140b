"""What is wrong with arrays is told in words, all of it; what has one meaning alone is taken as that."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.core.dataset import Dataset, Normalisation, Split
from pipeline.core.errors import InputError
from pipeline.data.accepted import accepted, shared_images
from pipeline.data.checks import image_problems, label_problems, plain_images, plain_labels

if TYPE_CHECKING:
    from numpy.typing import NDArray

IMAGES = np.random.default_rng(0).integers(0, 256, (6, 3, 8, 10)).astype(np.uint8)
LABELS = np.array([0, 1, 2, 0, 1, 2])
NAN = np.where(IMAGES > 250, np.nan, IMAGES / 255)


def data(images: Any = IMAGES, labels: Any = LABELS, **more: Any) -> Dataset:  # noqa: ANN401 - what is wrong too
    """Return a data set whose training split is given, and whose other splits are right."""
    right = {split: Split(IMAGES + np.uint8(shift), LABELS) for split, shift in (("validation", 1), ("test", 2))}
    given = {"name": "own", "classes": ("a", "b", "c"), "normalisation": Normalisation((0.5,) * 3, (0.2,) * 3), **right}
    return Dataset(**{**given, "train": Split(images, labels), **more})


@pytest.mark.parametrize(
    ("labels", "told"),
    [
        (np.eye(3)[LABELS], "labels [6, 3] are one-hot, allowed: class numbers [N]: labels.argmax(axis=1)"),
        (np.eye(3, dtype=bool)[LABELS], "are one-hot"),
        (LABELS.reshape(2, 3), "labels have the shape [2, 3], allowed: one class number for each image"),
        (LABELS.astype(float), "labels are float64, allowed: integers: labels.astype(np.int64)"),
        (LABELS + 1, "labels go from 1 to 3, allowed: 0 to 2, one for each of the 3 class names: labels - 1"),
        (LABELS - 1, "2 labels are negative, down to -1, allowed: 0 to 2, one for each of the 3 class names; drop"),
        (LABELS - 1, "; drop them: keep = labels >= 0; images[keep], labels[keep]"),
        (LABELS + 5, "labels go up to 7, allowed: 0 to 2, one for each of the 3 class names: give 8 names"),
        (np.array(list("abcabc")), "labels are texts (<U1), allowed: class numbers: np.array([classes.index(x)"),
        (list(LABELS), "labels are a list, allowed: an array: np.asarray(labels)"),
    ],
)
def test_labels(labels: Any, told: str) -> None:  # noqa: ANN401
    """Each fault is one problem that says what mends it, and stops the data set."""
    found = list(label_problems(labels, 3))
    assert len(found) == 1
    assert told in found[0]
    with pytest.raises(InputError) as error:
        accepted(data(labels=labels), "mine.py")
    assert f"train: {found[0]}" in str(error.value)


@pytest.mark.parametrize(
    ("labels", "told"),
    [
        ([-1, 1, 1], "labels are -1 and 1, allowed: 0 to 1, one for each of the 2 class names: (labels + 1) // 2"),
        ([-1, 0, 1], "1 labels are negative"),
        ([-1, -1, 0], "2 labels are negative"),
    ],
)
def test_labels_of_two_classes_as_signs(labels: list[int], told: str) -> None:
    """No image is left out for its sign; with a 0 among them -1 may as well stand for no label."""
    (found,) = label_problems(np.array(labels), 2)
    assert found.startswith(told)


@pytest.mark.parametrize(
    ("images", "told"),
    [
        (IMAGES / 255, "images are float64, allowed: uint8, 0 to 255; found 0 to 1: (images * 255).round()"),
        (IMAGES.astype(np.int8), "images are int8, allowed: uint8, 0 to 255; found -128 to 127: int8 ends at 127"),
        (IMAGES / 255 - 0.5, "found -0.5 to 0.5: give pixels as they were before normalisation"),
        (IMAGES / 2, "found 0 to 127.5: images.round().astype(np.uint8)"),
        (IMAGES.astype(np.uint16) * 257, "found 0 to 6.554e+04: (images / white * 255).round()"),
        (IMAGES > 99, "images are bool, allowed: uint8, 0 to 255: images.astype(np.uint8) * 255"),
        (NAN, f"{int(np.isnan(NAN).sum())} values are NaN or infinite, first in image"),
        (np.where(IMAGES > 250, np.inf, 0.5), "values are NaN or infinite"),
        (IMAGES.transpose(0, 2, 3, 1), "[6, 8, 10, 3], channels last, allowed: [N, C, H, W]: images.transpose("),
        (IMAGES[:, 0], "[6, 8, 10], allowed: [N, C, H, W]; of grey ones [N, H, W]: images[:, None]"),
        (IMAGES[:, :2], "images have 2 channels [6, 2, 8, 10], but the normalisation has 3: give as many, or one"),
        (IMAGES.reshape(6, -1), "images have the shape [6, 240], allowed: [N, C, H, W]"),
        (IMAGES[:, :, :0], "which holds no pixels"),
        (list(IMAGES), "images are a list, allowed: an array uint8 [N, C, H, W]: np.stack(images)"),
    ],
)  # fmt: skip
def test_images(images: Any, told: str) -> None:  # noqa: ANN401
    """Other types, layouts and values are one problem, and stop the data set."""
    found = list(image_problems(images, 3))
    assert any(told in problem for problem in found), found
    with pytest.raises(InputError, match="train: images"):
        accepted(data(images=images), "mine.py")


def test_every_remedy_for_values_mends_them() -> None:
    """The line that a problem gives makes images of which nothing is wrong."""
    for images in (IMAGES / 255, IMAGES / 2, IMAGES.astype(np.int8), IMAGES.transpose(0, 2, 3, 1), IMAGES > 99):
        line = next(image_problems(images, 3)).rpartition(": ")[2].rpartition(", or ")[2]
        mended = eval(line, {"np": np, "images": images})  # noqa: S307 - our own text
        assert list(image_problems(mended, 3)) == []


@pytest.mark.parametrize(
    "labels",
    [LABELS[:, None], LABELS.astype(np.uint8), LABELS.astype(np.int32)[:, None], np.array([0, 1, 1, 0, 1, 0], bool)],
)
def test_labels_that_have_one_meaning(labels: NDArray[Any]) -> None:
    """One number in a row of its own, and integers of any width, are class numbers."""
    found = accepted(data(labels=labels), "mine.py").train.labels
    assert (found.dtype, found.tolist()) == (np.int64, labels.ravel().astype(int).tolist())


@pytest.mark.parametrize("kind", [np.float32, np.float64, np.int16, np.int64, np.uint16])
def test_images_that_have_one_meaning(kind: type[np.generic]) -> None:
    """Whole numbers 0 to 255 of another type are the same pixels; 0 and 1 alone may be something else and stay."""
    assert np.array_equal(accepted(data(images=IMAGES.astype(kind)), "mine.py").train.images, IMAGES)
    assert plain_images((IMAGES > 9).astype(kind)).dtype == kind
    assert plain_labels(np.eye(2)).dtype == float


def test_all_problems_at_once() -> None:
    """Splits, labels, counts, names and shapes are told in one message."""
    wrong = data(
        IMAGES / 255, LABELS[:4] + 1, validation=Split(IMAGES[:, :, :4], LABELS), test=Split(IMAGES[:0], LABELS[:0])
    )
    with pytest.raises(InputError) as error:
        accepted(wrong, "mine.py: load()")
    text = str(error.value)
    assert text.startswith("mine.py: load(): 5 problems\n")
    for told in (
        "train: images are float64",
        "train: labels go from 1 to 3",
        "train: 6 images, but 4 labels",
        "test: no images, allowed: one or more",
        "images differ in shape: train [3, 8, 10], validation [3, 4, 10]",
    ):
        assert told in text


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"classes": ("a", "b", "b")}, "3 class names, 2 of them different"),
        ({"classes": ("a", "b", "c\nd")}, "the class 'c\\nd' is not one line of text: rename it"),
        ({"classes": "abc"}, "classes are 'abc', allowed: a tuple of names"),
        ({"normalisation": Normalisation((0.5,) * 3, (0.5, 0.0, 0.5))}, "std above 0"),
        ({"normalisation": Normalisation((float("nan"),) * 3, (0.5,) * 3)}, "allowed: finite numbers"),
        ({"normalisation": Normalisation((0.5,) * 3, (0.5,))}, "one of each for every channel"),
        ({"test": (IMAGES, LABELS)}, "test: found a tuple, allowed: Split(images, labels)"),
    ],
)
def test_names_and_statistics(more: dict[str, Any], told: str) -> None:
    """What the arrays are read by is looked at first."""
    with pytest.raises(InputError) as error:
        accepted(data(**more), "mine.py")
    assert told in str(error.value)


def test_notes() -> None:
    """A class without images and statistics in other units are said, and stop nothing."""
    few, units = Split(IMAGES[:2] + np.uint8(1), LABELS[:2]), Normalisation((123.7, 116.3, 103.5), (58.4, 57.1, 57.4))
    found = accepted(data(validation=few, normalisation=units), "mine.py")
    assert [note[:40] for note in found.notes] == [
        "1 of 3 classes have no validation image ",
        "mean (123.7, 116.3, 103.5) is above 1: i",
    ]
    assert accepted(data(), "mine.py").notes == ()


def test_images_in_two_splits_or_under_two_labels() -> None:
    """Copies are counted, with examples; images of one value alone tell nothing."""
    plain = np.zeros_like(IMAGES[:1])
    splits = {
        "train": Split(np.concatenate([IMAGES, plain]), np.array([*LABELS, 0])),
        "test": Split(np.concatenate([IMAGES[1:3], IMAGES[5:] + np.uint8(3), plain]), np.array([1, 0, 2, 1])),
    }
    first, second = shared_images(splits, lambda place: f"{place[0]}[{place[1]}]")
    assert first.startswith("images of one split that are in another too, so that accuracy comes out too high: 2 (")
    assert first.endswith(" 2 (train[1] = test[0], train[2] = test[1])")
    assert second == "images that are there with two labels: 1 (train[2] = test[1])"


KINDS = [
    np.uint8,
    np.int8,
    np.uint16,
    np.int32,
    np.int64,
    np.float16,
    np.float32,
    np.float64,
    bool,
    object,
    "<U2",
    complex,
]


@settings(max_examples=250, deadline=None, derandomize=True)
@given(
    kind=st.sampled_from(KINDS),
    scale=st.sampled_from([-1.0, 1 / 255, 0.3, 1.0, 257.0]),
    shape=st.lists(st.sampled_from([0, 1, 2, 3, 8]), max_size=4),
    label_kind=st.sampled_from(KINDS),
    label_shape=st.lists(st.sampled_from([0, 1, 3, 6]), max_size=2),
    shift=st.integers(-1, 2),
)
def test_any_arrays_are_refused_or_what_they_should_be(
    kind: type, scale: float, shape: list[int], label_kind: type, label_shape: list[int], shift: int
) -> None:
    """Of any type, shape and range: what passes is uint8 [N, C, H, W] with as many labels int64 in range."""
    with np.errstate(all="ignore"):
        images = (np.random.default_rng(len(shape)).integers(0, 256, (6, *shape)) * scale).astype(kind)
        labels = (np.resize(LABELS, (6, *label_shape)) + shift).astype(label_kind)
    found = outcome(data(images, labels, validation=Split(images, labels), test=Split(images, labels)))
    if isinstance(found, str):
        assert "allowed" in found
        return
    split = found.train
    assert (split.images.dtype, split.images.ndim, split.labels.dtype) == (np.uint8, 4, np.int64)
    assert split.labels.shape == (len(split.images),)
    assert set(split.labels.tolist()) <= {0, 1, 2}
    assert split.images.tolist() == images.astype(float).tolist()


def outcome(given: Dataset) -> Dataset | str:
    """Return the data set, or what is said in place of it."""
    try:
        return accepted(given, "mine.py")
    except InputError as error:
        return str(error)
