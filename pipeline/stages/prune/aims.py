"""How a recipe says down to what a network is pruned, and what a latency among these asks of the rest of the stage."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Protocol, get_args

from pydantic import Field, model_validator

from pipeline.core.artifact import FrozenModel
from pipeline.core.units import PartOrDuration, Ratio
from pipeline.pricing.aim import LatencyAim, Move
from pipeline.pricing.shipped import aim_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pipeline.compress.pruning.selection import CostName
    from pipeline.core.file_precision import FilePrecision
    from pipeline.network.training_config import PruneSchedule

#: What is searched where a recipe does not say: all that any network may have and that any training can follow.
USUAL_MOVES: tuple[Move, ...] = ("channels", "blocks")
Moves = Annotated[tuple[Move, ...], Field(min_length=1)]
#: The allocation of a latency: others spread a loss without a look at what it buys.
PRICED = "knapsack"
#: Those others that a latency can be reached with, by widths alone: to compare with.
SPREAD = ("uniform", "global", "isomorphic")


class CostTarget(FrozenModel):
    """A cost to prune down to: a fraction of that of the given network, met within 1 %, or a latency."""

    macs: Ratio | None = Field(default=None, description="Multiply-accumulates of one image.")
    parameters: Ratio | None = Field(default=None, description="Number of parameters.")
    size: Ratio | None = Field(default=None, description="Bytes of all tensors.")
    latency: PartOrDuration | None = Field(
        default=None,
        exclude_if=lambda given: given is None,  # so that configurations without it are those that they were
        description="Time of the file that ships, on the recipe's target: 0.35x of the time of the unpruned network's "
        "file in the same precision, or a time such as 2.5ms.",
    )

    @model_validator(mode="after")
    def _one(self) -> CostTarget:
        given = len(self.model_dump(exclude_none=True))
        if given != 1:
            raise ValueError(f"found {given} costs, allowed: one of macs, parameters, size, latency")
        return self

    def pair(self) -> tuple[CostName, float] | None:
        """Return which cost, and the fraction of it; None for a latency."""
        found: dict[CostName, float | None] = {"macs": self.macs, "parameters": self.parameters, "size": self.size}
        return next(((name, fraction) for name, fraction in found.items() if fraction), None)


class Asked(Protocol):
    """What of a `prune` stage has to do with a latency as its target."""

    @property
    def target(self) -> CostTarget | None: ...  # noqa: D102
    @property
    def moves(self) -> tuple[Move, ...] | None: ...  # noqa: D102
    @property
    def precision(self) -> str | None: ...  # noqa: D102
    @property
    def granularity(self) -> str: ...  # noqa: D102
    @property
    def allocation(self) -> str: ...  # noqa: D102
    @property
    def candidates(self) -> int: ...  # noqa: D102
    @property
    def schedule(self) -> PruneSchedule | None: ...  # noqa: D102


def usual_moves(stage: Asked) -> tuple[Move, ...]:
    """Return the moves that are searched where the recipe names none: what schedule and allocation can follow."""
    follows = stage.schedule is None or stage.schedule.method == "iterative"
    return USUAL_MOVES if follows and stage.allocation not in SPREAD else ("channels",)


def latency_aim(stage: Asked, file: FilePrecision) -> LatencyAim:
    """Return the aim of a stage that has a latency as target."""
    asked = stage.target.latency if stage.target else None
    if asked is None:
        raise ValueError("found no target.latency")
    wanted = stage.moves or usual_moves(stage)
    return aim_of(asked, file, tuple(each for each in get_args(Move) if each in wanted))


def latency_conflicts(stage: Asked) -> Iterator[str]:
    """Yield what does not go together with a latency as target, or without one."""
    if stage.target is None or stage.target.latency is None:
        for key in ("moves", "precision"):
            if getattr(stage, key) is not None:
                yield f"found {key}, allowed: {key} with target: {{latency: ...}}"
        if stage.allocation == PRICED and (stage.target is None or stage.candidates):
            found = " with candidates" if stage.target else ""
            yield f"found allocation {PRICED}{found}, allowed: {PRICED} with target, without candidates"
        return
    if stage.granularity != "channels":
        yield f"found granularity {stage.granularity} with target.latency: say moves: [{stage.granularity}] instead"
    if stage.allocation not in {PRICED, *SPREAD}:
        yield f"found allocation {stage.allocation} with target.latency, allowed: {', '.join((PRICED, *SPREAD))}"
    if stage.candidates:
        yield "found candidates with target.latency, allowed: candidates with ratio or another target"
    for move in ("blocks", "resolution") if usual_moves(stage) != USUAL_MOVES else ():
        if move in (stage.moves or ()):
            yield f"found moves with {move} and {_of_widths_alone(stage, move)}"


def _of_widths_alone(stage: Asked, move: str) -> str:
    """Say which setting follows widths alone, and with what another move is allowed."""
    if stage.allocation in SPREAD:
        return f"allocation {stage.allocation}, allowed: {move} with {PRICED}"
    method = stage.schedule.method if stage.schedule else ""
    return f"schedule {method}, allowed: {move} without schedule or with iterative"
