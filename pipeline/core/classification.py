"""What a classifier answers: the one place where logits become classes and answers are compared."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pipeline.core.task import Task

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

    from numpy.typing import NDArray

    from pipeline.core.dataset import Dataset

#: The answer where no logit is the largest: no class, so it is never right.
NO_CLASS = -1


def is_logits(output: NDArray[Any]) -> bool:
    """Say whether an output can be logits: [N, classes] with two classes or more."""
    return output.ndim == 2 and output.shape[1] > 1  # noqa: PLR2004 - images and classes


def predicted_classes(logits: NDArray[Any]) -> NDArray[np.int64]:
    """Return the class [N] with the largest logit [N, classes], the first of equals.

    It is NO_CLASS where the largest is NaN or infinite.
    """
    return np.where(np.isfinite(logits.max(axis=1)), logits.argmax(axis=1), NO_CLASS).astype(np.int64)


def share_equal(one: NDArray[np.int64], other: NDArray[np.int64]) -> float:
    """Return the share of images with the same answer [N]; between answers and labels it is the accuracy."""
    return float((one == other).mean())


def image_classifier(dataset: Dataset) -> Task:
    """Return the task of an image classifier on its data."""
    return Task(Classification(len(dataset.classes)), dataset, ("logits",))


class _Accuracy:
    """The share of samples whose class is right; a sample's statistic is 1.0 or 0.0."""

    name, unit, range, higher_is_better, is_mean = "accuracy", "", (0.0, 1.0), True, True

    def statistic(self, prediction: int, target: int) -> float:
        """Return whether a class is right."""
        return float(prediction == target)

    def compute(self, statistics: Sequence[float]) -> float:
        """Return the share that is right."""
        return sum(statistics) / len(statistics)


class _OfCounts:
    """A score of the counts of classes [target, prediction]; a sample's statistic is that pair."""

    unit, range, higher_is_better, is_mean = "", (0.0, 1.0), True, False

    def __init__(self, name: str, score: Callable[[NDArray[np.int64]], float], classes: int) -> None:
        self.name, self.score, self.classes = name, score, classes

    def statistic(self, prediction: int, target: int) -> tuple[int, int]:
        """Return both classes."""
        return int(target), int(prediction)

    def compute(self, statistics: Sequence[tuple[int, int]]) -> float:
        """Return the score of all pairs."""
        counts = np.zeros((self.classes, self.classes), dtype=np.int64)
        np.add.at(counts, tuple(np.asarray(statistics, dtype=np.int64).T), 1)
        return self.score(counts)


def balanced_accuracy(counts: NDArray[np.int64]) -> float:
    """Return the mean recall over the classes present from counts [target, prediction]."""
    actual = counts.sum(axis=1)
    present = actual > 0
    return float((np.diag(counts)[present] / actual[present]).mean())


def f1_score(counts: NDArray[np.int64]) -> float:
    """Return F1 from counts [target, prediction]: the last class's for two classes, else the mean of those present."""
    actual, predicted = counts.sum(axis=1), counts.sum(axis=0)
    f1 = 2 * np.diag(counts) / np.maximum(actual + predicted, 1)
    return float(f1[-1] if len(counts) == 2 else f1[actual > 0].mean())  # noqa: PLR2004 - the positive one of two


class Classification:
    """One class of several for each sample, by the largest of its logits [classes]; accuracy is judged."""

    kind = "classification"

    def __init__(self, classes: int) -> None:
        self.metrics = (
            _Accuracy(),
            _OfCounts("balanced_accuracy", balanced_accuracy, classes),
            _OfCounts("f1", f1_score, classes),
        )

    def decode(self, outputs: Mapping[str, NDArray[Any]]) -> int:
        """Return the class of one sample from its logits [classes], the first of the outputs."""
        return self.decode_batch({name: values[None] for name, values in outputs.items()})[0]

    def decode_batch(self, outputs: Mapping[str, NDArray[Any]]) -> list[int]:
        """Return the classes of N samples from their logits [N, classes]."""
        found: list[int] = predicted_classes(next(iter(outputs.values()))).tolist()
        return found
