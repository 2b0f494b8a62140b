"""What a recipe says about its task: one frozen class for each kind, told apart by `kind`."""

from __future__ import annotations

from operator import not_
from typing import Annotated, Any, Literal

from pydantic import Field

from pipeline.core.artifact import FrozenModel
from pipeline.core.paths import ExistingFile, ExistingPath

Argument = str | int | float | bool | None
Share = Annotated[float, Field(ge=0, le=1)]
Metric = Annotated[
    str | None, Field(description="The metric that is judged, instead of the kind's first.", min_length=1)
]
Output = Annotated[int, Field(ge=0, description="Which of the network's outputs, the first being 0.")]


class AnyTask(FrozenModel):
    """What every kind has: sizes beside the batch that exported files leave open."""

    dynamic: dict[str, dict[str, Annotated[int, Field(ge=1)]]] = Field(
        default={},
        exclude_if=not_,  # so that recipes without it are those that they were
        description="Sizes that exported files leave open, by name: the axis of each input that has it, the batch "
        "being 0, such as {length: {tokens: 1, mask: 1}}.",
    )
    timed: tuple[dict[str, Annotated[int, Field(ge=1)]], ...] = Field(
        default=(),
        exclude_if=not_,
        description="The open sizes at which files are timed and exports are tried, the first for headlines, such as "
        "[{length: 32}, {length: 128}]; absent: those of the samples.",
    )


class ClassificationTask(AnyTask):
    """One class of several for each sample, an image or a series: the network gives a logit for each class."""

    kind: Literal["classification"]
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.0,
        exclude_if=not_,
        description="Share of each target spread over all classes in training; for images `finetune` has it.",
    )


class MultilabelTask(AnyTask):
    """Any number of classes for each sample: a logit for each class [K]; targets [K] of 0 and 1. Judged by mAP."""

    kind: Literal["multilabel"]
    threshold: Share = Field(default=0.5, description="Probability from which on a class is named.")
    output: Output = 0
    metric: Metric = None


class SegmentationTask(AnyTask):
    """A class for each pixel: logits [K, H, W]; targets are maps [H, W] of class numbers. Judged by mIoU."""

    kind: Literal["segmentation"]
    ignore_index: int | None = Field(default=255, description="Class number of pixels that do not count.")
    dice: Annotated[float, Field(ge=0, le=100)] = Field(
        default=0.0, description="Weight of the Dice loss beside cross-entropy."
    )
    output: Output = 0
    metric: Metric = None


class DetectionTask(AnyTask):
    """Boxes with a class: for each stride a map [4 + K, H, W] of distances to the four sides and of class logits.

    Targets are boxes [M, 5] (x1, y1, x2, y2, class) in pixels. Boxes are decoded outside the exported graph. Judged by
    mAP50-95.
    """

    kind: Literal["detection"]
    strides: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        default=(8, 16, 32), min_length=1, description="Pixels between places of each output, in the outputs' order."
    )
    distances: Literal["softplus", "exp", "linear"] = Field(
        default="softplus", description="What makes distances, in strides, of the first four channels."
    )
    objectness: bool = Field(default=False, description="Whether a further channel says that there is an object.")
    score_threshold: Share = Field(default=0.05, description="Boxes below this score are left out.")
    iou_threshold: Share = Field(default=0.6, description="Overlap from which on the weaker box of a class goes.")
    candidates: Annotated[int, Field(ge=1)] = Field(
        default=300, exclude_if=(300).__eq__, description="Best boxes of each class whose overlaps are looked at."
    )
    detections: Annotated[int, Field(ge=1)] = Field(default=100, description="Boxes of an image at most.")
    reach: Annotated[float, Field(gt=0, le=1024)] = Field(
        default=4.0,
        exclude_if=(4.0).__eq__,
        description="In training boxes up to 2 * reach * stride long belong to that stride, longer ones to the next.",
    )
    metric: Metric = None


class RegressionTask(AnyTask):
    """Numbers: a vector, keypoints, or a dense map such as depth or an image of higher resolution."""

    kind: Literal["regression"]
    layout: Literal["vector", "keypoints", "dense"] = Field(
        default="vector", description="What targets are: [D], points [P, 2] (x, y) in pixels, or maps [C, H, W]."
    )
    loss: Literal["l1", "l2", "smooth_l1", "charbonnier"] = Field(default="l2", description="What training minimises.")
    unit: str = Field(default="units", min_length=1, description="Unit of the numbers, such as px or m.")
    peak: Annotated[float, Field(gt=0)] = Field(default=1.0, description="Largest value of an image, for PSNR.")
    swap: tuple[tuple[int, int], ...] = Field(
        default=(), description="Pairs of keypoints that change places in a mirror, as left and right eye."
    )
    output: Output = 0
    metric: Metric = None


class TokenTask(AnyTask):
    """A label for each position [T, K], or by CTC a sequence of labels that is shorter."""

    kind: Literal["token"]
    decoding: Literal["labels", "ctc"] = Field(default="labels", description="How logits become labels.")
    classes_first: bool = Field(default=False, description="Whether logits are [K, T] instead of [T, K].")
    ignore_index: int = Field(default=-100, description="Label of positions that do not count.")
    blank: Annotated[int, Field(ge=0)] = Field(default=0, description="With ctc: the class that stands for none.")
    output: Output = 0
    metric: Metric = None


class EmbeddingTask(AnyTask):
    """A vector for each sample [D]; targets are the vectors to be near, such as a larger network's."""

    kind: Literal["embedding"]
    loss: Literal["cosine", "mse"] = Field(default="cosine", description="What training minimises.")
    recall_at: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        default=(1, 10), description="Numbers of neighbours among which the right one is looked for."
    )
    output: Output = 0
    metric: Metric = None


class TaskFile(AnyTask):
    """Your own Python file, with a function `task(**arguments)` that returns what docs/tasks.md describes."""

    kind: Literal["file"]
    path: ExistingFile = Field(description="The Python file.")
    arguments: dict[str, Argument] = Field(default={}, description="Keyword arguments of task.")
    inputs: tuple[ExistingPath, ...] = Field(
        default=(),
        description="Files and folders that task reads: when their content changes, finished stages are made again.",
    )


KitTask = (
    ClassificationTask | MultilabelTask | SegmentationTask | DetectionTask | RegressionTask | TokenTask | EmbeddingTask
)
TaskConfig = Annotated[KitTask | TaskFile, Field(discriminator="kind")]


def task_settings(config: TaskConfig) -> dict[str, Any]:
    """Return what tells two tasks apart; a file is told apart by its content, see `pipeline.data.task_identity`.

    At which sizes files are timed matters to what measures alone.
    """
    return config.model_dump(mode="json", exclude={"path", "inputs", "timed"})
