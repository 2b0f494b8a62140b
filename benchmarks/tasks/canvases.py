"""Canvases of Fashion-MNIST items at random sizes and places on clutter, with exact boxes and masks. Synthetic.

They try the mechanics of detection and segmentation, and differences between files of one network; they say nothing
about scores on photographs. Items of the three splits are those of Fashion-MNIST's, so none is in two. Boxes are those
of the whole item, of which another may hide a part; masks have what is seen.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from pipeline.core.dataset import Arrays, Normalisation, Samples
from pipeline.data import fashion_mnist

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Pixels = NDArray[np.uint8]
    Canvas = tuple[Pixels, NDArray[np.float32], Pixels]

NORMALISATION = Normalisation(mean=(0.4,), std=(0.25,))
SPLITS = ("train", "validation", "test")
#: Pixels of an item that are brighter belong to it.
DARK = 12
#: Largest share of an item that a later one may hide, and how often a place is looked for.
HIDDEN_AT_MOST, TRIES = 0.25, 20
#: Sides of an item before and after; smaller ones cannot be told apart.
SMALLEST, LARGEST = 20, 56


def load(
    kind: str = "detection",
    size: int = 96,
    most: int = 5,
    train: int = 6000,
    validation: int = 1000,
    test: int = 2000,
    seed: int = 0,
) -> Arrays:
    """Return canvases [1, size, size] with 1 to `most` items, and boxes (`detection`) or masks (`segmentation`).

    Raises:
        ValueError: there is no such kind.
    """
    targets = {"detection": _boxes, "segmentation": _masks}
    if kind not in targets:
        message = f"canvases of kind {kind!r} are not there: {', '.join(targets)}"
        raise ValueError(message)
    made = canvases((train, validation, test), size, most, seed)
    splits = {name: _samples(each, targets[kind]) for name, each in made.items()}
    names = fashion_mnist.CLASSES if kind == "detection" else ("background", *fashion_mnist.CLASSES)
    note = "synthetic: Fashion-MNIST items on clutter"
    return Arrays(
        f"canvases-{kind}", **splits, classes=names, normalisation=NORMALISATION, licence="MIT", notes=(note,)
    )


def _samples(made: list[Canvas], targets: Callable[[list[Canvas]], Any]) -> Samples:
    return Samples({"image": np.stack([each[0] for each in made])[:, None]}, targets(made))


def _boxes(made: list[Canvas]) -> list[NDArray[np.float32]]:
    return [boxes for _, boxes, _ in made]


def _masks(made: list[Canvas]) -> Pixels:
    return np.stack([mask for *_, mask in made])


def canvases(
    counts: tuple[int, int, int], size: int, most: int, seed: int, grain: float = 6.0
) -> dict[str, list[Canvas]]:
    """Return for each split canvases: image [H, W], boxes [N, 5] (x1, y1, x2, y2, class), mask [H, W], 0 for none."""
    items = fashion_mnist.load(None, 5000, 0)
    made = {}
    for place, (name, count) in enumerate(zip(SPLITS, counts, strict=True)):
        split = getattr(items, name)
        randoms = (np.random.default_rng([seed, place, number]) for number in range(count))
        made[name] = [
            compose(random, split.images[:, 0], split.labels, most, clutter(random, size, grain)) for random in randoms
        ]
    return made


def compose(
    random: np.random.Generator, images: Pixels, labels: NDArray[np.int64], most: int, canvas: Pixels
) -> Canvas:
    """Put items on a canvas [H, W], each at a place where it hides little of the others, and return what is where."""
    size, mask = len(canvas), np.zeros_like(canvas)
    boxes = list[tuple[int, int, int, int, int]]()
    for _ in range(int(random.integers(1, most + 1))):
        chosen = int(random.integers(len(images)))
        item = _cut(images[chosen], int(random.integers(SMALLEST, min(LARGEST, size) + 1)))
        height, width = item.shape
        for _ in range(TRIES):
            left, top = int(random.integers(size - width + 1)), int(random.integers(size - height + 1))
            box = (left, top, left + width, top + height)
            if all(_hidden(other, box) <= HIDDEN_AT_MOST for other in boxes):
                seen = item > DARK
                canvas[top : top + height, left : left + width][seen] = item[seen]
                mask[top : top + height, left : left + width][seen] = labels[chosen] + 1
                boxes.append((*box, int(labels[chosen])))
                break
    return canvas, np.array(boxes, dtype=np.float32), mask


def _cut(image: Pixels, side: int) -> Pixels:
    """Return an item [28, 28] resized to a side, without the dark rows and columns around it."""
    item = np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.BILINEAR))
    rows, columns = (np.flatnonzero((item > DARK).any(axis=axis)) for axis in (1, 0))
    return item[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _hidden(one: tuple[int, ...], other: tuple[int, ...]) -> float:
    """Return the share of the smaller of two boxes that lies in the other."""
    width = max(0, min(one[2], other[2]) - max(one[0], other[0]))
    height = max(0, min(one[3], other[3]) - max(one[1], other[1]))
    return width * height / min((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other))


def clutter(random: np.random.Generator, size: int, grain: float) -> Pixels:
    """Return a background [size, size]: soft patches of light, rectangles, and grain of this standard deviation."""
    patches = Image.fromarray(random.integers(0, 160, (5, 5), dtype=np.uint8))
    ground = np.asarray(patches.resize((size, size), Image.Resampling.BICUBIC)).astype(np.float32)
    for _ in range(int(random.integers(2, 7))):
        left, top = random.integers(0, size, 2)
        width, height = random.integers(2, size // 2, 2)
        ground[top : top + height, left : left + width] += random.uniform(-50, 50)
    return np.clip(ground + random.normal(0, grain, ground.shape), 0, 255).astype(np.uint8)
