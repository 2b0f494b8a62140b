"""What a recipe says about its data: one frozen class for each source, told apart by `source`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from pipeline.core.artifact import FrozenModel
from pipeline.core.errors import InputError
from pipeline.core.paths import ExistingFile, ExistingFolder, ExistingPath
from pipeline.core.units import Ratio

Channels = Literal[1, 3]
Argument = str | int | float | bool | None


class Elpv(FrozenModel):
    """Electroluminescence images of solar cells, functional or defective, from the package elpv-dataset."""

    source: Literal["elpv"]
    size: int = Field(default=160, ge=32, le=300, description="Side of the images in pixels; the originals have 300.")
    channels: Channels = Field(default=1, description="1 for grey; 3 repeats the grey image three times.")
    validation: Ratio = Field(
        default=0.2, description="Share of the images outside the test split to hold out for validation."
    )
    split_seed: int = Field(
        default=0, ge=0, description="Seed of the split; results with different seeds cannot be compared."
    )


class FashionMnist(FrozenModel):
    """Fashion-MNIST: 70,000 grey images of clothes, 28x28 pixels, 10 classes."""

    source: Literal["fashion-mnist"]
    root: ExistingFolder | None = Field(
        default=None,
        description="Folder with the four idx files; absent: where Debian's dataset-fashion-mnist installs them.",
    )
    validation_images: int = Field(default=5000, ge=1, lt=60000, description="Training images to hold out.")
    split_seed: int = Field(
        default=0, ge=0, description="Seed of the split; results with different seeds cannot be compared."
    )


class Cifar(FrozenModel):
    """CIFAR-10 or CIFAR-100: 60,000 colour images, 32x32 pixels, in the binary layout."""

    source: Literal["cifar10", "cifar100"]
    root: ExistingFolder = Field(description="Folder of the unpacked binary version.")
    validation_images: int = Field(default=5000, ge=1, lt=50000, description="Training images to hold out.")
    split_seed: int = Field(
        default=0, ge=0, description="Seed of the split; results with different seeds cannot be compared."
    )


class ImageFolder(FrozenModel):
    """One folder of images for each class, below root or below root/train, root/validation and root/test."""

    source: Literal["folder"]
    root: ExistingFolder = Field(description="Folder that holds the class folders, or train, validation and test.")
    size: int = Field(ge=8, le=1024, description="Side of the images in pixels after resizing and centre crop.")
    channels: Channels = Field(default=3, description="1 for grey, 3 for colour.")
    mean: tuple[float, ...] = Field(default=(), description="Mean of each channel, pixel / 255; absent: ImageNet's.")
    std: tuple[float, ...] = Field(
        default=(), description="Standard deviation of each channel, pixel / 255; absent: ImageNet's."
    )
    white: float | None = Field(
        default=None,
        gt=0,
        description="Value that becomes 255 in grey images of more than 8 bits: 4095 for 12 bits, 1.0 for floats from "
        "0 to 1; absent: 65535 for 16 bits.",
    )

    @model_validator(mode="after")
    def _statistics_fit(self) -> ImageFolder:
        for name, statistics in (("mean", self.mean), ("std", self.std)):
            if statistics and len(statistics) != self.channels:
                raise ValueError(f"found {len(statistics)} values of {name}, allowed: {self.channels}, one per channel")
        if bool(self.mean) != bool(self.std) or any(value <= 0 for value in self.std):
            raise ValueError("found only one of mean and std, or a std that is not positive, allowed: both, or neither")
        return self


class DataFile(FrozenModel):
    """Your own Python file, with a function `load(**arguments)` that returns a pipeline.core.dataset.Dataset.

    For another task than classifying images it returns `Arrays` of that module.
    """

    source: Literal["file"]
    path: ExistingFile = Field(description="The Python file.")
    arguments: dict[str, Argument] = Field(default={}, description="Keyword arguments of load.")
    inputs: tuple[ExistingPath, ...] = Field(
        default=(),
        description="Files and folders that load reads: when their content changes, finished stages are made again.",
    )


DataConfig = Annotated[Elpv | FashionMnist | Cifar | ImageFolder | DataFile, Field(discriminator="source")]
#: Those whose images are made at a size that can be chosen.
SizedData = Elpv | ImageFolder
#: Their names, for messages.
SIZED = ("elpv", "folder")


def with_size(config: DataConfig | None) -> SizedData | None:
    """Return data whose images can be had at other sizes; None for others."""
    return config if isinstance(config, SizedData) else None


def at_side(config: SizedData, side: int) -> SizedData:
    """Return the same data with square images of another side in pixels.

    Raises:
        InputError: the source has no such images.
    """
    try:
        return type(config).model_validate({**config.model_dump(exclude_unset=True), "size": side})
    except ValidationError as error:
        raise InputError(f"data.size: found {side}, {error.errors()[0]['msg'].lower()}") from error


def data_settings(config: DataConfig) -> dict[str, Any]:
    """Return what tells two configurations of the same content apart; keys that say nothing are left out.

    Files are in `pipeline.data.digest`, by content.
    """
    unsaid = {"white"} if getattr(config, "white", None) is None else set()
    return config.model_dump(mode="json", exclude={"root", "path", "inputs", *unsaid})
