"""Prune: remove whole channels, so that every runtime has less to compute.

Channels that must be removed together (residual sums, depthwise convolutions, the input side of the next layers) are
found on the exported graph; each class of them gets one score, and the lowest are removed. What cannot be removed
safely is not pruned, and is listed with the reason. The result is certified: it equals the original with the removed
channels zeroed.

Source: each criterion and allocation names its own; the default is the L2 norm of filters (Li et al. 2017). Of fifteen
comparisons of criteria in PruningBench (2024) the plain norms did best on average; in benchmarks/criteria.md this one
did best of all that need no data.

It does not help by itself: accuracy falls at once and comes back only in a `finetune` stage after this one, or in the
training of `schedule`. It buys little time where latency is bound by memory traffic or by few channels, and none when
widths miss the runtime's vector size, hence `align`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, PrivateAttr, SerializerFunctionWrapHandler, model_serializer, model_validator

from pipeline.compress.names import AllocationName, StatisticsRule
from pipeline.compress.pruning.importance.names import CriterionName, Normalisation
from pipeline.compress.quantization.names import OtherPrecision
from pipeline.core.artifact import Artifact, Form, FrozenModel
from pipeline.core.file_precision import FilePrecision
from pipeline.core.runtimes import DEFAULT_RUNTIME, RUNTIMES
from pipeline.core.stage import Context, Outcome, Remarks, Stage
from pipeline.core.units import Points, Ratio
from pipeline.network.training_config import PruneSchedule
from pipeline.pricing.shipped import other_precision, priced_file, pricing_note
from pipeline.stages.prune.aims import PRICED, CostTarget, Moves, latency_aim, latency_conflicts, usual_moves

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from torch import nn

    from pipeline.core.stage import Target
    from pipeline.pricing.aim import LatencyAim
    from pipeline.pricing.pricer import Pricer
    from pipeline.stages.prune.channels import PruneRequest, PruneTarget

#: Distributions that make a file of a network.
FILES = ("onnx", "onnxscript", RUNTIMES[DEFAULT_RUNTIME].package)
#: Fields that say which channels of a layer leave.
NOT_OF_BLOCKS = (
    *("criterion", "normalise", "allocation", "rates", "floor", "align", "constraints", "statistics", "candidates"),
    "schedule",
)


class Constraint(FrozenModel):
    """Limits for some groups that differ from the stage's own floor and align."""

    floor: Annotated[float, Field(ge=0, le=1)] | None = Field(
        default=None, description="Smallest fraction of its channels that a group keeps."
    )
    align: Annotated[int, Field(ge=1, le=65_536)] | None = Field(
        default=None, description="Kept widths are multiples of this."
    )
    max_ratio: Ratio | None = Field(default=None, description="Largest fraction of its channels that may be removed.")


