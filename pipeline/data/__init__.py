"""Data sets by name or by path; `load` and `data_digest` are the only two questions that are asked of one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, assert_never

from pipeline.data.config import Cifar, DataFile, Elpv, FashionMnist, ImageFolder

if TYPE_CHECKING:
    from pipeline.core.dataset import Dataset
    from pipeline.data.config import DataConfig

__all__ = ["data_digest", "load_data", "summarise_data"]


def data_digest(config: DataConfig) -> str:
    """Return the sha256 of the data's content, without decoding it. Raises InputError that says how to get the data."""
    match config:
        case Elpv():
            from pipeline.data import elpv

            return elpv.digest()
        case FashionMnist():
            from pipeline.data import fashion_mnist

            return fashion_mnist.digest()
        case Cifar():
            from pipeline.data import cifar

            return cifar.digest(config.source, config.root)
        case ImageFolder():
            from pipeline.data import folder

            return folder.digest(config.root)
        case DataFile():
            from pipeline.data import python_file

            return python_file.digest(config.path, config.arguments, config.inputs)
        case _:
            assert_never(config)


def load_data(config: DataConfig) -> Dataset:
    """Return the data set, decoded, split and checked.

    Raises:
        InputError: it is missing or damaged, or its arrays are not what they should be; with all that is wrong.
    """
    from pipeline.data.accepted import accepted

    return accepted(_load(config), f"data ({config.source})")


def _load(config: DataConfig) -> Dataset:
    match config:
        case Elpv():
            from pipeline.data import elpv

            return elpv.load(config.size, config.channels, config.validation, config.split_seed)
        case FashionMnist():
            from pipeline.data import fashion_mnist

            return fashion_mnist.load(config.root, config.validation_images, config.split_seed)
        case Cifar():
            from pipeline.data import cifar

            return cifar.load(config.source, config.root, config.validation_images, config.split_seed)
        case ImageFolder():
            from pipeline.data import folder

            return folder.load(config.root, config.size, config.channels, config.mean, config.std, config.white)
        case DataFile():
            from pipeline.data import python_file

            return python_file.load(config.path, config.arguments, config.inputs)
        case _:
            assert_never(config)


def summarise_data(dataset: Dataset) -> dict[str, Any]:
    """Return what a report says about the data: name, classes and the number of images in each split."""
    return {
        "name": dataset.name,
        "classes": list(dataset.classes),
        "train": len(dataset.train),
        "validation": len(dataset.validation),
        "test": len(dataset.test),
        "input_shape": list(dataset.input_shape),
        **({"notes": list(dataset.notes)} if dataset.notes else {}),
    }
