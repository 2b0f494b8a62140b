"""How a recipe says that a network is trained: shared by every stage that trains."""

from __future__ import annotations

from operator import not_
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field, model_validator

from pipeline.compress.names import OptimizerName, RateSchedule, ScheduleShape
from pipeline.core.artifact import FrozenModel
from pipeline.core.paths import ExistingFile, ExistingPath
from pipeline.core.units import Ratio

if TYPE_CHECKING:
    from pathlib import Path


#: Rates and factors are multiplied in single precision, which ends at 3.4e38.
MOST = 1e30
_WARMUP = 1.0
_HINT = 1.0


def _is_none(given: object) -> bool:
    return given is None


def _is_usual(given: float) -> bool:
    return given == _HINT


class Augment(FrozenModel):
    """Random changes of the training samples; none by default. Targets move along: boxes, masks, points, labels."""

    flip_horizontal: bool = Field(default=False, description="Mirror half of the images left to right.")
    flip_vertical: bool = Field(default=False, description="Mirror half of the images top to bottom.")
    rotate_90: bool = Field(default=False, description="Rotate half of the images by 90 degrees.")
    shift: Annotated[int, Field(ge=0)] = Field(default=0, description="Largest translation in pixels, zero filled.")
    brightness: Annotated[float, Field(ge=0, le=2)] = Field(
        default=0.0, description="Largest offset of an image, in units of the normalised pixel values."
    )
    contrast: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.0, description="Largest relative change of an image's contrast."
    )
    erase: Annotated[float, Field(ge=0, le=1)] = Field(
        default=0.0, description="Probability of random erasing (Zhong et al. 2017) for each image."
    )
    mixup: Annotated[float, Field(ge=0, le=4)] = Field(
        default=0.0, description="Alpha of mixup (Zhang et al. 2018); 0 for none."
    )
    # Without the following, configurations are those that they were before there were series.
    noise: Annotated[float, Field(ge=0, le=100)] = Field(
        default=0.0, description="Deviation of noise, in units of the input.", exclude_if=not_
    )
    time_shift: Annotated[int, Field(ge=0)] = Field(
        default=0, description="Largest shift of a series, in steps, zero filled.", exclude_if=not_
    )
    time_mask: Annotated[float, Field(ge=0, le=1)] = Field(
        default=0.0, description="Largest share of a series that is set to zero.", exclude_if=not_
    )
    gain: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.0, description="Largest relative change of the size of a series.", exclude_if=not_
    )


class Teacher(FrozenModel):
    """Another network as teacher, given in the same way as the recipe's model."""

    definition: ExistingFile = Field(description="Python file that exposes build(**arguments), relative to the recipe.")
    weights: ExistingFile = Field(
        description="Weights (.safetensors, or .pt/.pth of plain tensors), relative to the recipe."
    )
    arguments: dict[str, int | float | bool | str] = Field(default={}, description="Arguments of build().")
    channels: Literal[1, 3] = Field(default=3, description="Input channels of the teacher.")
    size: Annotated[int, Field(ge=0, le=65_536)] = Field(
        default=0,
        description="Input size of the teacher in pixels; 0 for that of the student, or of the network that the recipe "
        "starts from where `prune` has chosen a smaller one.",
    )
    inputs: tuple[ExistingPath, ...] = Field(
        default=(),
        exclude_if=lambda given: not given,  # so that configurations without it are those that they were
        description="Files and folders that build reads or imports from.",
    )


LayerName = Annotated[str, Field(min_length=1)]
#: Layers by name, or those that are chosen.
Layers = Literal["auto"] | Annotated[tuple[LayerName, ...], Field(min_length=1)]


