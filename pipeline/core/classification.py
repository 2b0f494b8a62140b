"""How classifiers answer, where outputs are compared: logits become classes as in `pipeline.tasks.classification`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from typing import Any

    from numpy.typing import NDArray

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