class Prune(Stage):
    """Remove the least important channels of a torch network."""

    revision: ClassVar[int] = 7
    libraries: ClassVar[tuple[str, ...]] = ("torch",)
    takes: ClassVar[frozenset[Form]] = frozenset({"torch"})

    kind: Literal["prune"]
    criterion: CriterionName = Field(
        default="l2",
        description="How channels are scored. From weights: l1 and l2 of the filters, group_l2 of everything that is "
        "removed with a channel, fpgm (distance to the other filters), bn_scale. From images: hrank (rank of feature "
        "maps), chip, thinet (which also rescales the remaining channels), apoz, mean_activation. From gradients: "
        "taylor, taylor_gates, obd, group_fisher. By chance: random, the baseline.",
    )
    images: Annotated[int, Field(ge=1)] = Field(
        default=500,
        description="Training images for criteria that use images or gradients, drawn with the run's seed; as many "
        "validation images rate candidates and sensitivity.",
    )
    batch: Annotated[int, Field(ge=1)] = Field(default=64, description="Images in one pass; this affects only memory.")
    normalise: Normalisation | None = Field(
        default=None,
        description="What the scores of a group are divided by, so that groups can be compared: their mean, max or l2 "
        "norm; rank uses only their order; none leaves them unchanged. Absent: what suits the criterion.",
    )
    allocation: AllocationName = Field(
        default="global",
        description="How many channels each group loses: the same fraction everywhere (uniform), by one ranking of all "
        "channels (global), by a ranking among groups of the same structure (isomorphic, Fang et al. 2024), like "
        "global but no more than `tolerance` allows for each group alone (sensitivity, Li et al. 2017), what `rates` "
        "says, or so that the least score is lost for what is gained (knapsack, for a target; the default for a "
        "latency, which also takes uniform, global and isomorphic, with channels and heads as moves).",
    )
    ratio: Ratio | None = Field(
        default=None,
        description="Fraction of the removable channels to remove. Operations fall faster: half of the channels are "
        "about a quarter of the operations.",
    )
    target: CostTarget | None = Field(default=None, description="Instead of `ratio`: a cost to prune down to.")
    precision: Literal["fp32", "int8", OtherPrecision] | None = Field(
        default=None,
        exclude_if=lambda given: given is None,  # so that configurations without it are those that they were
        description="With a latency as `target`: the precision of the file that is timed, by the names of `quantize`. "
        "Absent: what the stages after this one make of it.",
    )
    moves: Moves | None = Field(
        default=None,
        exclude_if=lambda given: given is None,
        description="With a latency as `target`: what may be removed: channels, whole residual blocks (blocks), whole "
        "attention heads (heads), and pixels of the images where the data have a key size (resolution). Absent: "
        "channels and blocks, without blocks where the schedule is layerwise or soft, or another allocation than "
        "knapsack is asked for.",
    )
    rates: dict[str, Ratio] = Field(
        default={},
        description="Instead of `ratio`, for `allocation: rates`: the fraction to remove by layer or pattern; if "
        "several patterns match, the last one counts, and groups that none matches are not pruned.",
    )
    tolerance: Points = Field(
        default=1.0,
        description="Accuracy on validation images that pruning each group alone may cost, for `allocation: "
        "sensitivity`.",
    )
    granularity: Literal["channels", "heads", "blocks"] = Field(
        default="channels",
        description="What is removed: channels, and in attention the same ones in every head (channels); channels, and "
        "in attention whole heads (heads); whole residual blocks, beginning with those that change their input least "
        "(blocks, ShortGPT by Men et al. 2024). `ratio` is then a fraction of the blocks, and a target is met by "
        "removing as many as it takes.",
    )
    floor: Ratio = Field(default=0.1, description="Smallest fraction of its channels that every group keeps.")
    align: Annotated[int, Field(ge=1)] = Field(
        default=8,
        description="Kept widths are rounded to the nearest multiple of this; groups no wider than this are not "
        "pruned. 8 suits the vector units of most CPUs. It does not apply to whole heads.",
    )
    constraints: dict[str, Constraint] = Field(
        default={},
        description="Other floors, multiples and limits by layer or pattern; the last that matches a group counts.",
    )
    keep: tuple[str, ...] = Field(
        default=(),
        description="Layers whose output channels are not pruned, by qualified name; patterns such as layer4.* are "
        "allowed.",
    )
    statistics: StatisticsRule = Field(
        default="allow",
        description="Whether channels over which the network takes statistics (layer norm, softmax) may be removed: "
        "the statistics are then taken over the remaining channels, which is not the same function as with zeros in "
        "the others.",
    )
    candidates: Annotated[int, Field(ge=0, le=1_000_000)] = Field(
        default=0,
        description="Random allocations of the same cost, each evaluated on validation images with renewed batch-norm "
        "statistics; the best one is used if it beats the planned one (EagleEye, Li et al. 2020).",
    )
    schedule: PruneSchedule | None = Field(
        default=None,
        description="Train between removals, or while channels are still there. Absent: remove all at once.",
    )

    #: The kind of file that a latency is of; `following` finds it.
    _priced: FilePrecision | None = PrivateAttr(default=None)

    @model_validator(mode="after")
    def _one_aim(self) -> Prune:
        given = [name for name in ("ratio", "target", "rates") if getattr(self, name)]
        if len(given) != 1:
            raise ValueError(f"found {' and '.join(given) or 'none of them'}, allowed: one of ratio, target, rates")
        if bool(self.rates) != (self.allocation == "rates"):
            raise ValueError(
                f"found allocation {self.allocation} with {given[0]}, allowed: allocation rates with rates, and only "
                "with rates"
            )
        if self.candidates and self.rates:
            raise ValueError("found candidates with rates, allowed: candidates with ratio or target")
        return self

    @model_validator(mode="after")
    def _blocks_have_no_widths(self) -> Prune:
        others = [name for name in NOT_OF_BLOCKS if getattr(self, name) != type(self).model_fields[name].default]
        if self.granularity == "blocks" and others:
            raise ValueError(
                f"found granularity blocks with {', '.join(others)}, allowed: ratio or target, keep, images"
            )
        return self

    @model_validator(mode="after")
    def _latency_has_its_own(self) -> Prune:
        if self.has_latency and "allocation" not in self.model_fields_set:
            object.__setattr__(self, "allocation", PRICED)
        if found := next(latency_conflicts(self), ""):
            raise ValueError(found)
        return self

    @model_serializer(mode="wrap")
    def _with_priced(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        priced_as = {"priced": self._priced.model_dump(mode="json")} if self._priced else {}
        return {**write(self), **priced_as}

    @property
    def has_latency(self) -> bool:
        """Whether the target is a latency."""
        return self.target is not None and self.target.latency is not None

    @property
    def aims_at_cost(self) -> bool:
        """Whether there is a target."""
        return self.target is not None

    @property
    def measures(self) -> bool:
        """Whether a latency is the target, or a gain is asked for."""
        return self.has_latency or super().measures

    @property
    def computes(self) -> bool:
        """Whether files are timed in the target's runtime."""
        return self.has_latency

    @property
    def resizes(self) -> bool:
        """Whether smaller images are among the moves."""
        return "resolution" in (self.moves or ())

    def depends_on(self) -> tuple[str, ...]:
        """Return with a latency as target also what makes the files that are timed."""
        if not self.has_latency:
            return self.libraries
        return tuple(dict.fromkeys((*self.libraries, *FILES, *(self._priced.packages if self._priced else ()))))

    def unmet(self, target: Target) -> tuple[tuple[str, str], ...]:
        """Return that no file can be timed in the target's runtime."""
        if not self.has_latency or target.runtime != "torch":
            return ()
        found = "found a latency, which is that of a file, and target.runtime torch, which reads none"
        return (("target", f"{found}, allowed: target.runtime onnxruntime or openvino"),)

    def following(self, later: Sequence[Stage]) -> Self:
        """Return the stage with what it times filled in, where a latency is the target."""
        if not self.has_latency:
            return self
        file = priced_file(self.precision, later)
        made = self.model_copy(update={"precision": file.precision, "moves": self.moves or usual_moves(self)})
        made._priced = file  # noqa: SLF001 - its own class
        return made

    @property
    def parts_clusters(self) -> tuple[str, str]:
        """Channels take with them the largest weights, by which grids are scaled; whole blocks take their own alone."""
        return (
            ("kind", "prune removes weights that codebooks are scaled by") if self.granularity != "blocks" else ("", "")
        )

    def remarks(self, later: Sequence[Stage], target: Target) -> Remarks:
        """Return what is timed and down to what, and that what ships will be another kind of file."""
        asked = self.target.latency if self.target else None
        if asked is None:
            return Remarks()
        other = other_precision(self.precision, later)
        return Remarks((pricing_note(asked, priced_file(self.precision, later), target),), (other,) if other else ())

    def files(self) -> tuple[Path, ...]:
        """Return the files of the schedule's teacher."""
        return self.schedule.teacher_files() if self.schedule else ()

    def run(self, given: Artifact, context: Context) -> Outcome:
        """Prune and certify, on from where an earlier, killed run of a schedule got to.

        Raises:
            InputError: a pattern names no layer, the aim cannot be reached, or a criterion does not apply.
            StageError: nothing would be removed, the result is not what it should be, or training diverges.
            DeviceError: with a latency as target, the device cannot be reached, went away, or is throttled.
        """
        from pipeline.stages.prune.blocks import prune_depth
        from pipeline.stages.prune.channels import Pruning

        job = self._job(context.seed)
        if job.aim.latency:
            from pipeline.stages.prune.latency import LatencyPruning
            from pipeline.stages.prune.resolution import prune_at_best_size

            pruning = LatencyPruning(job, given, context)
            if self.resizes:
                return Outcome("torch", *prune_at_best_size(pruning))
            changed = pruning.run()
        elif self.granularity == "blocks":
            changed = prune_depth(job, given, context)
        else:
            changed = Pruning(job, given, context).run()
        return Outcome("torch", given.inputs, given.outputs, changed=changed)

    def price(
        self, given: Artifact, context: Context, model: nn.Module | None = None, *, fresh: bool = False
    ) -> Pricer:
        """Probe what a latency as target goes by, and return what has the profile.

        Args:
            given: the network's artifact.
            context: of the run.
            model: the network, where the artifact has no more than the names and sizes of inputs and outputs.
            fresh: take no probes that were measured before.

        Raises:
            InputError: the network cannot be captured, nothing of it may leave, a file of it cannot be made, or the
                data have no smaller images where these are asked for.
            DeviceError: the target's device cannot be reached.
        """
        from pipeline.stages.prune.latency import LatencyPruning
        from pipeline.stages.prune.resolution import SizeSearch

        pruning = LatencyPruning(self._job(context.seed), given, context, model)
        sizes = SizeSearch(pruning) if self.resizes else None
        pricer = pruning.pricer
        if fresh and pricer.profile.probes:
            pricer.forget()
        if pruning.whole_step.movable:
            pricer.model()
        if sizes:
            pricer.keep_sizes(sizes.ratios())
        return pricer

    def _job(self, seed: int) -> PruneRequest:
        from pipeline.compress.pruning.selection import GroupLimit, SelectionRules
        from pipeline.stages.prune.channels import PruneRequest

        rules = SelectionRules(
            criterion=self.criterion,
            normalise=self.normalise,
            allocation=self.allocation,
            floor=self.floor,
            align=self.align,
            limits={pattern: GroupLimit(**each.model_dump()) for pattern, each in self.constraints.items()},
            keep=self.keep,
            heads=self.granularity == "heads" or "heads" in (self.moves or ()),
            candidates=self.candidates,
            tolerance=self.tolerance / 100,
            seed=seed,
        )
        return PruneRequest(rules, self.aim, self.statistics, self.images, self.batch, self.schedule)

    @property
    def aim(self) -> PruneTarget:
        """How much leaves; of a latency also what is timed, for which `following` has to be asked before."""
        from pipeline.stages.prune.channels import PruneTarget

        return PruneTarget(self.ratio, self.target.pair() if self.target else None, self.rates, self._latency())

    def _latency(self) -> LatencyAim | None:
        return latency_aim(self, self._priced or priced_file(self.precision, ())) if self.has_latency else None
