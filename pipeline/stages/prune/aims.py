"""How a recipe says down to what a network is pruned, and what a latency among these asks of the rest of the stage."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Protocol, get_args

from pydantic import Field, model_validator

from pipeline.compress.quantization.names import DEFAULT_ENGINE
from pipeline.core.artifact import FrozenModel
from pipeline.core.cpu import cpu_flags
from pipeline.core.file_precision import FLOAT, FilePrecision
from pipeline.core.units import Factor, PartOrDuration, Ratio, factor_or_duration_text
from pipeline.precision.targets import resolved_scheme
from pipeline.pricing.aim import LatencyAim, Move

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pipeline.compress.pruning.selection import CostName
    from pipeline.core.stage import Stage, Target
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


def shipped(stages: Sequence[Stage]) -> tuple[FilePrecision, str]:
    """Return the precision of the last file of resolved stages, and the kind of stage that gives it; "" for none."""
    made = [(found, stage.kind) for stage in stages if (found := stage.ships())]
    return made[-1] if made else (FilePrecision(), "")


def priced(precision: str | None, stages: Sequence[Stage]) -> FilePrecision:
    """Return what kind of file is timed: of the precision that was asked for, else as the later stages make it."""
    found, _ = shipped(stages)
    if precision in {None, found.precision}:
        return found
    if precision == FLOAT:
        return FilePrecision()
    scheme = resolved_scheme("auto", cpu_flags()) if precision == "int8" else ""
    return FilePrecision(precision=str(precision), engine=DEFAULT_ENGINE, scheme=scheme)


def latency_aim(stage: Asked, file: FilePrecision) -> LatencyAim:
    """Return the aim of a stage that has a latency as target."""
    asked = stage.target.latency if stage.target else None
    if asked is None:
        raise ValueError("found no target.latency")
    factor, milliseconds = (float(asked), None) if isinstance(asked, Factor) else (None, asked * 1000)
    wanted = stage.moves or usual_moves(stage)
    return LatencyAim(factor, milliseconds, file, tuple(each for each in get_args(Move) if each in wanted))


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


def pricing_note(stage: Asked, file: FilePrecision, target: Target) -> str:
    """Say in one line what is timed, and down to what."""
    asked = stage.target.latency if stage.target else None
    text = "" if asked is None else factor_or_duration_text(asked)
    where = f"{target.runtime} on {target.device}, {target.threads} thread{'s' if target.threads > 1 else ''}"
    batch = f", batch {target.batch}" if target.batch > 1 else ""
    down_to = f"{text} of the unpruned file" if isinstance(asked, Factor) else f"at most {text}"
    chosen = "" if file.certain else "; quantize chooses the precision by time, so the final file is checked again"
    return f"priced as {file} in {where}{batch}; {down_to}{chosen}"


def other_precision(precision: str | None, stages: Sequence[Stage]) -> str:
    """Say that what ships has another precision than the one that is priced; empty where it has that one."""
    found, kind = shipped(stages)
    if precision in {None, found.precision}:
        return ""
    makes = f"the {kind} stage after it makes {found.precision}" if kind else "no stage after it quantizes"
    return f"priced in {precision}, but {makes}: the file that ships has another time; remove precision to price that"
