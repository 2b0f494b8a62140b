"""A label for each position of a sequence, or CTC: words, frames of audio, steps of a series."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from . import kit
from .scores import Score, f1_of_sums
from .sequences import bio_spans, edit_distance, greedy_ctc

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Generator, Tensor

    from .augmenting import Move
    from .kit import Array, Problem

DECODINGS = ("labels", "ctc")
UNBOUNDED = (0.0, float("inf"))


class Token(kit.BaseKit):
    """Labels along a sequence.

    `labels`: logits [T, K], or [K, T] with `classes_first`; a prediction is the labels int64 [T], a target too, with
    `ignore_index` at positions that do not count. With classes named as B-PER, I-PER and O there is the F1 of spans.
    `ctc`: prediction and target are lists of labels, which are shorter than T; `blank` is the label of none. The word
    error rate is there where a class is a space. Error rates are edits by true words or labels, over all samples.
    """

    kind = "token"

    def __init__(
        self,
        *,
        classes: int | Sequence[str],
        decoding: str = "labels",
        classes_first: bool = False,
        ignore_index: int = -100,
        blank: int = 0,
        **common: Any,
    ) -> None:
        super().__init__(classes, **common)
        self.decoding = kit.among("decoding", decoding, DECODINGS)
        self._classes_first, self._ignored, self._blank = classes_first, ignore_index, blank
        self.metrics = self.judged_first(self._error_rates() if decoding == "ctc" else self._accuracies())

    def _accuracies(self) -> list[Score]:
        scores = [Score("accuracy", self._right, _share_of_sums)]
        if all(name == "O" or name[:2] in ("B-", "I-") for name in self.classes):
            scores.append(Score("span_f1", self._spans, lambda counts: f1_of_sums(counts.sum(axis=0))))
        return scores

    def _error_rates(self) -> list[Score]:
        def lower(name: str, of_sample: Any) -> Score:
            return Score(name, of_sample, _share_of_sums, bounds=UNBOUNDED, higher_is_better=False)

        labels = lower("CER", lambda prediction, target: (edit_distance(target, prediction), len(target)))
        return [lower("WER", self._wrong_words), labels] if " " in self.classes else [labels]

    def _right(self, prediction: Array, target: Array) -> tuple[int, int]:
        """Return how many positions are right, of how many that count."""
        predicted, true = _alike(prediction, target)
        kept = true != self._ignored
        return int((predicted[kept] == true[kept]).sum()), int(kept.sum())

    def _spans(self, prediction: Array, target: Array) -> tuple[int, int, int]:
        """Return how many spans are right, predicted and true."""
        predicted, true = _alike(prediction, target)
        kept = true != self._ignored
        found, wanted = (bio_spans([self.classes[each] for each in row[kept]]) for row in (predicted, true))
        return len(found & wanted), len(found), len(wanted)

    def _wrong_words(self, prediction: Sequence[int], target: Sequence[int]) -> tuple[int, int]:
        found, wanted = (self._text(each).split() for each in (prediction, target))
        return edit_distance(wanted, found), len(wanted)

    def _text(self, labels: Sequence[int]) -> str:
        return "".join(self.classes[each] for each in labels)

    def decode(self, outputs: Mapping[str, Array]) -> Any:
        """Return the labels of one sample: int64 [T], or a list for CTC."""
        logits = kit.output_of(outputs, self._output)
        labels = np.asarray(logits.argmax(axis=0 if self._classes_first else 1))
        return greedy_ctc(labels, self._blank) if self.decoding == "ctc" else labels

    def agreement(self, prediction: Any, reference: Any) -> float:
        """Return the share of positions where two networks say the same; of CTC 1 - edits / the longer sequence."""
        if self.decoding == "labels":
            return float((np.asarray(prediction) == np.asarray(reference)).mean())
        longer = max(len(prediction), len(reference))
        return 1 - edit_distance(prediction, reference) / longer if longer else 1.0

    def _problem(self, target: Any) -> Problem | None:
        labels = np.asarray(target)
        if labels.ndim != 1:
            return kit.said_shape(labels), "a target is a row of labels, not one-hot"
        if self.decoding == "labels":
            return kit.wrong_classes(labels, len(self.classes), self._ignored)
        if labels.size and (labels == self._blank).any():
            return f"the blank, {self._blank}", "targets of CTC have no blank: number labels around it"
        return kit.wrong_classes(labels.astype(np.int64) if not labels.size else labels, len(self.classes))

    def check_outputs(self, shapes: Mapping[str, Sequence[int]]) -> list[str]:
        """Return what does not fit in the shapes of the outputs, without the batch axis, in words."""
        _, shape = kit.shape_of(shapes, self._output)
        axes = f"[{len(self.classes)}, T]" if self._classes_first else f"[T, {len(self.classes)}]"
        fits = len(shape) == 2 and shape[0 if self._classes_first else 1] == len(self.classes)  # noqa: PLR2004
        return [] if fits else kit.misfit(shapes, f"logits {axes} as output {self._output} (`classes_first`: [K, T])")

    def collate(self, targets: Sequence[Any]) -> Any:
        """Return labels int64 [B, T]; for CTC labels [B, S] filled up with the blank, and their lengths [B]."""
        import torch

        rows = [torch.as_tensor(np.asarray(each, dtype=np.int64)) for each in targets]
        if self.decoding == "labels":
            return torch.stack(rows)
        padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=self._blank)
        return padded, torch.tensor([len(row) for row in rows])

    def loss(self, outputs: Any, targets: Any) -> Tensor:
        """Return the mean cross entropy over positions that count, or the CTC loss by label."""
        from torch.nn.functional import cross_entropy, ctc_loss, log_softmax

        logits = self._logits(outputs)
        if self.decoding == "ctc":
            labels, lengths = targets
            steps = torch_lengths(logits)
            return ctc_loss(log_softmax(logits, -1).transpose(0, 1), labels, steps, lengths, blank=self._blank)
        wrong = cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=self._ignored, reduction="sum")
        mean: Tensor = wrong / (targets != self._ignored).sum().clamp(min=1)
        return mean

    def _logits(self, outputs: Any) -> Tensor:
        """Return logits [B, T, K] of what forward returned."""
        logits = kit.tensors_of(outputs)[self._output]
        return logits.transpose(1, 2) if self._classes_first else logits

    def distance(self, student: Any, teacher: Any, temperature: float) -> Tensor:
        """Return T^2 KL(teacher, student) of softened labels, the mean over positions."""
        near, wanted = (self._logits(each).flatten(0, 1) for each in (student, teacher))
        return kit.soft_distance(near, wanted, temperature)

    def augment(
        self, inputs: Mapping[str, Tensor], targets: Sequence[Any], settings: Mapping[str, Any], generator: Generator
    ) -> tuple[dict[str, Tensor], list[Any]]:
        """Return changed series [B, F, T]; labels of positions move along in time, those of CTC stay."""
        import torch

        from .augmenting import as_it_is, augment_series, move_row

        def moved(target: Any, move: Move) -> Array:
            labels = torch.as_tensor(np.asarray(target, dtype=np.int64))
            return np.asarray(move_row(labels, move, self._ignored).numpy())

        return augment_series(inputs, targets, settings, generator, as_it_is if self.decoding == "ctc" else moved)

    def show(self, prediction: Any, raw: object = None, classes: Sequence[str] = ()) -> str:  # noqa: ARG002 - as all kits
        """Return the text of CTC, or the names of the labels."""
        names = classes or self.classes
        return ("" if self.decoding == "ctc" else " ").join(names[int(each)] for each in prediction)


def torch_lengths(logits_BTK: Tensor) -> Tensor:
    """Return T for each of B samples."""
    import torch

    return torch.full((logits_BTK.shape[0],), logits_BTK.shape[1], dtype=torch.int64)


def _share_of_sums(counts_N2: Array) -> float:
    """Return the sum of the first over that of the second; NaN where there is nothing to count."""
    part, whole = counts_N2.sum(axis=0)
    return float(part / whole) if whole else float("nan")


def _alike(prediction: Any, target: Any) -> tuple[Array, Array]:
    predicted, true = np.asarray(prediction), np.asarray(target)
    if predicted.shape != true.shape:
        raise ValueError(
            f"{true.shape} labels, but the network gives {predicted.shape}: it needs one for each position"
        )
    return predicted, true
