"""How a recipe says which weights become zero, and how a network is trained meanwhile."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from pipeline.compress.sparsity.names import SparsityMethod, SparsityScope
from pipeline.core.artifact import FrozenModel
from pipeline.core.units import Ratio
from pipeline.network.training_config import MOST, TrainingConfig
from pipeline.stages.sparsify.pattern import N_OF_M, pattern_fault

if TYPE_CHECKING:
    from collections.abc import Iterator

#: What each method has of a schedule beside the training itself.
_OWN: dict[str, frozenset[str]] = {
    "magnitude": frozenset({"shape", "ramp", "update"}),
    "random": frozenset({"ramp", "update"}),
    "movement": frozenset({"ramp", "update"}),
    "rigl": frozenset({"ramp", "update", "exchange"}),
    "dns": frozenset({"ramp", "update", "gamma", "power"}),
}
#: Methods that do not know every pattern: what they allow, and whether N:M is among it.
_PATTERNS = {"obs": ("N:M, or none", True), "block_fisher": ("none, or method obs for N:M", False)}
_ROUNDS = frozenset({"shape", "rounds", "l1", "tolerance"})
#: Methods that need a training.
TRAINED = ("dns", "rigl", "movement")


class SparsifySchedule(TrainingConfig):
    """Training while weights become zero, and with the masks as they are at the end."""

    shape: Literal["agp", "rounds"] = Field(
        default="agp",
        description="magnitude: a few weights at a time, by a cubic ramp (agp, Zhu and Gupta 2017), or `rounds` times "
        "a cut, with `epochs` of training after each (rounds, Han et al. 2015): a scan of one layer after the other "
        "tells how much each bears, and dropout shrinks with the connections.",
    )
    rounds: Annotated[int, Field(ge=1, le=1000)] = Field(default=3, description="rounds: cuts, each with a training.")
    l1: Annotated[float, Field(ge=0, le=MOST)] = Field(
        default=0.0, description="rounds: factor of an L1 penalty on the weights; L2 is `weight_decay`."
    )
    tolerance: Ratio = Field(
        default=0.01,
        description="rounds: share of the score on validation images that cutting one layer alone may cost.",
    )
    ramp: Annotated[float, Field(gt=0, le=1)] = Field(
        default=0.8,
        description="Share of the steps in which masks move: down to the density by a cubic ramp (magnitude, random, "
        "movement, dns; Zhu and Gupta 2017), by exchange (rigl). Then they stay.",
    )
    update: Annotated[int, Field(ge=1, le=1_000_000)] = Field(
        default=100,
        description="Steps between two moves of the masks; of dns, of its thresholds: masks may move at any.",
    )
    exchange: Annotated[float, Field(gt=0, lt=1)] = Field(
        default=0.3,
        description="rigl: fraction of each layer's live weights that change places in the first exchange; it falls "
        "to zero by a cosine.",
    )
    gamma: Annotated[float, Field(ge=0, le=MOST)] = Field(
        default=1e-4, description="dns: masks are updated at step n with probability (1 + gamma * n)^-power."
    )
    power: Annotated[float, Field(ge=0, le=100)] = Field(default=1.0, description="dns: the power in it.")

    @field_validator("epochs")
    @classmethod
    def _trains(cls, value: int) -> int:
        if value < 1:
            raise ValueError("found 0, allowed: 1 or more; to set weights to zero at once, leave schedule away")
        return value


class SparsifyConfig(FrozenModel):
    """Which weights become zero, how many, where, and whether the network is trained meanwhile."""

    method: SparsityMethod = Field(
        default="magnitude",
        description="Which weights become zero: the smallest (magnitude, Han et al. 2015), or any, by chance (random, "
        "the control). At once, by training images: those that change the loss least by its second derivatives (obd, "
        "LeCun et al. 1989); or those that the others can make up for, which change with them, by the outputs of each "
        "layer (obs, Hassibi and Stork 1992) or by the loss (block_fisher, Singh and Alistarh 2020). With a schedule "
        "alone: those below a threshold, from where they may come back (dns, Dynamic Network Surgery by Guo et al. "
        "2016); the smallest, in exchange for those with the largest gradients (rigl, "
        "Evci et al. 2020); those that training moves towards zero (movement, Sanh et al. 2020, for tuning to another "
        "task).",
    )
    density: Ratio | None = Field(
        default=None,
        description="Share of the weights that stays, such as 0.1 or 10%, of the layers that `keep` does not name. "
        "Absent for a pattern N:M, which gives N / M.",
    )
    scope: SparsityScope = Field(
        default="layer",
        description="How the density is divided: the same in every layer (layer), one ranking of all weights (global), "
        "or by Erdos-Renyi-Kernel, which leaves narrow layers more (erk, Evci et al. 2020).",
    )
    pattern: str | None = Field(
        default=None,
        description="Where zeros may lie: `2:4` keeps the two best of every four input channels, for each output "
        "channel and position of the kernel; `1x4` keeps or cuts four output channels together. Absent: anywhere.",
    )
    keep: tuple[str, ...] = Field(
        default=(),
        description="Layers that stay dense, by qualified name; patterns such as layer4.* are allowed.",
    )
    dead: Literal["fold", "keep"] = Field(
        default="fold",
        description="What becomes of channels that are left without inputs or that nothing reads any more. Their "
        "weights and biases become zero, after the constants that they compute went into the biases behind them where "
        "that is exact; the outputs of the network stay as they were (fold). Or they stay as they are (keep).",
    )
    schedule: SparsifySchedule | None = Field(
        default=None, description="Train while weights become zero. Absent: all at once, without training."
    )
    images: Annotated[int, Field(ge=1)] = Field(
        default=500, description="Training images for methods that look at data, drawn with the run's seed."
    )
    batch: Annotated[int, Field(ge=1)] = Field(default=64, description="Images in one pass; this affects only memory.")

    @field_validator("pattern")
    @classmethod
    def _can_be_read(cls, value: str | None) -> str | None:
        if value is not None and (fault := pattern_fault(value)):
            raise ValueError(fault)
        return value

    @model_validator(mode="after")
    def _one_density(self) -> Self:
        fixed = self.pattern is not None and N_OF_M.match(self.pattern) is not None
        if fixed and (self.density is not None or self.scope != "layer"):
            given = "density" if self.density is not None else f"scope {self.scope}"
            raise ValueError(f"found {given} with pattern {self.pattern}, which is the same in every layer: remove it")
        if not fixed and self.density is None:
            raise ValueError("found no density, required: the share of the weights that stays, such as 0.1")
        return self

    @model_validator(mode="after")
    def _goes_with_the_method(self) -> Self:
        if found := next(schedule_conflicts(self), ""):
            raise ValueError(found)
        return self


def schedule_conflicts(stage: SparsifyConfig) -> Iterator[str]:
    """Yield what of a stage's configuration does not go together with its method."""
    if stage.pattern is not None and stage.method in _PATTERNS:
        allowed, runs = _PATTERNS[stage.method]
        if not (runs and N_OF_M.match(stage.pattern)):
            yield f"found pattern {stage.pattern} with method {stage.method}, allowed: {allowed}"
    if stage.schedule is not None and stage.method not in _OWN:
        yield f"found schedule with method {stage.method}, which works at once: put a finetune stage after this one"
        return
    if stage.schedule is None:
        if stage.method in TRAINED:
            yield f"found method {stage.method} without schedule, which trains while it chooses: add schedule"
        return
    rounds = stage.schedule.shape == "rounds"
    own = _ROUNDS if rounds and stage.method == "magnitude" else _OWN[stage.method]
    others = sorted(stage.schedule.model_fields_set & _ROUNDS.union(*_OWN.values()) - own)
    if others:
        shape = f" and shape {stage.schedule.shape}" if "shape" in own else ""
        yield f"found schedule.{others[0]} with method {stage.method}{shape}, which has no such setting: remove it"
    if rounds and (stage.scope != "layer" or stage.pattern is not None):
        found = f"scope {stage.scope}" if stage.scope != "layer" else f"pattern {stage.pattern}"
        yield f"found {found} with schedule.shape rounds, whose scan divides the density: remove it"
    if stage.pattern is not None and (stage.density is None or stage.method in {"dns", "rigl"}):
        found = f"found pattern {stage.pattern} with method {stage.method} and schedule"
        yield f"{found}, allowed: no pattern, or no schedule and a finetune stage after this one"
    if stage.method == "dns" and stage.scope != "layer":
        yield f"found scope {stage.scope} with method dns, whose thresholds divide the density: remove scope"
