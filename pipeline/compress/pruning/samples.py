"""The images that criteria look at and that candidates are judged on, normalised as in training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from pipeline.compress.training.batchnorm import recalibrate_batchnorm
from pipeline.core.classification import predicted_classes, share_equal
from pipeline.core.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray
    from torch import Tensor, nn

    from pipeline.core.dataset import Dataset, Split


@dataclass(frozen=True)
class Samples:
    """A fixed choice of images: `images` of each of two splits, drawn with `seed`, in batches of `batch`.

    `dataset` is called when images are needed, so that what needs none loads none. With `drop_last` every batch has the
    same size, as a network wants whose code fixes its batch; the rest of the images are left out.
    """

    dataset: Callable[[], Dataset]
    images: int
    batch: int
    seed: int
    drop_last: bool = False

    def training(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield training images [B, C, H, W] and labels [B]. Raises InputError when there are fewer than asked for."""
        split = self.dataset().train
        if self.images > len(split):
            raise InputError(f"images is {self.images}, the training split has {len(split)}: ask for at most that many")
        yield from self._batches(split, self._chosen(split))

    def validation(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield as many validation images and labels, or all there are."""
        split = self.dataset().validation
        yield from self._batches(split, self._chosen(split))

    def accuracy(self, model: nn.Module, *, renew: bool) -> float:
        """Return a network's accuracy on the validation images, in [0, 1]; it is left in eval mode.

        With `renew`, the batch-norm statistics are taken again from the training images before: what makes pruned
        networks comparable without training them (EagleEye, Li et al. 2020).
        """
        model.eval()
        if renew:
            recalibrate_batchnorm(model, ((images,) for images, _ in self.training()))
        with torch.no_grad():
            found = [(predicted_classes(model(images).numpy()), labels.numpy()) for images, labels in self.validation()]
        if not found:
            raise InputError(f"the validation split has less than one batch of {self.batch} images")
        predictions, labels = map(np.concatenate, zip(*found, strict=True))
        return share_equal(predictions, labels)

    def _chosen(self, split: Split) -> NDArray[np.int64]:
        chosen: NDArray[np.int64] = np.random.default_rng(self.seed).permutation(len(split))[: self.images]
        return chosen

    def _batches(self, split: Split, chosen: NDArray[np.int64]) -> Iterator[tuple[Tensor, Tensor]]:
        normalisation = self.dataset().normalisation
        stop = len(chosen) // self.batch * self.batch if self.drop_last else len(chosen)
        for start in range(0, stop, self.batch):
            places = chosen[start : min(start + self.batch, stop)]
            yield torch.from_numpy(normalisation(split.images[places])), torch.from_numpy(split.labels[places])


def loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of logits [N, K] and labels [N], mean over the images."""
    return cross_entropy(logits, labels)
