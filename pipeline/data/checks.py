"""What is wrong with arrays of images and labels, and what is worth knowing of them: functions of arrays alone.

Every problem says what was found, what is allowed, and the line of numpy that mends it. Nothing here guesses: what has
more than one meaning is told, and what has one alone (labels [N, 1], integers of another width) is taken as such.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

#: Numbers of channels that mark the last axis as theirs.
CHANNELS = (1, 2, 3, 4)
_WHITE = 255
LABEL_DIMENSIONS, IMAGE_DIMENSIONS = 1, 4
#: A split and a position in it.
Place = tuple[str, int]
Pair = tuple[Place, Place]


def plain_labels(labels: NDArray[Any]) -> NDArray[Any]:
    """Return labels [N] or [N, 1] of any integer type, or of two classes as bool, as int64 [N]; others unchanged."""
    if labels.dtype.kind not in "iub":
        return labels
    flat = labels[:, 0] if labels.ndim == LABEL_DIMENSIONS + 1 and labels.shape[1] == 1 else labels
    return flat.astype(np.int64) if flat.ndim == LABEL_DIMENSIONS else labels


def plain_images(images: NDArray[Any]) -> NDArray[Any]:
    """Return whole numbers 0 to 255 of a wider type as uint8, which is exact; others unchanged.

    Numbers that are all 0 or 1 are left: they may be a scale from 0 to 1.
    """
    if images.dtype == np.uint8 or images.dtype.kind not in "iuf" or images.dtype.itemsize == 1 or not images.size:
        return images
    low, high = images.min(), images.max()
    if not (low >= 0 and 1 < high <= _WHITE):
        return images
    exact = images.astype(np.uint8)
    return exact if np.array_equal(exact, images) else images


def label_problems(labels: object, classes: int) -> Iterator[str]:
    """Yield what is wrong with the labels of one split, which should be int64 [N] from 0 to classes - 1."""
    if not isinstance(labels, np.ndarray):
        yield f"labels are a {type(labels).__name__}, allowed: an array: np.asarray(labels)"
        return
    shape = list(labels.shape)
    if labels.ndim == LABEL_DIMENSIONS + 1 and labels.shape[1] == classes and _one_hot(labels):
        yield f"labels {shape} are one-hot, allowed: class numbers [N]: labels.argmax(axis=1)"
    elif labels.ndim != LABEL_DIMENSIONS:
        yield f"labels have the shape {shape}, allowed: one class number for each image, [N]"
    elif labels.dtype.kind in "USO":
        yield f"labels are texts ({labels.dtype}), allowed: class numbers: np.array([classes.index(x) for x in labels])"
    elif labels.dtype.kind not in "iub":
        yield f"labels are {labels.dtype}, allowed: integers: labels.astype(np.int64)"
    elif labels.size:
        yield from _range_problems(int(labels.min()), int(labels.max()), labels, classes)


def _one_hot(labels: NDArray[Any]) -> bool:
    number = labels.dtype.kind in "iufb"
    return number and bool(((labels == 0) | (labels == 1)).all() and (labels.sum(axis=1) == 1).all())


def _range_problems(low: int, high: int, labels: NDArray[Any], classes: int) -> Iterator[str]:
    allowed = f"allowed: 0 to {classes - 1}, one for each of the {classes} class names"
    if low == 1 and high == classes:
        yield f"labels go from 1 to {high}, {allowed}: labels - 1"
    elif (low, high, classes) == (-1, 1, 2) and labels.all():
        yield f"labels are -1 and 1, {allowed}: (labels + 1) // 2"
    elif low < 0:
        found = f"{int((labels < 0).sum())} labels are negative, down to {low}"
        yield f"{found}, {allowed}; drop them: keep = labels >= 0; images[keep], labels[keep]"
    elif high >= classes:
        yield f"labels go up to {high}, {allowed}: give {high + 1} names, or other labels"


def image_problems(images: object, channels: int) -> Iterator[str]:
    """Yield what is wrong with the images of one split, which should be uint8 [N, C, H, W].

    `channels` are those of the mean and deviation: images have as many, or one, which is then repeated.
    """
    if not isinstance(images, np.ndarray):
        how = "np.asarray(images)" if hasattr(images, "__array__") else "np.stack(images)"
        yield f"images are a {type(images).__name__}, allowed: an array uint8 [N, C, H, W]: {how}"
        return
    yield from _layout_problems(images, channels)
    if images.dtype != np.uint8 and images.size:
        yield f"images are {images.dtype}, allowed: uint8, 0 to 255{_values_advice(images)}"


def _layout_problems(images: NDArray[Any], channels: int) -> Iterator[str]:
    shape, allowed = list(images.shape), "allowed: [N, C, H, W]"
    if images.ndim == IMAGE_DIMENSIONS - 1:
        yield f"images have the shape {shape}, {allowed}; of grey ones [N, H, W]: images[:, None]"
    elif images.ndim != IMAGE_DIMENSIONS:
        yield f"images have the shape {shape}, {allowed}"
    elif 0 in shape[1:]:
        yield f"images have the shape {shape}, which holds no pixels, {allowed}"
    elif shape[1] not in {1, channels}:
        if shape[3] in CHANNELS:
            yield f"images have the shape {shape}, channels last, {allowed}: images.transpose(0, 3, 1, 2)"
        else:
            yield f"images have {shape[1]} channels {shape}, but the normalisation has {channels}: give as many, or one"


def _values_advice(images: NDArray[Any]) -> str:
    """Say what values of another type look like, and what makes pixels of them."""
    if images.dtype.kind not in "iuf":
        return ": images.astype(np.uint8) * 255" if images.dtype == np.bool_ else ""
    finite = np.isfinite(images)
    if not finite.all():
        wrong, first = int(images.size - finite.sum()), int(np.argwhere(~finite)[0][0])
        return f"; {wrong:,} values are NaN or infinite, first in image {first}: fix where they come from"
    low, high = float(images.min()), float(images.max())
    return f"; found {low:.4g} to {high:.4g}: {_remedy(images.dtype, low, high)}"


def _remedy(dtype: np.dtype[Any], low: float, high: float) -> str:
    """Return the line that makes uint8 of finite values, or where to look where none can."""
    if dtype == np.int8:
        return "int8 ends at 127; read them as uint8, or (images.astype(np.int16) + 128).astype(np.uint8)"
    if low < 0:
        return "give pixels as they were before normalisation, and its mean and std to Normalisation"
    if high <= 1:
        return "(images * 255).round().astype(np.uint8)"
    if high <= _WHITE:
        return "images.round().astype(np.uint8)"
    return "(images / white * 255).round().astype(np.uint8), with one value of white for all splits"


def image_digests(images: NDArray[Any]) -> list[bytes | None]:
    """Return a digest of the pixels of each image; None for an image of one value alone, which tells nothing."""
    found: list[bytes | None] = []
    for image in images:
        pixels = np.ascontiguousarray(image)
        plain = pixels.min() == pixels.max()
        found.append(None if plain else hashlib.blake2b(pixels.tobytes(), digest_size=16).digest())
    return found


def copies(splits: Mapping[str, Sequence[bytes | None]]) -> list[Pair]:
    """Return where an image of a later split is one of an earlier split; of digests of the images by split."""
    first: dict[bytes, Place] = {}
    found: list[Pair] = []
    for split, digests in splits.items():
        places = [(digest, (split, position)) for position, digest in enumerate(digests) if digest is not None]
        found += [(first[digest], place) for digest, place in places if digest in first]
        for digest, place in places:
            first.setdefault(digest, place)
    return [pair for pair in found if pair[0][0] != pair[1][0]]


def contradictions(splits: Mapping[str, Sequence[bytes | None]], labels: Mapping[str, NDArray[Any]]) -> list[Pair]:
    """Return where one image is found with two labels, in one split or in two."""
    first: dict[bytes, tuple[Place, int]] = {}
    found: list[Pair] = []
    for split, digests in splits.items():
        for position, (digest, label) in enumerate(zip(digests, labels[split], strict=True)):
            if digest is not None:
                place, known = first.setdefault(digest, ((split, position), int(label)))
                found += [(place, (split, position))] if known != label else []
    return found


def absent(labels: NDArray[np.int64], classes: Sequence[str]) -> list[str]:
    """Return the names of the classes that no label has."""
    counts = np.bincount(labels, minlength=len(classes))
    return [name for name, count in zip(classes, counts, strict=True) if not count]