class Distill(FrozenModel):
    """Learn from a teacher's logits: (1 - alpha) * cross-entropy + alpha * T^2 * KL; with more, from its layers too."""

    source: Literal["original"] | Teacher = Field(
        default="original",
        alias="from",
        description="The teacher: `original` is the network that the recipe starts from.",
    )
    temperature: Annotated[float, Field(gt=0, le=20)] = Field(default=4.0, description="Softens both distributions.")
    alpha: Annotated[float, Field(gt=0, le=1)] = Field(default=0.9, description="Share of the teacher's term.")
    # Configurations without these are those that they were before layers were compared.
    features: Layers | None = Field(
        default=None,
        exclude_if=_is_none,
        description="Layers whose feature maps are compared with those of the original's channels that `prune` has "
        "kept (mean squared error over the mean square of the original's); `auto` takes the last layer at each size of "
        "maps, such as the end of each stage of a residual network.",
    )
    feature_weight: Annotated[float, Field(gt=0, le=MOST)] = Field(
        default=_HINT, exclude_if=_is_usual, description="Factor of the term of `features` in the loss."
    )
    attention: Layers | None = Field(
        default=None,
        exclude_if=_is_none,
        description="Layers whose attention maps are compared (Zagoruyko and Komodakis 2017): where activations are "
        "large, whatever the number of channels; `auto` as in `features`.",
    )
    attention_weight: Annotated[float, Field(gt=0, le=MOST)] = Field(
        default=_HINT, exclude_if=_is_usual, description="Factor of the term of `attention` in the loss."
    )

    @model_validator(mode="after")
    def _layers_fit_the_teacher(self) -> Self:
        for key in ("features", "attention"):
            if getattr(self, key) is None and getattr(self, f"{key.removesuffix('s')}_weight") != _HINT:
                raise ValueError(f"found {key.removesuffix('s')}_weight without {key}, allowed: with {key}")
        if isinstance(self.source, Teacher):
            if self.features is not None:
                raise ValueError(
                    "found features with a teacher of its own definition, allowed: with from: original, whose channels "
                    "the network has; use attention, which needs no match"
                )
            if self.attention == "auto":
                raise ValueError(
                    "found attention: auto with a teacher of its own definition, allowed: names of layers that both "
                    "networks have"
                )
        return self


class Regularise(FrozenModel):
    """Make channels small while training, so that a `prune` stage after this one loses little.

    Use SGD: AdamW divides the penalty's gradient by its own size, so that `strength` has little effect.
    """

    method: Literal["group_lasso", "group_norm", "bn_scale", "growing_l2"] = Field(
        description="What is penalised: the norm of everything that is removed with a channel (group_lasso, Wen et al. "
        "2016), its square (group_norm, as DepGraph by Fang et al. 2023), the scales of batch norms (bn_scale, network "
        "slimming by Liu et al. 2017), or only chosen channels, by a growing weight decay (growing_l2, GReg-1 by Wang "
        "et al. 2021)."
    )
    strength: Annotated[float, Field(gt=0, le=MOST)] = Field(
        default=1e-4, description="Factor of the penalty; for growing_l2, the amount by which its weight decay rises."
    )
    alpha: Annotated[float, Field(ge=0, le=16)] = Field(
        default=4.0,
        description="group_lasso and group_norm: the weakest channel of a group is pushed 2^alpha times as hard as the "
        "strongest; 0 treats all alike.",
    )
    ratio: Ratio = Field(
        default=0.5,
        description="growing_l2: fraction of every group that is pushed: the channels with the smallest norms.",
    )
    align: Annotated[int, Field(ge=1, le=65_536)] = Field(
        default=8,
        description="growing_l2: same as in the `prune` stage that follows, so that it removes what was pushed.",
    )
    every: Annotated[int, Field(ge=1)] = Field(
        default=10, description="growing_l2: steps after which the weight decay rises again."
    )
    ceiling: Annotated[float, Field(gt=0, le=MOST)] = Field(
        default=1.0, description="growing_l2: largest weight decay."
    )


