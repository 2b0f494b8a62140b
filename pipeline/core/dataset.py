"""Samples as plain arrays in three splits: images with their labels, or any inputs with any targets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from pipeline.core.feeds import Feeds

    Places = Sequence[int] | NDArray[np.int64] | slice

SplitName = Literal["train", "validation", "test"]
SPLITS: tuple[SplitName, ...] = ("train", "validation", "test")
#: What the one input of a network is called that has images.
INPUT = "input"
_IMAGE_DIMENSIONS = 4
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

    def split(self, name: SplitName) -> Split:
        """Return a split by its name."""
        found: Split = getattr(self, name)
        return found

    def count(self, split: SplitName) -> int:
        """Return the number of images in a split."""
        return len(self.split(split))

    def feeds(self, split: SplitName, places: Places) -> Feeds:
        """Return the normalised images [N, C, H, W] at these places as the network's one input."""
        return {INPUT: self.normalisation(self.split(split).images[places])}

    def targets(self, split: SplitName, places: Places) -> list[int]:
        """Return the labels of the images at these places."""
        found: list[int] = self.split(split).labels[places].tolist()
        return found

    def raw_samples(self, split: SplitName, places: Places) -> list[Any]:
        """Return the images uint8 [C, H, W] at these places, each as the network's one input is made from it."""
        return [{INPUT: image} for image in self.split(split).images[places]]


class TaskData(Protocol):
    """Samples of three splits, whatever they are: a `Dataset`, `Arrays`, or what a task's own file gives.

    `classes` name what targets number, and are empty where they number nothing.
    """

    @property
    def name(self) -> str:
        """What the data set is called."""

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes."""

    @property
    def licence(self) -> str:
        """The licence of the data, an SPDX identifier where there is one; empty: not stated."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What somebody who reads the result should know of the data."""

    def count(self, split: SplitName) -> int:
        """Return the number of samples in a split."""

    def feeds(self, split: SplitName, places: Places) -> Feeds:
        """Return the inputs of the samples at these places, as the network takes them."""

    def targets(self, split: SplitName, places: Places) -> Sequence[Any]:
        """Return the targets of the samples at these places."""

    def raw_samples(self, split: SplitName, places: Places) -> Sequence[Any]:
        """Return the samples at these places as they are given to what makes the network's inputs, one by one."""


@dataclass(frozen=True)
class Samples:
    """Inputs by name, each [N, ...], in the order of the network's forward, and a target for each sample.

    An input is uint8 [N, C, H, W] for images that are to be normalised, else of the dtype that the network takes.
    Targets are an array [N, ...] or a list of N: what a target is, the kind of task says.
    """

    inputs: Mapping[str, NDArray[Any]]
    targets: Sequence[Any] | NDArray[Any]

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.targets)


@dataclass(frozen=True)
class Arrays:
    """Three disjoint splits of samples for any kind of task but that of an image classifier, which has a `Dataset`.

    `normalisation` is that of inputs uint8 [N, C, H, W], which are pixel / 255 without one; other inputs reach the
    network as they are.
    """

    name: str
    train: Samples
    validation: Samples
    test: Samples
    classes: tuple[str, ...] = ()
    normalisation: Normalisation | None = None
    licence: str = ""
    notes: tuple[str, ...] = ()

    def split(self, name: SplitName) -> Samples:
        """Return a split by its name."""
        found: Samples = getattr(self, name)
        return found

    def count(self, split: SplitName) -> int:
        """Return the number of samples in a split."""
        return len(self.split(split))

    def feeds(self, split: SplitName, places: Places) -> Feeds:
        """Return the inputs of the samples at these places, images normalised."""
        return {name: self.ready(values[places]) for name, values in self.split(split).inputs.items()}

    def targets(self, split: SplitName, places: Places) -> Sequence[Any]:
        """Return the targets of the samples at these places."""
        targets = self.split(split).targets
        chosen = range(*places.indices(len(targets))) if isinstance(places, slice) else places
        return [targets[place] for place in chosen]

    def raw_samples(self, split: SplitName, places: Places) -> list[Any]:
        """Return the inputs by name of the samples at these places, without batch axis, images not normalised."""
        inputs = {name: values[places] for name, values in self.split(split).inputs.items()}
        return [dict(zip(inputs, values, strict=True)) for values in zip(*inputs.values(), strict=True)]

    def ready(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return one input [N, ...] as the network takes it."""
        if values.dtype != np.uint8 or values.ndim != _IMAGE_DIMENSIONS:
            return values
        return self.normalisation(values) if self.normalisation else values.astype(np.float32) / np.float32(255)
