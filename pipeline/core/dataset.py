"""Images and labels as plain arrays, split into train, validation and test."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

SPLITS = ("train", "validation", "test")
#: `none`: files have the size already. `stretch`: both sides, whatever their ratio.
#: `shorter-side-then-centre-crop`: the image covers the size, and what is over at the longer side is cut off.
ResizeRule = Literal["none", "stretch", "shorter-side-then-centre-crop"]


@dataclass(frozen=True)
class Normalisation:
    """Per-channel mean and standard deviation, in units of pixel value / 255."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, images_NCHW: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return float32 [N, C, H, W]: (pixel / 255 - mean) / std. One channel in, three statistics: repeated."""
        channels = len(self.mean)
        scaled = images_NCHW.astype(np.float32) / np.float32(255)
        if scaled.shape[1] == 1 and channels > 1:
            scaled = np.repeat(scaled, channels, axis=1)
        mean = np.asarray(self.mean, dtype=np.float32)[None, :, None, None]
        std = np.asarray(self.std, dtype=np.float32)[None, :, None, None]
        return np.ascontiguousarray((scaled - mean) / std)


@dataclass(frozen=True)
class Preprocessing:
    """How an image file became pixels of a data set: turned as its EXIF says, in 8 bits and in `colour`, then resized.

    Colours and sizes are Pillow's own operations (`convert("L")` or `convert("RGB")`, bilinear `resize`). Of 16 bits
    the upper eight are taken. `white` is the value that becomes 255 where grey ones have other ranges: 4095 of 12 bits.
    """

    colour: Literal["grey", "rgb"]
    resize: ResizeRule
    white: float | None = None


@dataclass(frozen=True)
class Split:
    """Images uint8 [N, C, H, W] and labels int64 [N]."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.labels)


@dataclass(frozen=True)
class Dataset:
    """Three disjoint splits of one data set, already at the size that the network sees.

    `preprocessing` says how files became these images; None: the user's own code made them, and only it knows.
    `licence` is that of the images, an SPDX identifier where there is one; empty: not stated. `notes` is what somebody
    who reads the result should know of the data, one line each.
    """

    name: str
    classes: tuple[str, ...]
    normalisation: Normalisation
    train: Split
    validation: Split
    test: Split
    preprocessing: Preprocessing | None = None
    licence: str = ""
    notes: tuple[str, ...] = ()

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """[C, H, W] of one input after normalisation."""
        _, _, height, width = self.train.images.shape
        return len(self.normalisation.mean), height, width

    @property
    def repeats_grey(self) -> bool:
        """Whether the images have one channel, which the normalisation repeats."""
        return int(self.train.images.shape[1]) < len(self.normalisation.mean)

    def batches(self, split: Split, batch: int) -> Iterator[tuple[NDArray[np.float32], NDArray[np.int64]]]:
        """Yield normalised inputs [B, C, H, W] and labels [B] in order; the last batch may be smaller."""
        for start in range(0, len(split), batch):
            stop = start + batch
            yield self.normalisation(split.images[start:stop]), split.labels[start:stop]
