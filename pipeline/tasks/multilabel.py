"""Several labels at once: logits [K], a sigmoid of each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from . import kit
from .scores import Score, class_f1, f1_of_sums, mean_known, ranked_precision

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from .kit import Array, Problem


class Multilabel(kit.BaseKit):
    """Any of K labels for each sample. A prediction is their probabilities [K], a target 0 or 1 for each.

    `threshold` is the probability from which a label counts as given. Macro scores are means over labels that occur.
    """

    kind = "multilabel"

    def __init__(
        self,
        *,
        classes: int | Sequence[str],
        threshold: float = 0.5,
        **common: Any,
    ) -> None:
        super().__init__(classes, **common)
        self._threshold = threshold
        scores = (
            Score("mAP", _both, lambda both: mean_known(_precisions(both)), of_classes=_precisions),
            Score("mAP_micro", _both, lambda both: ranked_precision(both[:, 0].ravel(), both[:, 1].ravel())),
            Score("f1_macro", self._counts, lambda counts: mean_known(class_f1(counts.sum(axis=0))), of_classes=_f1),
            Score("f1_micro", self._counts, lambda counts: f1_of_sums(counts.sum(axis=(0, 2)))),
        )
        self.metrics = self.judged_first(scores)

    def _counts(self, prediction: Array, target: Array) -> Array:
        """Return [3, K]: the label was right, was given, was true."""
        given, true = np.asarray(prediction) >= self._threshold, np.asarray(target).astype(bool)
        return np.stack([given & true, given, true]).astype(np.int64)

    def decode(self, outputs: Mapping[str, Array]) -> Array:
        """Return the probability of each label [K], float64: its order is that of the logits."""
        logits = kit.output_of(outputs, self._output).astype(np.float64)
        return np.asarray(1 / (1 + np.exp(-np.clip(logits, -700, 700))))

    def agreement(self, prediction: Array, reference: Array) -> float:
        """Return the share of labels that two networks both give, of those that one gives; 1 where none does."""
        one, other = (np.asarray(each) >= self._threshold for each in (prediction, reference))
        return float((one & other).sum() / given) if (given := int((one | other).sum())) else 1.0

    def _problem(self, target: Any) -> Problem | None:
        labels = np.asarray(target)
        if labels.shape != (len(self.classes),):
            return kit.said_shape(labels), f"a target is an array [{len(self.classes)}] of 0 and 1, one for each label"
        if (problem := kit.not_finite(labels)) is not None:
            return problem
        wrong = labels[(labels != 0) & (labels != 1)]
        return (f"value {wrong[0]}", "allowed are 0 and 1 (many-hot, no list of labels)") if wrong.size else None

    def check_outputs(self, shapes: Mapping[str, Sequence[int]]) -> list[str]:
        """Return what does not fit in the shapes of the outputs, without the batch axis, in words."""
        _, shape = kit.shape_of(shapes, self._output)
        needed = f"logits [{len(self.classes)}], one for each label, as output {self._output}"
        return [] if shape == (len(self.classes),) else kit.misfit(shapes, needed)

    def collate(self, targets: Sequence[Any]) -> Tensor:
        """Return labels float32 [B, K]."""
        return kit.stacked(targets, "float")

    def loss(self, outputs: Any, targets: Tensor) -> Tensor:
        """Return the binary cross entropy of logits [B, K] for labels [B, K]."""
        from torch.nn.functional import binary_cross_entropy_with_logits

        logits = kit.tensors_of(outputs)[self._output]
        return binary_cross_entropy_with_logits(logits, targets.to(logits))

    def distance(self, student: Any, teacher: Any, temperature: float) -> Tensor:
        """Return the binary cross entropy for the teacher's probabilities, T^2 times that of both softened."""
        from torch.nn.functional import binary_cross_entropy_with_logits

        near, wanted = (kit.tensors_of(each)[self._output] for each in (student, teacher))
        softened = (wanted.detach() / temperature).sigmoid()
        return binary_cross_entropy_with_logits(near / temperature, softened) * temperature**2

    def show(self, prediction: Array, raw: object = None, classes: Sequence[str] = ()) -> str:  # noqa: ARG002 - as all kits
        """Return the labels that are given, the most probable first."""
        names = classes or self.classes
        given = [place for place in np.argsort(-prediction, kind="stable") if prediction[place] >= self._threshold]
        return ", ".join(f"{names[place]} {prediction[place]:.2f}" for place in given) or "no label"


def _both(prediction: Array, target: Array) -> Array:
    return np.stack([np.asarray(prediction, dtype=np.float64), np.asarray(target, dtype=np.float64)])


def _precisions(both_N2K: Array) -> Array:
    """Return the average precision of each label [K]."""
    labels = range(both_N2K.shape[2])
    return np.array([ranked_precision(both_N2K[:, 0, label], both_N2K[:, 1, label]) for label in labels])


def _f1(counts_N3K: Array) -> Array:
    return class_f1(counts_N3K.sum(axis=0))
