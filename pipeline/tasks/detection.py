"""Detection without anchors: maps of box edges and classes for each stride, decoded outside the network.

For each stride s, in rising order, the network gives one map [4 + K, H / s, W / s], or [5 + K, ...] with `objectness`:
the distances left, top, right and bottom from the centre of the cell to the edges of a box, in units of the stride and
before `distances` makes them positive, then logits of the K classes, then the logit that there is an object at all
(Tian et al. 2019, FCOS). A prediction is an array [M, 6] (x1, y1, x2, y2, score, class) in pixels of the input.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from . import drawing, kit
from .average_precision import AveragePrecision
from .boxes import matched_boxes, suppress_by_class

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Generator, Tensor

    from .augmenting import Move
    from .kit import Array, Problem

DISTANCES = ("softplus", "exp", "linear")
#: A moved box stays a target while this share of it is in the image.
VISIBLE_AT_LEAST = 0.25
#: Boxes of this score are compared between networks; weaker ones come and go by rounding.
SURE = 0.3


class Detection(kit.BaseKit):
    """Boxes of classes in an image.

    Of a network's boxes those with a score of `score_threshold` count; of each class the `candidates` best go into
    non-maximum suppression at the overlap `iou_threshold`, and the `detections` best of them are the prediction. In
    training, boxes up to `2 * reach * stride` long belong to that stride (`reach` of 4 is FCOS's).
    """

    kind = "detection"

    def __init__(
        self,
        *,
        classes: int | Sequence[str],
        strides: Sequence[int] = (8, 16, 32),
        distances: str = "softplus",
        objectness: bool = False,
        score_threshold: float = 0.05,
        iou_threshold: float = 0.6,
        candidates: int = 300,
        detections: int = 100,
        reach: float = 4.0,
        **common: Any,
    ) -> None:
        super().__init__(classes, **common)
        self.strides, self.objectness, self.reach = tuple(strides), objectness, reach
        self.distances = kit.among("distances", distances, DISTANCES)
        self.score_threshold, self._iou_threshold = score_threshold, iou_threshold
        self._candidates, self._detections = candidates, detections
        if not strides or list(strides) != sorted(set(strides)):
            raise ValueError(f"strides: found {list(strides)}; give them in rising order, as [8, 16, 32]")
        count = len(self.classes)
        scores = (AveragePrecision("mAP50-95", count), AveragePrecision("mAP50", count, [0.5]))
        self.metrics = self.judged_first(scores)

    def decode(self, outputs: Mapping[str, Array]) -> Array:
        """Return the boxes [M, 6] of one sample, by falling score."""
        maps = [np.asarray(each, dtype=np.float32) for each in outputs.values()]
        found = np.concatenate([self._of_stride(each, stride) for each, stride in zip(maps, self.strides)])
        height, width = (side * self.strides[0] for side in maps[0].shape[1:])
        return self.best(found, height, width)

    def best(self, found: Array, height: int, width: int) -> Array:
        """Return of candidates [M, 6] those that stay in an image of this size, cut at its edges, by falling score."""
        found[:, :4] = np.clip(found[:, :4], 0, np.array([width, height, width, height], dtype=np.float32))
        found = found[np.argsort(-found[:, 4], kind="stable")]
        best = [np.flatnonzero(found[:, 5] == each)[: self._candidates] for each in range(len(self.classes))]
        found = found[np.sort(np.concatenate(best))]
        stay = suppress_by_class(found[:, :4], found[:, 4], found[:, 5], self._iou_threshold)
        return found[stay[: self._detections]]

    def _of_stride(self, output_CHW: Array, stride: int) -> Array:
        """Return all boxes [M, 6] of one map whose score reaches the threshold."""
        count = len(self.classes)
        scores = _sigmoid(output_CHW[4 : 4 + count])
        if self.objectness:
            scores = scores * _sigmoid(output_CHW[4 + count :])
        classes, rows, columns = np.nonzero(scores >= self.score_threshold)
        distances_M4 = _positive(output_CHW[:4, rows, columns].T, self.distances)
        centres = np.stack([columns, rows], axis=1) + np.float32(0.5)
        boxes = np.concatenate([centres - distances_M4[:, :2], centres + distances_M4[:, 2:]], axis=1) * stride
        return np.column_stack([boxes, scores[classes, rows, columns], classes]).astype(np.float32)

    def agreement(self, prediction: Array, reference: Array) -> float:
        """Return the F1 of two networks' boxes of one sample at an overlap of 0.5, of those with a score of `SURE`."""
        one, other = (np.asarray(each)[np.asarray(each)[:, 4] >= SURE] for each in (prediction, reference))
        both = 0
        for each in np.intersect1d(one[:, 5], other[:, 5]):
            both += matched_boxes(one[one[:, 5] == each][:, :4], other[other[:, 5] == each][:, :4], 0.5)
        return 2 * both / count if (count := len(one) + len(other)) else 1.0

    def _problem(self, target: Any) -> Problem | None:
        rows = np.asarray(target)
        if rows.size == 0:
            return None
        if rows.ndim != 2 or rows.shape[1] != 5:  # noqa: PLR2004 - rows of five
            return kit.said_shape(rows), "a target is an array [N, 5] with rows (x1, y1, x2, y2, class)"
        if (problem := kit.not_finite(rows)) is not None:
            return problem
        if (rows[:, 4] != np.round(rows[:, 4])).any():
            return f"class {rows[rows[:, 4] != np.round(rows[:, 4])][0, 4]}", "classes are whole numbers: see column 5"
        return kit.wrong_classes(rows[:, 4].astype(np.int64), len(self.classes)) or _misplaced(rows[:, :4])

    def check_places(self, targets: Sequence[Array], height: int, width: int) -> list[str]:
        """Return what lies outside of an input of this size, in words."""

        def outside(target: Array) -> Problem | None:
            boxes = np.asarray(target, dtype=np.float64).reshape(-1, 5)[:, :4]
            beyond = (boxes[:, 2:] > np.array([width, height]) + 1).any(axis=1)
            text = f"boxes end inside the input of {width} x {height} pixels: give edges in its pixels"
            return (f"box {boxes[beyond][0].tolist()}", text) if beyond.any() else None

        edges = np.concatenate([np.zeros((0, 4)), *(np.reshape(each, (-1, 5))[:, :4] for each in targets)])
        if edges.size and edges.max() <= 1 < min(height, width):
            text = (
                f"targets: found edges from {edges.min():.3g} to {edges.max():.3g}, shares of the image; edges are in "
                f"pixels: multiply x by {width} and y by {height}"
            )
            return [text]
        return kit.wrong_targets(targets, outside)

    def check_outputs(self, shapes: Mapping[str, Sequence[int]]) -> list[str]:
        """Return what does not fit in the shapes of the outputs, without the batch axis, in words."""
        channels = 4 + len(self.classes) + int(self.objectness)
        parts = "4 edges" + f" + {len(self.classes)} classes" + (" + 1 objectness" if self.objectness else "")
        needed = (
            f"{len(self.strides)} maps [{channels}, H / s, W / s] ({parts}) for the strides "
            f"{', '.join(map(str, self.strides))}, the largest map first"
        )
        found = [tuple(shape) for shape in shapes.values()]
        fits = len(found) == len(self.strides) and all(len(shape) == 3 and shape[0] == channels for shape in found)  # noqa: PLR2004
        return [] if fits and self._sizes_fit(found) else kit.misfit(shapes, needed)

    def check_input(self, shapes: Mapping[str, Sequence[int]], inputs: Mapping[str, Sequence[int]]) -> list[str]:
        """Return what does not fit between the maps and the image that they are of, in words."""
        image = next((shape for shape in inputs.values() if len(shape) == kit.IMAGE_AXES), None)
        maps = [tuple(shape[1:]) for shape in shapes.values()]
        if image is None or all(
            abs(side * stride - whole) < stride
            for of_map, stride in zip(maps, self.strides)
            for side, whole in zip(of_map, image[1:])
        ):
            return []
        strides = [round(image[1] / of_map[0]) for of_map in maps]
        return [f"maps of {maps} for an image of {tuple(image[1:])} have strides of {strides}, not {[*self.strides]}"]

    def _sizes_fit(self, shapes: Sequence[tuple[int, ...]]) -> bool:
        """Say whether each map times its stride is the first one's image, to within one cell."""
        sides = [[side * stride for side in shape[1:]] for shape, stride in zip(shapes, self.strides)]
        pairs = zip(sides, self.strides)
        return all(abs(side - first) < stride for of_map, stride in pairs for side, first in zip(of_map, sides[0]))

    def collate(self, targets: Sequence[Array]) -> list[Tensor]:
        """Return the boxes [N, 5] of each sample as tensors."""
        import torch

        return [torch.as_tensor(np.asarray(each, dtype=np.float32)).reshape(-1, 5) for each in targets]

    def loss(self, outputs: Any, targets: Sequence[Tensor]) -> Tensor:
        """Return quality focal loss of classes plus generalised IoU of boxes (`detection_loss.py`)."""
        from .detection_loss import detection_loss

        return detection_loss(kit.tensors_of(outputs), targets, self)

    def distance(self, student: Any, teacher: Any, temperature: float) -> Tensor:  # noqa: ARG002 - nothing is softened
        """Return how far a student's maps are from its teacher's, most where the teacher sees an object."""
        from .detection_loss import detection_distance

        return detection_distance(kit.tensors_of(student), kit.tensors_of(teacher), self)

    def augment(
        self, inputs: Mapping[str, Tensor], targets: Sequence[Array], settings: Mapping[str, Any], generator: Generator
    ) -> tuple[dict[str, Tensor], list[Any]]:
        """Return changed images and their moved boxes; a box that is mostly out of the image goes (`augmenting.py`)."""
        from .augmenting import augment_images

        return augment_images(inputs, targets, settings, generator, moved_boxes)

    def show(self, prediction: Array, raw: object = None, classes: Sequence[str] = ()) -> str:  # noqa: ARG002 - as all kits
        """Return one line for each box: class, score and edges."""
        names = classes or self.classes
        lines = [f"{names[int(row[5])]} {row[4]:.2f} ({', '.join(f'{e:.0f}' for e in row[:4])})" for row in prediction]
        return "\n".join(lines) or "nothing found"

    def draw(self, prediction: Array, image_HWC: Array) -> Array:
        """Return the image uint8 [H, W, 3] with its boxes, the best on top."""
        image = drawing.coloured(image_HWC)
        for row in np.asarray(prediction)[::-1]:
            drawing.draw_box(image, row[:4], drawing.class_colour(int(row[5])))
        return image


def moved_boxes(target: Array, move: Move) -> Array:
    """Return boxes [N, 5] after a move, cut at the edges of the image."""
    rows = np.asarray(target, dtype=np.float32).reshape(-1, 5).copy()
    if move.mirrored:
        rows[:, [0, 2]] = move.width - rows[:, [2, 0]]
    if move.upside_down:
        rows[:, [1, 3]] = move.height - rows[:, [3, 1]]
    rows[:, :4] += np.array([move.right, move.down] * 2, dtype=np.float32)
    area = np.prod(rows[:, 2:4] - rows[:, :2], axis=1)
    rows[:, :4] = np.clip(rows[:, :4], 0, np.array([move.width, move.height] * 2, dtype=np.float32))
    left = np.prod(rows[:, 2:4] - rows[:, :2], axis=1)
    return np.asarray(rows[(left >= VISIBLE_AT_LEAST * area) & (left > 0)])


def _misplaced(boxes_N4: Array) -> Problem | None:
    turned = (boxes_N4[:, 2:] <= boxes_N4[:, :2]).any(axis=1)
    if turned.any():
        text = "x1 < x2 and y1 < y2 are needed: rows are edges (x1, y1, x2, y2), not a corner with width and height"
        return f"box {boxes_N4[turned][0].tolist()}", text
    beyond = (boxes_N4 < -1).any(axis=1)
    if beyond.any():
        return f"box {boxes_N4[beyond][0].tolist()}", "boxes begin inside the image: cut them at its edges"
    return None


def _sigmoid(values: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-np.clip(values, -60, 60))))


def _positive(values: Array, how: str) -> Array:
    """Return the distances that outputs stand for; none is negative."""
    if how == "linear":
        return np.maximum(values, 0)
    return np.asarray(np.logaddexp(0, values) if how == "softplus" else np.exp(np.minimum(values, 20)))
