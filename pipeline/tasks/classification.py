"""Classification of anything with one label: logits [K] to a class. A series or a sentence is as good as an image."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from . import kit
from .scores import Score, class_f1, class_recalls, counts_of_pairs, mean_known

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from .kit import Array, Problem

#: The answer where no logit is the largest: no class, so it is never right.
NO_CLASS = -1


class Classification(kit.BaseKit):
    """One of K classes for each sample. A prediction is the class, a target too.

    The macro F1 is the mean over the classes that occur; of two classes it is that of the second, the positive one.
    """

    kind = "classification"

    def __init__(
        self,
        *,
        classes: int | Sequence[str],
        label_smoothing: float = 0.0,
        **common: Any,
    ) -> None:
        super().__init__(classes, **common)
        self._smoothing = label_smoothing
        self.metrics = self.judged_first(_scores(len(self.classes)))

    def decode(self, outputs: Mapping[str, Array]) -> int:
        """Return the class with the largest logit, the first of equals; NO_CLASS where the largest is not finite."""
        return self.decode_batch({name: values[None] for name, values in outputs.items()})[0]

    def decode_batch(self, outputs: Mapping[str, Array]) -> list[int]:
        """Return the classes of samples from their logits [N, K]."""
        logits = kit.output_of(outputs, self._output)
        found: list[int] = np.where(np.isfinite(logits.max(axis=1)), logits.argmax(axis=1), NO_CLASS).tolist()
        return found

    def agreement(self, prediction: int, reference: int) -> float:
        """Return 1.0 where two networks say the same class of a sample, else 0.0."""
        return float(prediction == reference)

    def _problem(self, target: Any) -> Problem | None:
        label = np.asarray(target)
        if label.size == len(self.classes) and label.size > 1:
            return f"one-hot {kit.said_shape(label)}", "a target is the class itself: targets.argmax(axis=1)"
        if label.size != 1:
            return kit.said_shape(label), "a target is one class"
        return kit.wrong_classes(label, len(self.classes))

    def check_outputs(self, shapes: Mapping[str, Sequence[int]]) -> list[str]:
        """Return what does not fit in the shapes of the outputs, without the batch axis, in words."""
        _, shape = kit.shape_of(shapes, self._output)
        needed = f"logits [{len(self.classes)}], one for each class, as output {self._output}"
        return [] if shape == (len(self.classes),) else kit.misfit(shapes, needed)

    def collate(self, targets: Sequence[Any]) -> Tensor:
        """Return classes int64 [B]."""
        return kit.stacked([np.asarray(each).reshape(()) for each in targets], "integer")

    def loss(self, outputs: Any, targets: Tensor) -> Tensor:
        """Return the cross entropy of logits [B, K] for classes [B]."""
        from torch.nn.functional import cross_entropy

        logits = kit.tensors_of(outputs)[self._output]
        return cross_entropy(logits, targets.to(logits.device), label_smoothing=self._smoothing)

    def distance(self, student: Any, teacher: Any, temperature: float) -> Tensor:
        """Return T^2 KL(teacher, student) of softened classes (Hinton et al. 2015)."""
        near, wanted = (kit.tensors_of(each)[self._output] for each in (student, teacher))
        return kit.soft_distance(near, wanted, temperature)

    def show(self, prediction: int, raw: object = None, classes: Sequence[str] = ()) -> str:  # noqa: ARG002 - as all kits
        """Return the name of the class."""
        return "no class" if prediction == NO_CLASS else str((classes or self.classes)[prediction])


def _scores(classes: int) -> tuple[Score, ...]:
    """Return accuracy, balanced accuracy and F1."""

    def counts(pairs_N2: Array) -> Array:
        return counts_of_pairs(pairs_N2, classes)

    def f1(pairs_N2: Array) -> float:
        found = class_f1(known := counts(pairs_N2))
        return float(np.nan_to_num(found[-1])) if classes == 2 else mean_known(found[known[2] > 0])  # noqa: PLR2004

    return (
        Score("accuracy", lambda prediction, target: prediction == _class(target)),
        Score(
            "balanced_accuracy",
            _pair,
            lambda pairs: mean_known(class_recalls(counts(pairs))),
            of_classes=lambda pairs: class_recalls(counts(pairs)),
        ),
        Score("f1", _pair, f1, of_classes=lambda pairs: class_f1(counts(pairs))),
    )


def _pair(prediction: int, target: Any) -> tuple[int, int]:
    return int(prediction), _class(target)


def _class(target: Any) -> int:
    """Return a class that may stand in an array of one."""
    return int(np.asarray(target).reshape(()))
