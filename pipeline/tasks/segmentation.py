"""Semantic segmentation: logits [K, H, W] to a class for each pixel."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from . import drawing, kit
from .scores import Score, class_counts, class_iou, mean_known, share_right

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Generator, Tensor

    from .augmenting import Move
    from .kit import Array, Problem


class Segmentation(kit.BaseKit):
    """A class for each pixel. A prediction is a map int64 [H, W], a target too, with `ignore_index` where none counts.

    Of two classes the network may give one logit [1, H, W], that of the second. `dice` is the weight of the soft Dice
    loss (Milletari et al. 2016) beside the cross entropy. The mIoU is the mean over classes of the IoU over all pixels.
    """

    kind = "segmentation"

    def __init__(
        self,
        *,
        classes: int | Sequence[str],
        ignore_index: int | None = 255,
        dice: float = 0.0,
        **common: Any,
    ) -> None:
        super().__init__(classes, **common)
        self._ignored, self._dice = ignore_index, dice

        def iou(counts: Array) -> Array:
            return class_iou(counts.sum(axis=0))

        scores = (
            Score("mIoU", self._counts, lambda counts: mean_known(iou(counts)), of_classes=iou),
            Score("pixel_accuracy", self._counts, lambda counts: share_right(counts.sum(axis=0))),
        )
        self.metrics = self.judged_first(scores)

    def _counts(self, prediction: Array, target: Array) -> Array:
        """Return [3, K]: pixels that are right, predicted and true, of those that count."""
        predicted, true = np.asarray(prediction), np.asarray(target)
        if predicted.shape != true.shape:
            raise ValueError(f"mask of {true.shape}, but the network gives {predicted.shape}: resize the masks")
        kept = np.ones(true.shape, bool) if self._ignored is None else true != self._ignored
        return class_counts(predicted[kept], true[kept].astype(np.int64), len(self.classes))

    def decode(self, outputs: Mapping[str, Array]) -> Array:
        """Return the class of each pixel, int64 [H, W], the first of equals."""
        logits = kit.output_of(outputs, self._output)
        return np.asarray(logits.argmax(axis=0) if len(logits) > 1 else (logits[0] > 0).astype(np.int64))

    def agreement(self, prediction: Array, reference: Array) -> float:
        """Return the mean IoU of two networks' maps of one sample, over the classes that one of them has."""
        return mean_known(class_iou(class_counts(np.asarray(prediction), np.asarray(reference), len(self.classes))))

    def _problem(self, target: Any) -> Problem | None:
        mask = np.asarray(target)
        if mask.ndim != 2:  # noqa: PLR2004 - height and width
            return kit.said_shape(mask), "a target is a map [H, W] of classes, not one-hot and without a channel axis"
        return kit.wrong_classes(mask, len(self.classes), self._ignored)

    def check_places(self, targets: Sequence[Any], height: int, width: int) -> list[str]:
        """Return which masks are of another size than the network's map, in words."""
        text = f"masks have the size of the network's output, {height} x {width}: resize them by nearest neighbour"

        def other(target: Array) -> Problem | None:
            shape = np.asarray(target).shape
            return None if shape == (height, width) else (f"a mask of {' x '.join(map(str, shape))}", text)

        return kit.wrong_targets(targets, other)

    def check_outputs(self, shapes: Mapping[str, Sequence[int]]) -> list[str]:
        """Return what does not fit in the shapes of the outputs, without the batch axis, in words."""
        _, shape = kit.shape_of(shapes, self._output)
        count = len(self.classes)
        allowed = (1, 2) if count == 2 else (count,)  # noqa: PLR2004 - two classes
        needed = f"logits [{' or '.join(map(str, allowed))}, H, W] of {count} classes as output {self._output}"
        return [] if len(shape) == kit.IMAGE_AXES and shape[0] in allowed else kit.misfit(shapes, needed)

    def collate(self, targets: Sequence[Any]) -> Tensor:
        """Return masks int64 [B, H, W]."""
        return kit.stacked(targets, "integer")

    def loss(self, outputs: Any, targets: Tensor) -> Tensor:
        """Return the mean cross entropy over the pixels that count, plus the weighted Dice loss."""
        from torch.nn.functional import cross_entropy

        logits = self._two(kit.tensors_of(outputs)[self._output])
        true = targets.to(logits.device)
        kept = true != self._ignored if self._ignored is not None else true >= 0
        true = true.where(kept, 0)
        pixels = kept.sum().clamp(min=1)
        wrong = (cross_entropy(logits, true, reduction="none") * kept).sum() / pixels
        return wrong + self._dice * _dice(logits, true, kept) if self._dice else wrong

    @staticmethod
    def _two(logits: Tensor) -> Tensor:
        """Return logits [B, 2, H, W] for one logit [B, 1, H, W]."""
        import torch

        return logits if logits.shape[1] > 1 else torch.cat([torch.zeros_like(logits), logits], dim=1)

    def distance(self, student: Any, teacher: Any, temperature: float) -> Tensor:
        """Return T^2 KL(teacher, student) of softened classes, the mean over pixels."""
        near, wanted = (self._two(kit.tensors_of(each)[self._output]) for each in (student, teacher))
        return kit.soft_distance(near.movedim(1, -1).flatten(0, -2), wanted.movedim(1, -1).flatten(0, -2), temperature)

    def augment(
        self, inputs: Mapping[str, Tensor], targets: Sequence[Any], settings: Mapping[str, Any], generator: Generator
    ) -> tuple[dict[str, Tensor], list[Any]]:
        """Return changed images and their moved masks; what comes in at the edges is ignored (`augmenting.py`)."""
        import torch

        from .augmenting import augment_images, move_map

        fill = 0 if self._ignored is None else self._ignored

        def moved(target: Any, move: Move) -> Array:
            return np.asarray(move_map(torch.as_tensor(np.asarray(target).astype(np.int64)), move, fill).numpy())

        return augment_images(inputs, targets, settings, generator, moved)

    def show(self, prediction: Array, raw: object = None, classes: Sequence[str] = ()) -> str:  # noqa: ARG002 - as all kits
        """Return the share of each class that occurs, the largest first."""
        names = classes or self.classes
        found, counts = np.unique(prediction, return_counts=True)
        order = np.argsort(-counts, kind="stable")
        return ", ".join(f"{names[int(found[i])]} {counts[i] / counts.sum():.1%}" for i in order)

    def draw(self, prediction: Array, image_HWC: Array) -> Array:
        """Return the image uint8 [H, W, 3] with each class but the first tinted, of a map of any size."""
        image = drawing.coloured(image_HWC)
        rows, columns = (np.arange(size) * have // size for size, have in zip(image.shape, prediction.shape))
        classes = prediction[rows[:, None], columns]
        for each in np.unique(classes):
            if each > 0:
                drawing.draw_mask(image, classes == each, drawing.class_colour(int(each)))
        return image


def _dice(logits: Tensor, true: Tensor, kept: Tensor) -> Tensor:
    """Return 1 - the mean soft Dice coefficient over classes that occur, of logits [B, K, H, W]."""
    from torch.nn.functional import one_hot

    kept = kept[:, None].to(logits)
    found = logits.softmax(dim=1) * kept
    wanted = one_hot(true, logits.shape[1]).movedim(-1, 1).to(logits) * kept
    common, sizes = (found * wanted).sum(dim=(0, 2, 3)), (found + wanted).sum(dim=(0, 2, 3))
    present = wanted.sum(dim=(0, 2, 3)) > 0
    coefficients = (2 * common + 1) / (sizes + 1)
    return (1 - coefficients)[present].sum() / present.sum().clamp(min=1)