class TrainingConfig(FrozenModel):
    """The schedule of a training. The weights that do best on the validation split are kept."""

    epochs: Annotated[int, Field(ge=0, le=10_000)] = Field(
        description="Passes over the training images; 0 only renews batch-norm statistics."
    )
    batch: Annotated[int, Field(ge=1, le=1_000_000)] = Field(default=64, description="Images per step.")
    optimizer: OptimizerName = Field(default="adamw", description="AdamW, or SGD with Nesterov momentum.")
    learning_rate: Annotated[float, Field(gt=0, le=MOST)] = Field(
        default=5e-4, description="Peak rate; what it does over the training says `schedule`."
    )
    # Configurations without these two are those that they were before there was a choice.
    schedule: RateSchedule = Field(
        default="cosine",
        exclude_if=lambda given: given == "cosine",
        description="Linear warm-up, then a cosine to zero (cosine) or the same rate throughout (constant); up and "
        "down by cosine without warm-up (one_cycle, Smith and Topin 2018); or the last part of the training that made "
        "the network once more, without warm-up (rewind, Renda et al. 2020), with its peak as `learning_rate`.",
    )
    from_fraction: Annotated[float, Field(ge=0, lt=1)] | None = Field(
        default=None,
        exclude_if=lambda given: given is None,
        description="With `schedule: rewind`: the share of the first training that is not repeated; absent 0.5. What "
        "`epochs` repeat is the rest: of 20 epochs 10 with 0.5.",
    )
    weight_decay: Annotated[float, Field(ge=0, le=MOST)] = Field(
        default=0.02, description="Applied to weights with two or more dimensions, not to biases and norms."
    )
    momentum: Annotated[float, Field(ge=0, lt=1)] = Field(default=0.9, description="Of SGD.")
    warmup: Annotated[float, Field(ge=0, le=10_000)] = Field(
        default=_WARMUP, description="Epochs of linear warm-up, with `schedule` cosine or constant."
    )
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.0, description="Probability that is spread evenly over all classes."
    )
    ema: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.0,
        description="Decay of a moving average of the weights, which is then evaluated and kept; 0 for none.",
    )
    recalibrate: Annotated[int, Field(ge=0)] = Field(
        default=0,
        description="Training images that renew batch-norm statistics before each evaluation; 0 for none. It helps "
        "after pruning and with `ema`, when running averages lag behind the weights.",
    )
    augment: Augment = Field(default=Augment(), description="Random changes of the training images.")
    distill: Distill | None = Field(default=None, description="Learn from a teacher as well as from labels.")

    @model_validator(mode="after")
    def _schedule_has_its_own(self) -> Self:
        if self.from_fraction is not None and self.schedule != "rewind":
            raise ValueError(f"found from_fraction with schedule {self.schedule}, allowed: with schedule rewind")
        if self.schedule in {"rewind", "one_cycle"} and self.warmup not in {0.0, _WARMUP}:
            raise ValueError(
                f"found warmup {self.warmup:g} with schedule {self.schedule}, which has none, allowed: no warmup, or "
                "schedule cosine or constant"
            )
        return self

    @property
    def rewound(self) -> float:
        """The share of the first training's curve that lies behind the one that is run."""
        return (0.5 if self.from_fraction is None else self.from_fraction) if self.schedule == "rewind" else 0.0

    def teacher_files(self) -> tuple[Path, ...]:
        """Return the files and folders of a teacher that is not the original: they count in cache keys by content."""
        if self.distill is None or not isinstance(self.distill.source, Teacher):
            return ()
        teacher = self.distill.source
        return teacher.definition, teacher.weights, *teacher.inputs


class PruneSchedule(TrainingConfig):
    """Training between removals or during them, instead of removing all channels at once.

    With iterative and soft, a cost target is met as closely as the widths of the last step allow.
    """

    method: Literal["iterative", "layerwise", "soft"] = Field(
        default="iterative",
        description="iterative: `steps` removals, with `epochs` of training after each. layerwise: the channels are "
        "chosen once, then removed group by group in forward order, with `epochs` of training after each group (HRank, "
        "Lin et al. 2020). soft: `epochs` in total; after each, the lowest filters are set to zero but continue to be "
        "trained, and are removed at the end (SFP, He et al. 2018).",
    )
    steps: Annotated[int, Field(ge=1, le=1000)] = Field(default=3, description="Removals of `iterative`.")
    shape: ScheduleShape = Field(
        default="geometric",
        description="iterative: each step removes the same fraction of what is left (geometric), or the same amount "
        "(linear).",
    )
