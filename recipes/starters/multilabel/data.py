"""Any number of classes for each image: replace `samples` by your own."""

import numpy as np

from pipeline.core.dataset import Arrays, Normalisation, Samples

CLASSES = ("dark", "bright", "wide")


def images(count, generator):
    """Return images uint8 [N, 1, 32, 32] of one bright rectangle on noise, its box [N, 4] and its class [N]."""
    pixels = generator.integers(0, 60, (count, 1, 32, 32), dtype=np.uint8)
    corner, side = generator.integers(2, 14, (count, 2)), generator.integers(8, 16, (count, 2))
    boxes, classes = np.concatenate([corner, corner + side], axis=1), generator.integers(0, 2, count)
    for image, (x1, y1, x2, y2), is_bright in zip(pixels, boxes, classes, strict=True):
        image[0, y1:y2, x1:x2] = 220 if is_bright else 140
    return pixels, boxes, classes


def samples(count, seed):
    """Return N samples: images, and for each 0 or 1 for every class [3]."""
    generator = np.random.default_rng(seed)
    pixels, boxes, classes = images(count, generator)
    is_wide = boxes[:, 2] - boxes[:, 0] > 11
    return Samples({"image": pixels}, np.stack([classes == 0, classes == 1, is_wide], axis=1).astype(np.int64))


def load():
    """Return the three splits; no sample may be in two of them."""
    splits = [samples(count, seed) for seed, count in enumerate((256, 96, 96))]
    return Arrays("drawn shapes", *splits, classes=CLASSES, normalisation=Normalisation((0.3,), (0.3,)))
