"""Fashion-MNIST (Xiao et al. 2017, MIT licence): 60,000 + 10,000 grey images of 28x28 pixels in ten classes.

Read from a given folder of idx files, from the Debian package `dataset-fashion-mnist`, or from the published address.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import struct
import urllib.request
from pathlib import Path

import numpy as np

from pipeline.core.dataset import Dataset, Normalisation, Preprocessing, Split
from pipeline.core.errors import InputError
from pipeline.core.partial import partial_folder
from pipeline.data.splits import held_out

CLASSES = ("T-shirt", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
_DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
_ADDRESS = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com"
_NORMALISATION = Normalisation(mean=(0.2860,), std=(0.3530,))
PREPROCESSING = Preprocessing("grey", "none")
LICENCE = "MIT"
#: sha256 of the unpacked idx files.
_FILES = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}


def digest() -> str:
    """Return the digest of the data set: its content is known, so no file is read."""
    return hashlib.sha256("".join(_FILES.values()).encode()).hexdigest()


def find(root: Path | None) -> dict[str, Path]:
    """Return the path of each idx file, packed or not. Downloads when there is neither a folder nor the package.

    Raises InputError when the given folder lacks a file.
    """
    folder = root or (_DEBIAN_FOLDER if _DEBIAN_FOLDER.is_dir() else None)
    if folder is None:
        folder = cache_folder() / "fashion-mnist"
        for name, sha256 in _FILES.items():
            download(f"{_ADDRESS}/{name}.gz", folder / f"{name}.gz", sha256)
    found = {}
    for name in _FILES:
        present = [path for path in (folder / name, folder / f"{name}.gz") if path.is_file()]
        if not present:
            raise InputError(
                f"Fashion-MNIST: {folder} has no {name}[.gz]. Give data.root a folder with the four idx files, install "
                "the Debian package dataset-fashion-mnist, or remove data.root to download them."
            )
        found[name] = present[0]
    return found


def parse_idx(content: bytes, name: str) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """Parse an idx file of unsigned bytes: 2 zero bytes, type 8, number of dimensions, big-endian sizes, values."""
    zeros, kind, dimensions = struct.unpack_from(">HBB", content)
    if (zeros, kind) != (0, 8):
        raise InputError(
            f"{name} is not an idx file of unsigned bytes (it begins with {content[:4].hex()}, expected 0000 08)"
        )
    shape = struct.unpack_from(f">{dimensions}I", content, 4)
    return np.frombuffer(content, dtype=np.uint8, offset=4 + 4 * dimensions).reshape(shape)


def load(root: Path | None, validation_images: int, split_seed: int) -> Dataset:
    """Return the data set; validation images are held out of the 60,000, stratified by class."""
    arrays = {name: parse_idx(read_verified(path, _FILES[name]), name) for name, path in find(root).items()}
    train, validation = held_out(
        arrays["train-images-idx3-ubyte"][:, None],
        arrays["train-labels-idx1-ubyte"].astype(np.int64),
        validation_images,
        split_seed,
    )
    test = Split(
        np.ascontiguousarray(arrays["t10k-images-idx3-ubyte"][:, None]),
        arrays["t10k-labels-idx1-ubyte"].astype(np.int64),
    )
    return Dataset("fashion-mnist", CLASSES, _NORMALISATION, train, validation, test, PREPROCESSING, LICENCE)


def cache_folder() -> Path:
    """Return the folder for downloaded data: $SECATEUR_DATA, else `secateur/data` in the user's cache folder."""
    given = os.environ.get("SECATEUR_DATA")
    if given:
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "secateur" / "data"


def read_verified(file: Path, sha256: str) -> bytes:
    """Return the content of a file (unpacked when it ends in .gz) whose sha256 must be the given one.

    Raises InputError when the content is another or cannot be unpacked.
    """
    try:
        content = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
    except (gzip.BadGzipFile, EOFError) as error:
        raise InputError(f"{file} is not a complete gzip file ({error}). Remove it and fetch it again.") from error
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise InputError(f"{file}: content has sha256 {found}, expected {sha256}. Remove it and fetch it again.")
    return content


def download(url: str, file: Path, sha256: str) -> None:
    """Fetch `url` into `file`, atomically, if it is not there yet, and check its content.

    Raises InputError when the network does not give it; the message says how to put the file there by hand.
    """
    if file.exists():
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    with partial_folder(file) as folder:
        part = folder / file.name
        try:
            with urllib.request.urlopen(url, timeout=60) as answer:  # noqa: S310 (fixed http(s) addresses of ours)
                part.write_bytes(answer.read())
        except OSError as error:
            raise InputError(
                f"cannot download {url} ({error}). Fetch it on another machine and put it into {file}."
            ) from error
        read_verified(part, sha256)
        part.replace(file)
