"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009): 50,000 + 10,000 colour images of 32x32 pixels, the published binary layout.

Each record is the label bytes (one; for CIFAR-100 the coarse and the fine one) and 3,072 pixel bytes, planes R, G, B.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from pipeline.core.dataset import Dataset, Normalisation, Preprocessing, Split
from pipeline.core.errors import InputError
from pipeline.data.splits import held_out

if TYPE_CHECKING:
    from pathlib import Path

PIXELS = 3 * 32 * 32
PREPROCESSING = Preprocessing("rgb", "none")
HOME = "https://www.cs.toronto.edu/~kriz/cifar.html"


@dataclass(frozen=True)
class CifarLayout:
    """File names and the number of label bytes of one of the two sets."""

    train: tuple[str, ...]
    test: tuple[str, ...]
    label_bytes: int
    names: str
    normalisation: Normalisation


LAYOUTS: dict[str, CifarLayout] = {
    "cifar10": CifarLayout(
        train=tuple(f"data_batch_{index}.bin" for index in range(1, 6)),
        test=("test_batch.bin",),
        label_bytes=1,
        names="batches.meta.txt",
        normalisation=Normalisation((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    ),
    "cifar100": CifarLayout(
        train=("train.bin",),
        test=("test.bin",),
        label_bytes=2,
        names="fine_label_names.txt",
        normalisation=Normalisation((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    ),
}


def files(source: Literal["cifar10", "cifar100"], root: Path) -> list[Path]:
    """Return the files of the set; raises InputError naming the first that is missing and where to get it."""
    layout = LAYOUTS[source]
    paths = [root / name for name in (*layout.train, *layout.test, layout.names)]
    for path in paths:
        if not path.is_file():
            raise InputError(
                f"{source}: {path} is missing. Unpack the binary version from {HOME} and give its folder as root."
            )
    return paths


def digest(source: Literal["cifar10", "cifar100"], root: Path) -> str:
    """Return the sha256 over all files of the set."""
    total = hashlib.sha256()
    for path in files(source, root):
        total.update(path.read_bytes())
    return total.hexdigest()


def read(root: Path, names: tuple[str, ...], label_bytes: int) -> Split:
    """Return the records of some files; raises InputError when a file is not an integer of records."""
    record = label_bytes + PIXELS
    parts = []
    for name in names:
        content = np.frombuffer((root / name).read_bytes(), dtype=np.uint8)
        if len(content) % record or not len(content):
            raise InputError(f"{root / name}: {len(content)} bytes is not an integer of records of {record} bytes")
        parts.append(content.reshape(-1, record))
    records = np.concatenate(parts)
    images_NCHW = np.ascontiguousarray(records[:, label_bytes:].reshape(-1, 3, 32, 32))
    return Split(images_NCHW, records[:, label_bytes - 1].astype(np.int64))


def load(source: Literal["cifar10", "cifar100"], root: Path, validation_images: int, split_seed: int) -> Dataset:
    """Return the data set; validation images are held out of the training images, stratified by class."""
    layout = LAYOUTS[source]
    files(source, root)
    classes = tuple((root / layout.names).read_text().split())
    everything = read(root, layout.train, layout.label_bytes)
    train, validation = held_out(everything.images, everything.labels, validation_images, split_seed)
    test = read(root, layout.test, layout.label_bytes)
    return Dataset(source, classes, layout.normalisation, train, validation, test, PREPROCESSING)
