"""ELPV (Deitsch et al. 2019; Buerhop-Lutz et al. 2018): 2,624 electroluminescence images of solar cells, 300x300 grey.

Read from the installed package `elpv-dataset`. The images are licensed CC BY-NC-SA 4.0: use them, do not
redistribute them. A cell is defective when its published probability is at least one half, which gives 821 defective
and 1,803 functional cells. The published work tests on 25 % (656 cells); which cells is not published, and cells of one
module resemble each other, so figures of different splits compare only roughly. Here the split is stratified by cell
type (mono, poly) and the four probability values with a fixed seed.
"""

from __future__ import annotations

import hashlib
import importlib.util
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from pipeline.core.dataset import Dataset, Normalisation, Preprocessing
from pipeline.core.errors import InputError
from pipeline.data.splits import stratified, take

CLASSES = ("functional", "defective")
_TEST_SHARE = 0.25
#: The preprocessing of EfficientNet-Lite: (pixel - 127) / 128.
MEAN, STD = 127 / 255, 128 / 255
#: What `read_image` does.
PREPROCESSING = Preprocessing("grey", "stretch")
LICENCE = "CC-BY-NC-SA-4.0"


def find() -> Path:
    """Return the folder that holds labels.csv and images/. Raises InputError when the package is not installed."""
    spec = importlib.util.find_spec("elpv_dataset")
    places = spec.submodule_search_locations if spec else None
    folder = Path(places[0]) / "data" if places else None
    if folder is None or not (folder / "labels.csv").is_file():
        raise InputError("ELPV: the package elpv-dataset is not installed. Install it: pip install elpv-dataset")
    return folder


def read_labels(folder: Path) -> list[tuple[str, float, str]]:
    """Return (image path, defect probability, mono|poly) of every cell, in file order."""
    rows = [line.split() for line in (folder / "labels.csv").read_text().splitlines() if line.strip()]
    return [(path, float(probability), kind) for path, probability, kind in rows]


def digest() -> str:
    """Return the sha256 over the label file and every image."""
    folder = find()
    total = hashlib.sha256((folder / "labels.csv").read_bytes())
    for path, _, _ in read_labels(folder):
        total.update((folder / path).read_bytes())
    return total.hexdigest()


def read_image(file: Path, size: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """Return one image as uint8 [size, size], resized with antialiasing."""
    with Image.open(file) as image:
        return np.asarray(image.convert("L").resize((size, size), Image.Resampling.BILINEAR))


def load(size: int, channels: int, validation: float, split_seed: int) -> Dataset:
    """Return the data set at `size` pixels; `validation` is the share of the 75 % that is not test."""
    folder = find()
    rows = read_labels(folder)
    with ThreadPoolExecutor() as pool:
        images_NCHW = np.stack(list(pool.map(lambda row: read_image(folder / row[0], size), rows)))[:, None]
    labels = np.array([int(probability >= 0.5) for _, probability, _ in rows], dtype=np.int64)  # noqa: PLR2004
    strata = np.array([round(probability * 3) + 4 * (kind == "poly") for _, probability, kind in rows], dtype=np.int64)
    rest, test = stratified(strata, round(len(rows) * _TEST_SHARE), split_seed)
    kept, held = stratified(strata[rest], round(len(rest) * validation), split_seed + 1)
    train, validating, testing = (take(images_NCHW, labels, part) for part in (rest[kept], rest[held], test))
    normalisation = Normalisation((MEAN,) * channels, (STD,) * channels)
    return Dataset("elpv", CLASSES, normalisation, train, validating, testing, PREPROCESSING, LICENCE)
