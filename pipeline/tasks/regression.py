"""Regression: numbers, key points or dense maps (super resolution, depth, denoising)."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from . import drawing, kit
from .image_quality import peak_ratio, structural_similarity
from .scores import Score

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Generator, Tensor

    from .augmenting import Move
    from .kit import Array, Problem

LAYOUTS = ("vector", "keypoints", "dense")
LOSSES = ("l1", "l2", "smooth_l1", "charbonnier")
UNBOUNDED = (0.0, float("inf"))
#: Charbonnier's epsilon (Lai et al. 2017); a ratio of depths below this is right (Eigen et al. 2014).
EPSILON, DELTA1 = 1e-3, 1.25


class Regression(kit.BaseKit):
    """Numbers for each sample. A prediction is an array of the shape of the target.

    `layout`: `vector` [D], `keypoints` [P, 2] (x, y) in pixels of the input (the network may give [2 P]), or `dense`
    [C, H, W] or [H, W]. `unit` is that of the values, as px or m. `peak` is the largest value of an image, for PSNR and
    SSIM. `swap`: pairs of key points that change places in a mirror, as left and right eye. The RMSE is over all values
    of all samples; delta1 is the share of values with max(p / t, t / p) < 1.25 where the target is positive.
    """

    kind = "regression"

    def __init__(
        self,
        *,
        layout: str = "vector",
        loss: str = "l2",
        unit: str = "units",
        peak: float = 1.0,
        swap: Sequence[Sequence[int]] = (),
        **common: Any,
    ) -> None:
        super().__init__(**common)
        self.layout, self._loss = kit.among("layout", layout, LAYOUTS), kit.among("loss", loss, LOSSES)
        self._swap = swap
        if not unit:
            raise ValueError("unit: found an empty one; give that of the values, as px, m or units")
        self.metrics = self.judged_first(_metrics(layout, unit, peak))

    def decode(self, outputs: Mapping[str, Array]) -> Array:
        """Return the values of one sample, float32; key points as [P, 2]."""
        values = kit.output_of(outputs, self._output).astype(np.float32)
        return values.reshape(-1, 2) if self.layout == "keypoints" else values

    def check_targets(self, targets: Sequence[Any]) -> list[str]:
        """Return what is wrong with targets, in words: all have one shape, that of the layout."""
        first = np.asarray(targets[0]).shape if len(targets) else ()
        return kit.wrong_targets(targets, lambda target: self._misshapen(target, first))

    def _misshapen(self, target: Any, first: tuple[int, ...]) -> Problem | None:
        values = np.asarray(target)
        fits = {
            "vector": values.ndim == 1,
            "keypoints": values.ndim == 2 and values.shape[-1] == 2,  # noqa: PLR2004 - points of x and y
            "dense": values.ndim in (2, 3),
        }
        needed = {"vector": "[D]", "keypoints": "[P, 2] of (x, y)", "dense": "[C, H, W] or [H, W]"}[self.layout]
        if not fits[self.layout]:
            return kit.said_shape(values), f"targets of layout {self.layout} are arrays {needed}"
        last = max((point for pair in self._swap for point in pair), default=-1)
        if self.layout == "keypoints" and last >= len(values):
            return f"{len(values)} points", f"swap names point {last}, and points are numbered from 0"
        if values.shape != first:
            return kit.said_shape(values), f"all targets have one shape, that of the first, {list(first)}"
        return kit.not_finite(values)

    def check_outputs(self, shapes: Mapping[str, Sequence[int]]) -> list[str]:
        """Return what does not fit in the shapes of the outputs, without the batch axis, in words."""
        _, shape = kit.shape_of(shapes, self._output)
        fits, needed = {
            "vector": (len(shape) == 1, "values [D]"),
            "keypoints": (len(shape) in (1, 2) and int(np.prod(shape)) % 2 == 0, "key points [P, 2] or [2 P]"),
            "dense": (len(shape) in (2, 3), "a map [C, H, W] or [H, W]"),
        }[self.layout]
        return [] if fits else kit.misfit(shapes, f"{needed} as output {self._output}")

    def collate(self, targets: Sequence[Any]) -> Tensor:
        """Return values float32 [B, ...]."""
        return kit.stacked(targets, "float")

    def loss(self, outputs: Any, targets: Tensor) -> Tensor:
        """Return the mean l1, l2, smooth l1 or Charbonnier loss over all values.

        Raises:
            ValueError: outputs and targets have different numbers of values.
        """
        values = kit.tensors_of(outputs)[self._output]
        if values.numel() != targets.numel():
            raise ValueError(f"the network gives {list(values.shape)}, but targets are {list(targets.shape)}")
        return self._difference(values.reshape(targets.shape), targets.to(values))

    def _difference(self, values: Tensor, wanted: Tensor) -> Tensor:
        from torch.nn import functional

        if self._loss == "charbonnier":
            return ((values - wanted).square() + EPSILON**2).sqrt().mean()
        known = {"l1": functional.l1_loss, "l2": functional.mse_loss, "smooth_l1": functional.smooth_l1_loss}
        return known[self._loss](values, wanted)

    def distance(self, student: Any, teacher: Any, temperature: float) -> Tensor:  # noqa: ARG002 - nothing is softened
        """Return the same loss to the teacher's values."""
        near, wanted = (kit.tensors_of(each)[self._output] for each in (student, teacher))
        return self._difference(near, wanted.detach())

    def augment(
        self, inputs: Mapping[str, Tensor], targets: Sequence[Any], settings: Mapping[str, Any], generator: Generator
    ) -> tuple[dict[str, Tensor], list[Any]]:
        """Return changed inputs; key points and dense maps move along, other values stay (`augmenting.py`)."""
        from .augmenting import augment_images

        if self.layout == "vector":
            return super().augment(inputs, targets, settings, generator)
        moved = self._moved_points if self.layout == "keypoints" else _moved_map
        return augment_images(inputs, targets, settings, generator, moved)

    def _moved_points(self, target: Any, move: Move) -> Array:
        points = np.asarray(target, dtype=np.float32).copy()
        if move.mirrored:
            points[:, 0] = move.width - 1 - points[:, 0]
            for one, other in self._swap:
                points[[one, other]] = points[[other, one]]
        if move.upside_down:
            points[:, 1] = move.height - 1 - points[:, 1]
        return points + np.array([move.right, move.down], dtype=np.float32)

    def show(self, prediction: Array, raw: object = None, classes: Sequence[str] = ()) -> str:  # noqa: ARG002 - as all kits
        """Return the numbers, or size and range of a map."""
        if self.layout == "dense":
            size = " x ".join(map(str, prediction.shape))
            return f"map {size}, {prediction.min():.4g} to {prediction.max():.4g}, mean {prediction.mean():.4g}"
        if self.layout == "keypoints":
            return " ".join(f"({x:.1f}, {y:.1f})" for x, y in prediction)
        return " ".join(f"{each:.4g}" for each in prediction)

    def draw(self, prediction: Array, image_HWC: Array) -> Array:
        """Return the image uint8 [H, W, 3] with its key points; of a map its own picture, from lowest to highest."""
        if self.layout == "dense":
            return _picture(prediction)
        image = drawing.coloured(image_HWC)
        for place, (x, y) in enumerate(prediction if self.layout == "keypoints" else ()):
            drawing.draw_point(image, float(x), float(y), drawing.class_colour(place))
        return image


