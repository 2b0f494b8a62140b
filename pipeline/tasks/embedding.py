"""Embeddings: a vector for each sample that is to be near a given one, such as that of a larger network."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from . import kit
from .scores import Score, rank_correlation

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from .kit import Array, Problem

#: Cosines that differ by less are equal: the same two vectors may have others elsewhere in a product of matrices.
ROUNDING = 1e-9
LOSSES = ("cosine", "mse")


class Embedding(kit.BaseKit):
    """Vectors [D]. A prediction is a vector, a target the one that it is to be near.

    Metrics: the mean cosine to the targets; `recall@k`, the share of samples whose own target is among the k nearest of
    all targets (those equally near count as farther); `Spearman`, the rank correlation over pairs of samples
    between the cosines of predictions and those of targets. The two need the vectors of all samples, and time by the
    square of their number.
    """

    kind = "embedding"

    def __init__(
        self,
        *,
        loss: str = "cosine",
        recall_at: Sequence[int] = (1, 10),
        **common: Any,
    ) -> None:
        super().__init__(**common)
        self._loss = kit.among("loss", loss, LOSSES)

        def recall(k: int) -> Score:
            return Score(f"recall@{k}", _both, lambda both: recall_of(both[:, 0], both[:, 1], k))

        scores = (
            Score("cosine", _cosine, bounds=(-1.0, 1.0)),
            *(recall(k) for k in recall_at),
            Score("Spearman", _both, lambda both: pair_correlation(both[:, 0], both[:, 1]), bounds=(-1.0, 1.0)),
        )
        self.metrics = self.judged_first(scores)

    def decode(self, outputs: Mapping[str, Array]) -> Array:
        """Return the vector [D] of one sample, float32."""
        return kit.output_of(outputs, self._output).astype(np.float32)

    def check_targets(self, targets: Sequence[Any]) -> list[str]:
        """Return what is wrong with targets, vectors of one length, in words."""
        first = np.asarray(targets[0]).shape if len(targets) else ()
        return kit.wrong_targets(targets, lambda target: self._misshapen(target, first))

    @staticmethod
    def _misshapen(target: Any, first: tuple[int, ...]) -> Problem | None:
        vector = np.asarray(target)
        if vector.ndim != 1 or vector.shape != first:
            return kit.said_shape(vector), "targets are vectors [D], all of one length"
        if (problem := kit.not_finite(vector)) is not None:
            return problem
        return None if vector.any() else ("a vector of zeros", "a vector of zeros has no direction: leave it out")

    def check_outputs(self, shapes: Mapping[str, Sequence[int]]) -> list[str]:
        """Return what does not fit in the shapes of the outputs, without the batch axis, in words."""
        _, shape = kit.shape_of(shapes, self._output)
        needed = f"a vector [D] as output {self._output}, so take the mean over positions in the network"
        return [] if len(shape) == 1 else kit.misfit(shapes, needed)

    def collate(self, targets: Sequence[Any]) -> Tensor:
        """Return vectors float32 [B, D]."""
        return kit.stacked(targets, "float")

    def loss(self, outputs: Any, targets: Tensor) -> Tensor:
        """Return 1 - the mean cosine, or the mean squared difference, to vectors [B, D]."""
        return self._difference(kit.tensors_of(outputs)[self._output], targets)

    def _difference(self, vectors: Tensor, wanted: Tensor) -> Tensor:
        from torch.nn.functional import cosine_similarity, mse_loss

        if vectors.shape != wanted.shape:
            raise ValueError(f"the network gives {list(vectors.shape)}, but targets are {list(wanted.shape)}")
        return mse_loss(vectors, wanted) if self._loss == "mse" else (1 - cosine_similarity(vectors, wanted)).mean()

    def distance(self, student: Any, teacher: Any, temperature: float) -> Tensor:  # noqa: ARG002 - nothing is softened
        """Return the same loss to the teacher's vectors."""
        near, wanted = (kit.tensors_of(each)[self._output] for each in (student, teacher))
        return self._difference(near, wanted.detach())

    def show(self, prediction: Array, raw: object = None, classes: Sequence[str] = ()) -> str:  # noqa: ARG002 - as all kits
        """Return length and first numbers of the vector."""
        start = " ".join(f"{each:.4g}" for each in prediction[:4])
        return f"vector of {len(prediction)}, length {np.linalg.norm(prediction):.4g}: {start} ..."


def _both(prediction: Array, target: Array) -> Array:
    return np.stack([np.asarray(prediction, dtype=np.float64), np.asarray(target, dtype=np.float64)])


def _cosine(prediction: Array, target: Array) -> float:
    one, other = unit_vectors(_both(prediction, target))
    return float(one @ other)


def unit_vectors(vectors_ND: Array) -> Array:
    """Return vectors of length 1; those of zeros stay as they are."""
    vectors = np.asarray(vectors_ND, dtype=np.float64)
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.asarray(vectors / np.where(lengths > 0, lengths, 1))


def recall_of(predicted_ND: Array, target_ND: Array, k: int) -> float:
    """Return the share of samples whose own target is among the k most similar of all targets."""
    similar = unit_vectors(predicted_ND) @ unit_vectors(target_ND).T
    own = np.diag(similar)[:, None]
    return float(((similar > own + ROUNDING).sum(axis=1) < k).mean())


def pair_correlation(predicted_ND: Array, target_ND: Array) -> float:
    """Return Spearman's correlation, over pairs of samples with different targets, of cosines; NaN without any."""
    predicted, target = unit_vectors(predicted_ND), unit_vectors(target_ND)
    rows, columns = np.triu_indices(len(predicted), 1)
    different = (target_ND[rows] != target_ND[columns]).any(axis=1)  # in a bootstrap a sample meets itself
    rows, columns = rows[different], columns[different]
    if not len(rows):
        return float("nan")
    return rank_correlation((predicted @ predicted.T)[rows, columns], (target @ target.T)[rows, columns])
