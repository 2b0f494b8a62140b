"""How a recipe says that a network is trained while its weights become zero."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field, field_validator

from pipeline.network.training_config import MOST, TrainingConfig

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pipeline.stages.sparsify import Sparsify

#: What each method has of a schedule beside the training itself.
_OWN: dict[str, frozenset[str]] = {
    "magnitude": frozenset({"ramp", "update"}),
    "random": frozenset({"ramp", "update"}),
    "movement": frozenset({"ramp", "update"}),
    "rigl": frozenset({"ramp", "update", "exchange"}),
    "dns": frozenset({"ramp", "gamma", "power"}),
}
#: Methods that need a training.
TRAINED = ("dns", "rigl", "movement")


class SparsifySchedule(TrainingConfig):
    """Training while weights become zero, and with the masks as they are at the end."""

    ramp: Annotated[float, Field(gt=0, le=1)] = Field(
        default=0.8,
        description="Share of the steps in which masks move: down to the density by a cubic ramp (magnitude, random, "
        "movement; Zhu and Gupta 2017), by surgery (dns), by exchange (rigl). Then they stay.",
    )
    update: Annotated[int, Field(ge=1, le=1_000_000)] = Field(
        default=100, description="Steps between two moves of the masks; of dns each step may be one."
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


def schedule_conflicts(stage: Sparsify) -> Iterator[str]:
    """Yield what of a stage's configuration does not go together with its method."""
    if stage.schedule is None:
        if stage.method in TRAINED:
            yield f"found method {stage.method} without schedule, which trains while it chooses: add schedule"
        return
    own = _OWN[stage.method]
    others = sorted(stage.schedule.model_fields_set & frozenset().union(*_OWN.values()) - own)
    if others:
        yield f"found schedule.{others[0]} with method {stage.method}, which has no such setting: remove it"
    if stage.pattern is not None and (stage.density is None or stage.method in {"dns", "rigl"}):
        found = f"found pattern {stage.pattern} with method {stage.method} and schedule"
        yield f"{found}, allowed: no pattern, or no schedule and a finetune stage after this one"
    if stage.method == "dns" and stage.scope != "layer":
        yield f"found scope {stage.scope} with method dns, whose thresholds divide the density: remove scope"