def _metrics(layout: str, unit: str, peak: float) -> tuple[Score, ...]:
    def lower(name: str, of_sample: Any, of_all: Any = None) -> Score:
        return Score(name, _of_one_shape(of_sample), of_all, unit=unit, bounds=UNBOUNDED, higher_is_better=False)

    error = lower("MAE", lambda prediction, target: np.mean(np.abs(prediction - target)))
    squares = lower("RMSE", _squares, lambda sums: np.sqrt(sums[:, 0].sum() / sums[:, 1].sum()))
    if layout == "keypoints":
        return (lower("mean_distance", lambda p, t: np.mean(np.linalg.norm(p - t, axis=-1))), error, squares)
    if layout == "vector":
        return (error, squares)
    psnr, ssim = (_of_one_shape(partial(score, peak=peak)) for score in (peak_ratio, structural_similarity))
    images = (Score("PSNR", psnr, unit="dB", bounds=UNBOUNDED), Score("SSIM", ssim, bounds=(-1.0, 1.0)))
    depth = Score("delta1", _of_one_shape(_near), lambda counts: counts[:, 0].sum() / max(counts[:, 1].sum(), 1))
    return (*images, error, squares, depth)


def _of_one_shape(of_sample: Any) -> Any:
    """Return a statistic that refuses what numpy would broadcast; axes of one entry do not count."""

    def checked(prediction: Array, target: Array) -> Any:
        found, wanted = np.shape(prediction), np.shape(target)
        if [each for each in found if each != 1] != [each for each in wanted if each != 1]:
            raise ValueError(f"the network gives values of shape {[*found]}, but a target has {[*wanted]}")
        return of_sample(prediction, target)

    return checked


def _squares(prediction: Array, target: Array) -> tuple[float, int]:
    difference = np.asarray(prediction, np.float64) - np.asarray(target, np.float64)
    return float(np.sum(difference**2)), difference.size


def _near(prediction: Array, target: Array) -> tuple[int, int]:
    """Return how many values are within the ratio, of how many with a positive target."""
    known = np.asarray(target) > 0
    found, true = np.asarray(prediction, np.float64)[known], np.asarray(target, np.float64)[known]
    near = (found > 0) & (found < DELTA1 * true) & (true < DELTA1 * found)
    return int(near.sum()), int(known.sum())


def _moved_map(target: Any, move: Move) -> Array:
    import torch

    from .augmenting import move_map

    return np.asarray(move_map(torch.as_tensor(np.asarray(target, dtype=np.float32)), move, 0).numpy())


def _picture(values: Array) -> Array:
    values = values if values.ndim == 2 else np.moveaxis(values, 0, -1)[:, :, : 3 if len(values) >= 3 else 1]  # noqa: PLR2004
    low, high = float(values.min()), float(values.max())
    return drawing.coloured((values - low) / (high - low or 1) * 255)
