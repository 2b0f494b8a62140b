"""A data set that may be used: every array is what it should be, and what is worth knowing stands in `notes`."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.core.dataset import SPLITS, Dataset, Normalisation, Split
from pipeline.core.problems import first_names, refuse_problems
from pipeline.data import checks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

ADVICE = "A data set has images uint8 [N, C, H, W] and labels int64 [N]: see pipeline.core.dataset."


def accepted(dataset: Dataset, where: str) -> Dataset:
    """Return the data set with plain arrays and its notes.

    Labels [N, 1], integers of another width and values 0 to 255 of another type are taken as what they are.

    Raises:
        InputError: all that is wrong with it, at once.
    """
    problems = [*_head_problems(dataset)]
    splits: dict[str, Split] = {name: getattr(dataset, name) for name in SPLITS}
    problems += [f"{name}: found {_kind(split)}, allowed: Split(images, labels)" for name, split in splits.items()
                 if not isinstance(split, Split)]  # fmt: skip
    refuse_problems(where, problems, ADVICE)
    plain: dict[str, Split] = {name: _plain(split) for name, split in splits.items()}
    for name, split in plain.items():
        problems += [f"{name}: {text}" for text in _split_problems(split, dataset)]
    problems += _shape_problems(plain)
    refuse_problems(where, problems, ADVICE)
    train, validation, test = (plain[name] for name in SPLITS)
    found = replace(dataset, classes=tuple(dataset.classes), train=train, validation=validation, test=test)
    return replace(found, notes=tuple(dict.fromkeys((*found.notes, *_notes(found)))))


def _kind(value: object) -> str:
    return f"a {type(value).__name__}"


def _plain(split: Split) -> Split:
    images, labels = split.images, split.labels
    return Split(
        checks.plain_images(images) if isinstance(images, np.ndarray) else images,
        checks.plain_labels(labels) if isinstance(labels, np.ndarray) else labels,
    )


def _head_problems(dataset: Dataset) -> Iterator[str]:
    """Yield what is wrong with the names of the classes and the normalisation."""
    classes: Any = dataset.classes
    if isinstance(classes, str) or not all(isinstance(name, str) for name in classes):
        yield f"classes are {classes!r:.60}, allowed: a tuple of names"
    elif not classes or len({*classes}) != len(classes):
        yield f"{len(classes)} class names, {len({*classes})} of them different, allowed: one name for each class"
    elif wrong := [name for name in classes if name.splitlines() != [name] or not name.isprintable()]:
        yield f"the class {wrong[0]!r} is not one line of text: rename it"
    statistics: Any = dataset.normalisation
    if not isinstance(statistics, Normalisation):
        yield f"normalisation is {_kind(statistics)}, allowed: Normalisation(mean, std)"
        return
    mean, std = np.asarray(statistics.mean), np.asarray(statistics.std)
    if mean.ndim != 1 or mean.shape != std.shape or not mean.size:
        yield f"mean {statistics.mean} and std {statistics.std}, allowed: one of each for every channel"
    elif not (np.isfinite(mean).all() and np.isfinite(std).all() and (std > 0).all()):
        yield f"mean {statistics.mean} and std {statistics.std}, allowed: finite numbers, std above 0"


def _split_problems(split: Split, dataset: Dataset) -> Iterator[str]:
    yield from checks.image_problems(split.images, len(dataset.normalisation.mean))
    yield from checks.label_problems(split.labels, len(dataset.classes))
    if not (hasattr(split.images, "__len__") and hasattr(split.labels, "__len__")):
        return
    images, labels = len(split.images), len(split.labels)
    if images != labels:
        yield f"{images:,} images, but {labels:,} labels, allowed: one label for each image"
    elif not images:
        yield "no images, allowed: one or more"


def _shape_problems(splits: Mapping[str, Split]) -> Iterator[str]:
    """Yield how the shapes of images differ between splits."""
    shapes = {name: list(np.shape(split.images)[1:]) for name, split in splits.items()}
    if any(shape != shapes["train"] for shape in shapes.values()):
        yield f"images differ in shape: {', '.join(f'{name} {shape}' for name, shape in shapes.items())}, allowed: one"


def _notes(dataset: Dataset) -> Iterator[str]:
    for name in SPLITS:
        if missing := checks.absent(getattr(dataset, name).labels, dataset.classes):
            effect = "they cannot be learnt from it" if name == "train" else "its accuracy says nothing of them"
            count = f"{len(missing)} of {len(dataset.classes)} classes"
            yield f"{count} have no {name} image ({first_names(missing)}): {effect}"
    if max(dataset.normalisation.mean) > 1:
        yield f"mean {dataset.normalisation.mean} is above 1: it is in units of pixel / 255, as is std"


def shared_images(splits: Mapping[str, Split], name: Callable[[checks.Place], str]) -> tuple[str, ...]:
    """Return notes on images that are in two splits, or have two labels. `name` writes one place of an image."""
    digests = {split: checks.image_digests(content.images) for split, content in splits.items()}
    pairs = checks.copies(digests)
    against = checks.contradictions(digests, {split: content.labels for split, content in splits.items()})
    return (
        *_pairs(pairs, name, "images of one split that are in another too, so that accuracy comes out too high"),
        *_pairs(against, name, "images that are there with two labels"),
    )


def _pairs(pairs: Sequence[checks.Pair], name: Callable[[checks.Place], str], text: str) -> Iterator[str]:
    if pairs:
        yield f"{text}: {len(pairs):,} ({first_names([f'{name(one)} = {name(two)}' for one, two in pairs])})"
