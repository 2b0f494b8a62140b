"""A folder of images: `root/{train,validation,test}/<class>/*.{png,jpg,...}`; without splits, `root/<class>/*`.

Without a given split the images are divided 60 / 15 / 25 (train, validation, test), stratified by class. Hidden files
and folders are left out. All that is wrong with the files is told at once.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from pipeline.core.dataset import SPLITS, Dataset, Normalisation, Preprocessing, Split
from pipeline.core.problems import refuse_problems
from pipeline.data.accepted import shared_images
from pipeline.data.folder_listing import FolderListing, Listing, list_folder
from pipeline.data.image_file import PIXELS_AT_MOST, SIXTEEN_BITS, UnreadableError, read_pixels, rule
from pipeline.data.splits import stratified, take

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from pipeline.data.checks import Place

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
#: Files of 16 bits whose values end here hold fewer bits.
_TWELVE_BITS = 4095
ADVICE = "Fix, replace or remove them; Secateur skips none by itself."


def digest(root: Path) -> str:
    """Return the sha256 over the relative names and the content of all images, and how unusual ones are read.

    Raises:
        InputError: all that is wrong with the folder; where anything is, every image is decoded to find the rest.
    """
    found = list_folder(root)
    total = hashlib.sha256()
    problems = list(found.problems)
    for listing in found.listings.values():
        for path, _ in listing:
            content = path.read_bytes()
            total.update(f"{found.relative(path)}\n".encode())
            total.update(content)
            try:
                how = rule(content)
            except UnreadableError as error:
                problems.append(f"{found.relative(path)} {error}")
            else:
                total.update(f"{how}\n".encode() if how else b"")
    if problems:
        _refuse(found, [*found.problems, *_decoding_problems(found)])
    return total.hexdigest()


def _decoding_problems(found: FolderListing) -> list[str]:
    """Decode every image and return what is wrong with it."""
    problems: list[str] = []
    for listing in found.listings.values():
        for path, _ in listing:
            try:
                read_pixels(path, 1, SIXTEEN_BITS)
            except UnreadableError as error:
                problems.append(f"{found.relative(path)} {error}")
    return problems


def _refuse(found: FolderListing, problems: list[str]) -> None:
    refuse_problems(str(found.root), problems, ADVICE)


def fitted(image: Image.Image, size: int) -> NDArray[np.uint8]:
    """Resize the shorter side to `size` and cut the centre: uint8 [size, size] or [size, size, 3].

    Raises UnreadableError when one side is so much longer than the other that the whole would be too large.
    """
    scale = size / min(image.size)
    width, height = (max(size, round(side * scale)) for side in image.size)
    if width * height > PIXELS_AT_MOST:
        found = f"has {image.width} x {image.height} pixels, which makes {width} x {height}"
        raise UnreadableError(f"{found} at size {size}, allowed: up to {PIXELS_AT_MOST:,} pixels; cut it")
    left, top = (width - size) // 2, (height - size) // 2
    resized = image.resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(resized.crop((left, top, left + size, top + size)))


def read(
    found: FolderListing, split: str, size: int, channels: int, white: float | None
) -> tuple[Split, list[str], float]:
    """Decode one split's images to uint8 [N, channels, size, size].

    Returns it with what is wrong with single images, and with the brightest value of those of more than 8 bits.
    """
    listing = found.listings[split]
    images_NCHW = np.empty((len(listing), channels, size, size), dtype=np.uint8)
    problems: list[str] = []
    brightest = 0.0
    for position, (path, _) in enumerate(listing):
        try:
            image, value = read_pixels(path, channels, white)
            pixels = fitted(image, size)
        except UnreadableError as error:
            problems.append(f"{found.relative(path)} {error}")
            continue
        brightest = max(brightest, value)
        images_NCHW[position] = pixels if channels == 1 else pixels.transpose(2, 0, 1)
    return Split(images_NCHW, np.array([label for _, label in listing], dtype=np.int64)), problems, brightest


def load(
    root: Path, size: int, channels: int, mean: tuple[float, ...], std: tuple[float, ...], white: float | None
) -> Dataset:
    """Return the data set of a folder; empty `mean` and `std` mean ImageNet's (their average for one channel).

    Raises:
        InputError: all that is wrong with the folder and its images.
    """
    found = list_folder(root)
    splits, problems, brightest = {}, list(found.problems), 0.0
    for name in found.listings:
        splits[name], more, value = read(found, name, size, channels, white)
        problems += more
        brightest = max(brightest, value)
    if white is None and 0 < brightest <= _TWELVE_BITS:
        bits = int(brightest).bit_length()
        fewer = f"no image of 16 bits has a value above {brightest:.0f}, as if they had {bits} bits"
        problems.append(f"{fewer}: say white, such as white: {2**bits - 1}, or white: 65535 if they are that dark")
    _refuse(found, problems)
    preprocessing = Preprocessing("grey" if channels == 1 else "rgb", "shorter-side-then-centre-crop", white)
    if channels == 1:
        normalisation = Normalisation(mean or (sum(MEAN) / 3,), std or (sum(STD) / 3,))
    else:
        normalisation = Normalisation(mean or MEAN, std or STD)
    parts, places = _divided(splits, found)
    notes = (
        *found.notes(),
        *_white_notes(brightest, white),
        *shared_images(parts, lambda place: _written(found, places, place)),
    )
    train, validation, test = (parts[split] for split in SPLITS)
    return Dataset(root.name, found.classes, normalisation, train, validation, test, preprocessing, notes=notes)


def _white_notes(brightest: float, white: float | None) -> tuple[str, ...]:
    """Say where a stated white does not suit the brightest value of all deep images."""
    if white is None or not brightest:
        return ()
    if brightest > white:
        return (f"images hold values up to {brightest:g}, which is above white, {white:g}: they become 255",)
    if brightest * 16 < white:
        return (f"no image holds a value above {brightest:g}, far below white, {white:g}: they become dark",)
    return ()


def _divided(splits: dict[str, Split], found: FolderListing) -> tuple[dict[str, Split], dict[str, Listing]]:
    """Return the three splits and their files, divided here where the folder has none."""
    if "all" not in splits:
        return splits, found.listings
    everything, listing = splits["all"], found.listings["all"]
    rest, testing = stratified(everything.labels, round(len(everything) * 0.25), seed=0)
    training, validating = stratified(everything.labels[rest], round(len(rest) * 0.2), seed=1)
    positions: dict[str, NDArray[np.int64]] = dict(
        zip(SPLITS, (rest[training], rest[validating], testing), strict=True)
    )
    parts = {split: take(everything.images, everything.labels, part) for split, part in positions.items()}
    return parts, {split: [listing[position] for position in part] for split, part in positions.items()}


def _written(found: FolderListing, places: dict[str, Listing], place: Place) -> str:
    """Write where an image is, with its split where the folder does not say it."""
    split, position = place
    name = found.relative(places[split][position][0])
    return f"{name} ({split})" if "all" in found.listings else name
