"""A folder of images: `root/{train,validation,test}/<class>/*.{png,jpg,...}`; without splits, `root/<class>/*`.

Without a given split the images are divided 60 / 15 / 25 (train, validation, test), stratified by class.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, UnidentifiedImageError

from pipeline.core.dataset import Dataset, Normalisation, Preprocessing, Split
from pipeline.core.errors import InputError
from pipeline.data.splits import stratified, take

if TYPE_CHECKING:
    from pathlib import Path

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff"})
SPLITS = ("train", "validation", "test")
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
Listing = list[tuple["Path", int]]


def class_names(root: Path) -> tuple[str, ...]:
    """Return the sorted names of the class folders below `root`; raises InputError when there are fewer than two."""
    names = tuple(sorted(path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")))
    if len(names) < 2:  # noqa: PLR2004
        message = f"{root} has {len(names)} class folders {list(names)}, expected at least two with images in each"
        raise InputError(message)
    return names


def list_images(root: Path, classes: tuple[str, ...]) -> Listing:
    """Return (file, class index) in name order; raises InputError for an empty class or another set of classes."""
    if class_names(root) != classes:
        message = f"{root} has the classes {list(class_names(root))}, but train has {list(classes)}"
        raise InputError(message)
    listing: Listing = []
    for index, name in enumerate(classes):
        found = sorted(path for path in (root / name).rglob("*") if path.suffix.lower() in SUFFIXES)
        if not found:
            message = f"{root / name} has no images (looked for {', '.join(sorted(SUFFIXES))})"
            raise InputError(message)
        listing += [(path, index) for path in found]
    return listing


def listings(root: Path) -> tuple[tuple[str, ...], dict[str, Listing]]:
    """Return the class names and the images of each split; one listing named "all" when there is no train folder."""
    if not root.is_dir():
        message = f"data.root: {root} is not a folder"
        raise InputError(message)
    if not (root / "train").is_dir():
        classes = class_names(root)
        return classes, {"all": list_images(root, classes)}
    for split in SPLITS:
        if not (root / split).is_dir():
            message = f"{root} has a train folder but no {split} folder: give all of {', '.join(SPLITS)}, or none"
            raise InputError(message)
    classes = class_names(root / "train")
    return classes, {split: list_images(root / split, classes) for split in SPLITS}


def digest(root: Path) -> str:
    """Return the sha256 over the relative names and the content of all images."""
    total = hashlib.sha256()
    for listing in listings(root)[1].values():
        for path, _ in listing:
            total.update(f"{path.relative_to(root).as_posix()}\n".encode())
            total.update(path.read_bytes())
    return total.hexdigest()


def read(listing: Listing, size: int, channels: int) -> Split:
    """Decode images, resize the shorter side to `size` and cut the centre: uint8 [N, channels, size, size]."""
    images_NCHW = np.empty((len(listing), channels, size, size), dtype=np.uint8)
    for position, (path, _) in enumerate(listing):
        try:
            with Image.open(path) as image:
                converted = image.convert("L" if channels == 1 else "RGB")
                scale = size / min(converted.size)
                width, height = (max(size, round(side * scale)) for side in converted.size)
                left, top = (width - size) // 2, (height - size) // 2
                resized = converted.resize((width, height), Image.Resampling.BILINEAR)
                pixels = np.asarray(resized.crop((left, top, left + size, top + size)))
        except (UnidentifiedImageError, OSError) as error:
            message = f"{path} cannot be read as an image ({error}). Remove or replace it."
            raise InputError(message) from error
        images_NCHW[position] = pixels if channels == 1 else pixels.transpose(2, 0, 1)
    return Split(images_NCHW, np.array([label for _, label in listing], dtype=np.int64))


def load(root: Path, size: int, channels: int, mean: tuple[float, ...], std: tuple[float, ...]) -> Dataset:
    """Return the data set of a folder; empty `mean` and `std` mean ImageNet's (their average for one channel)."""
    classes, found = listings(root)
    preprocessing = Preprocessing("grey" if channels == 1 else "rgb", "shorter-side-then-centre-crop")
    if channels == 1:
        normalisation = Normalisation(mean or (sum(MEAN) / 3,), std or (sum(STD) / 3,))
    else:
        normalisation = Normalisation(mean or MEAN, std or STD)
    if "all" not in found:
        train, validation, test = (read(found[split], size, channels) for split in SPLITS)
        return Dataset(root.name, classes, normalisation, train, validation, test, preprocessing)
    everything = read(found["all"], size, channels)
    rest, testing = stratified(everything.labels, round(len(everything) * 0.25), seed=0)
    training, validating = stratified(everything.labels[rest], round(len(rest) * 0.2), seed=1)
    parts = (rest[training], rest[validating], testing)
    train, validation, test = (take(everything.images, everything.labels, part) for part in parts)
    return Dataset(root.name, classes, normalisation, train, validation, test, preprocessing)
