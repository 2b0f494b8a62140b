"""What a training needs of a task: batches drawn by (seed, epoch), the loss, and the score on the validation split."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.compress.training.augmentation import Augmentation, augment, mixup
from pipeline.compress.training.distillation import target_loss, teacher_loss
from pipeline.compress.training.layout import for_kernels
from pipeline.compress.training.main_output import MainOutput
from pipeline.compress.training.seeds import epoch_seed
from pipeline.core.classification import predicted_classes, share_equal

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pipeline.core.dataset import Dataset, Split

    #: Inputs [B, ...] in the order of the network's forward, and what the loss wants beside its outputs.
    Batch = tuple[tuple[Tensor, ...], Any]

_EVALUATION_BATCH = 256


class Learner(Protocol):
    """A task as training sees it. Batches lie on the training's device, images as `layout` says."""

    layout: torch.memory_format

    @property
    def metric(self) -> str:
        """What the score is called."""

    @property
    def higher_is_better(self) -> bool:
        """Whether a higher value of the metric is a better one."""

    @property
    def steps(self) -> int:
        """Steps in one epoch."""

    def batches(self, seed: int, epoch: int, device: torch.device) -> Iterator[Batch]:
        """Yield the batches of one epoch, which depend on (seed, epoch) alone."""

    def inputs(self, count: int, seed: int, device: torch.device) -> Iterator[tuple[Tensor, ...]]:
        """Yield the inputs of `count` training samples as they are, or of all there are."""

    def outputs(self, model: nn.Module, inputs: tuple[Tensor, ...]) -> Any:  # noqa: ANN401 - what forward returns
        """Return what the loss wants of a network in training mode."""

    def loss(self, outputs: Any, target: Any) -> Tensor:  # noqa: ANN401
        """Return the loss, a scalar."""

    def distance(self, student: Any, teacher: Any, temperature: float) -> Tensor:  # noqa: ANN401
        """Return how far a network's outputs are from a teacher's, a scalar."""

    def evaluate(self, model: nn.Module, device: torch.device) -> tuple[float, float | None]:
        """Return score (higher is better) and loss of a network in evaluation mode; None where there is no loss."""


class ImageClassifier:
    """Learns the classes of images by cross-entropy, with random changes of images and smoothed or mixed targets."""

    metric, higher_is_better = "accuracy", True
    layout = torch.channels_last

    def __init__(self, dataset: Dataset, batch: int, *, label_smoothing: float, augmentation: Augmentation) -> None:
        self.dataset, self.batch = dataset, batch
        self.label_smoothing, self.augmentation = label_smoothing, augmentation
        self._main = MainOutput(len(dataset.classes))

    @property
    def steps(self) -> int:
        """Steps in one epoch; the last incomplete batch is left out."""
        return max(1, len(self.dataset.train) // self.batch)

    def batches(self, seed: int, epoch: int, device: torch.device) -> Iterator[Batch]:
        """Yield changed images [B, C, H, W] and target distributions [B, K]."""
        generator = torch.Generator().manual_seed(epoch_seed(seed, epoch))
        order = torch.randperm(len(self.dataset.train), generator=generator)
        classes, smoothing = len(self.dataset.classes), self.label_smoothing
        for step in range(self.steps):
            chosen = order[step * self.batch : (step + 1) * self.batch]
            images, labels = self._tensors(self.dataset.train, chosen, device)
            images = augment(images, self.augmentation, generator)
            targets = nn.functional.one_hot(labels, classes) * (1 - smoothing) + smoothing / classes
            if self.augmentation.mixup:
                images, targets = mixup(images, targets, self.augmentation.mixup, generator)
            yield (for_kernels(images, self.layout),), targets

    def inputs(self, count: int, seed: int, device: torch.device) -> Iterator[tuple[Tensor, ...]]:
        """Yield training images [B, C, H, W] as they are."""
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(self.dataset.train), generator=generator)[:count]
        for chosen in torch.split(order, self.batch):
            yield (for_kernels(self._tensors(self.dataset.train, chosen, device)[0], self.layout),)

    def outputs(self, model: nn.Module, inputs: tuple[Tensor, ...]) -> Tensor:
        """Return the logits [B, K], also of a network that has auxiliary heads while it trains."""
        return self._main.logits(model, inputs[0])

    def loss(self, outputs: Tensor, target: Tensor) -> Tensor:
        """Return the cross-entropy."""
        return target_loss(outputs, target)

    def distance(self, student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        """Return the divergence from the teacher's softened distribution."""
        return teacher_loss(student, teacher, temperature)

    def evaluate(self, model: nn.Module, device: torch.device) -> tuple[float, float | None]:
        """Return accuracy and cross-entropy on the validation images."""
        split, classes = self.dataset.validation, len(self.dataset.classes)
        predictions, total = [], 0.0
        for start in range(0, len(split), _EVALUATION_BATCH):
            places = torch.arange(start, min(start + _EVALUATION_BATCH, len(split)))
            images, labels = self._tensors(split, places, device)
            logits = model(for_kernels(images, self.layout))
            predictions.append(predicted_classes(logits.float().numpy(force=True)))
            total += float(target_loss(logits, nn.functional.one_hot(labels, classes).float())) * len(labels)
        return share_equal(np.concatenate(predictions), split.labels), total / len(split)

    def _tensors(self, split: Split, positions: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
        chosen = positions.numpy()  # copies these samples alone, of arrays that may be read-only
        images = torch.from_numpy(split.images[chosen]).to(device)
        labels = torch.from_numpy(split.labels[chosen]).to(device)
        normalisation = self.dataset.normalisation
        mean = torch.tensor(normalisation.mean, device=device)[:, None, None]
        std = torch.tensor(normalisation.std, device=device)[:, None, None]
        return (images.float() / 255 - mean) / std, labels
