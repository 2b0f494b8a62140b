"""What a stage is, and what the runner gives it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Protocol, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator

from pipeline.core.artifact import Artifact, Form, FrozenModel, StageRecord, TensorSpec
from pipeline.core.one_of import one_of
from pipeline.core.runtimes import BOARDS, DEFAULT_RUNTIME, RUNTIMES, runtime_for

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from pipeline.core.dataset import Dataset
    from pipeline.core.file_precision import FilePrecision
    from pipeline.core.task import Task

Runtime = Annotated[str, one_of(lambda: RUNTIMES)]
OnNoGain = Literal["keep", "skip", "fail"]


class Target(FrozenModel):
    """Where the result will run; this decides what is measured."""

    device: str = Field(
        default="local",
        min_length=1,
        description=f"The machine that measures: local, {BOARDS}, or a registered name.",
    )
    runtime: Runtime = Field(default=DEFAULT_RUNTIME, description="Runtime of the exported file.")
    threads: int = Field(default=1, ge=1, le=4096, description="Threads of the runtime.")
    batch: int = Field(default=1, ge=1, le=65_536, description="Images in one call.")


def runs_in(target: Target) -> Runtime:
    """Return what runs ONNX files for a target: its runtime where that reads them."""
    return runtime_for("onnx", target.runtime)


class Progress(Protocol):
    """Where a stage tells how far it is. The command line draws it; tests ignore it."""

    def update(self, done: float, total: float, text: str = "") -> None:
        """Say that `done` of `total` units are done; `text` is what a person would like to know now."""

    def note(self, text: str) -> None:
        """Print one line that stays."""


class SilentProgress:
    """Progress that nobody looks at."""

    def update(self, done: float, total: float, text: str = "") -> None:
        """Ignore it."""

    def note(self, text: str) -> None:
        """Ignore it."""


class ChainFile(FrozenModel):
    """A file of the chain that can be timed: the original's FP32 export, or what one stage ships."""

    label: str
    artifact: Artifact


@dataclass(frozen=True)
class Context:
    """Everything that a stage may use beside its own configuration and the given artifact.

    `folder` is the stage's own folder: the payload is written there, and so is anything that it needs to resume
    after having been killed. `task` loads the data on first call. `original` is the network the recipe started
    from. `candidates` are the files so far: what each step exports, the original's FP32 export first, and behind it the
    torch network where the step has one.
    """

    folder: Path
    seed: int
    target: Target
    original: Artifact
    task: Callable[[], Task]
    candidates: tuple[ChainFile, ...] = ()
    progress: Progress = field(default_factory=SilentProgress)

    def dataset(self) -> Dataset:
        """Return the images of an image classifier. Raises StageError for another task."""
        return self.task().dataset()


@dataclass(frozen=True)
class Remarks:
    """Lines about a stage before anything runs: what it will do that its keys do not say, and what is likely wrong."""

    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    def lines(self) -> tuple[str, ...]:
        """Return all of them, as a person reads them."""
        return (*self.notes, *(f"warning: {text}" for text in self.warnings))

    def as_values(self) -> dict[str, list[str]]:
        """Return those that there are, by kind, as plain values."""
        return {name: list(texts) for name in ("notes", "warnings") if (texts := getattr(self, name))}


@dataclass(frozen=True)
class Outcome:
    """What a stage returns. The payload lies in `context.folder`; the runner takes its digest and writes the lineage.

    A stage that only looks (measure) has `form=None`: the given artifact goes on unchanged, and what was found lies
    in `context.folder` as JSON.
    """

    form: Form | None
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    changed: Mapping[str, Any] = field(default_factory=dict)


class Stage(BaseModel, ABC):
    """One step of a recipe. Subclasses are the union `AnyStage` in pipeline/stages/__init__.py."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    #: Bump this when the same configuration would now give another result; part of the cache key.
    revision: ClassVar[int] = 1
    #: Distributions whose versions are part of the cache key with any configuration.
    libraries: ClassVar[tuple[str, ...]] = ()
    #: Why the stage cannot make a file faster, where it cannot: there is nothing to time for `on_no_gain` then.
    brings_no_gain: ClassVar[str] = ""
    #: The forms that the stage can start from, with any configuration.
    takes: ClassVar[frozenset[Form]] = frozenset()
    #: Whether it does nothing but write the network in another form.
    converts: ClassVar[bool] = False
    #: Whether nothing may follow the stage in a recipe.
    last: ClassVar[bool] = False
    #: Whether the stage makes a file; one that only looks leaves the artifact as it is (`Outcome.form` is None).
    makes_file: ClassVar[bool] = True
    #: Whether its files have the sizes of the samples alone, so that none can be left open (`task.dynamic`).
    fixes_sizes: ClassVar[bool] = False
    #: What a report says that a stage did which makes no file: one of `results.run.What`.
    effect: ClassVar[str] = ""
    #: Whether weights that it sets to zero stay zero in every stage after it.
    makes_masks: ClassVar[bool] = False
    #: Whether weights that it makes equal stay equal in every stage after it.
    makes_clusters: ClassVar[bool] = False

    kind: str
    on_no_gain: OnNoGain = Field(
        default="keep",
        description="What to do if the stage's exported file is not shown to be faster than the one before: `keep` the "
        "stage (without timing it), `skip` it, so that the next stage starts from the file before, or `fail`.",
    )

    @field_validator("on_no_gain")
    @classmethod
    def _can_bring_a_gain(cls, value: OnNoGain) -> OnNoGain:
        if value != "keep" and cls.brings_no_gain:
            raise ValueError(f'found "{value}", allowed: keep, because {cls.brings_no_gain} and so cannot gain time')
        return value

    @property
    def measures(self) -> bool:
        """Whether the result depends on a latency, so that it holds for one target on one machine.

        A stage that measures for its own sake says so whatever `on_no_gain` is.
        """
        return self.on_no_gain != "keep"

    @property
    def computes(self) -> bool:
        """Whether the result depends on what the target's runtime computes, which is then part of the cache key."""
        return False

    @property
    def aims_at_cost(self) -> bool:
        """Whether it brings the network down to a cost, the key `target` of its configuration."""
        return False

    @property
    def resizes(self) -> bool:
        """Whether the network may get images of another size, which only some data have."""
        return False

    @property
    def fills_zeros(self) -> tuple[str, str]:
        """A key and what is wrong with its value, where weights that are to stay zero would not be; else ("", "").

        Asked where a stage before it makes masks.
        """
        return "", ""

    @property
    def parts_clusters(self) -> tuple[str, str]:
        """A key and why weights that are to stay equal would not, with its value or with any; else ("", "").

        Asked where a stage before it makes clusters.
        """
        return "", ""

    @property
    def consumes(self) -> frozenset[Form]:
        """The forms that this stage can start from."""
        return self.takes

    def produces(self, given: Form) -> Form:
        """Return the form that this stage ends with when it starts from `given`: the same, unless it says otherwise."""
        return given

    @property
    def label(self) -> str:
        """What the stage is called in a report."""
        return self.kind

    def resolved(self, flags: frozenset[str]) -> Self:  # noqa: ARG002 - not every stage looks at it
        """Return the stage with every choice made that depends on the processor, whose `flags` these are."""
        return self

    def following(self, later: Sequence[Stage]) -> Self:  # noqa: ARG002 - not every stage looks at them
        """Return the stage with every choice made that depends on the stages behind it; those are resolved already."""
        return self

    def ships(self) -> FilePrecision | None:
        """Return the precision that it gives a file, as far as the configuration says; None where it stays as it was.

        Asked of a stage that is resolved, before anything runs.
        """
        return None

    def precision_fault(self, given: FilePrecision) -> str:  # noqa: ARG002 - not every stage minds
        """Say why it can start from no file in a precision, whatever the network; "" where it may.

        Asked where a stage before it makes that, before anything runs.
        """
        return ""

    def remarks(self, later: Sequence[Stage], target: Target) -> Remarks:  # noqa: ARG002 - not every stage has any
        """Return what a plan says of the stage, as the recipe has it, before the stages behind it."""
        return Remarks()

    @classmethod
    def computes_in(cls, record: StageRecord) -> str:  # noqa: ARG003 - not every stage looks at it
        """Return the precision that a file has by what was recorded of the stage; empty where it stays as it was."""
        return ""

    def bundle_options(self) -> dict[str, Any] | None:
        """Return the options of the edge bundle that the run ends with; None where this stage asks for none."""
        return None

    def depends_on(self) -> tuple[str, ...]:
        """Return the distributions whose versions are part of the cache key with this configuration."""
        return self.libraries

    def unmet(self, target: Target) -> tuple[tuple[str, str], ...]:  # noqa: ARG002 - not every stage looks at it
        """Return a key and what is wrong with its value here: a package is missing, or the target cannot do it.

        Asked before anything runs, so nothing heavy is imported for the answer.
        """
        return ()

    def files(self) -> tuple[Path, ...]:
        """Return the files and folders that the configuration names: in cache keys they count by content, not path."""
        return ()

    @abstractmethod
    def run(self, given: Artifact, context: Context) -> Outcome:
        """Do the work; raise `StageError` when the stage's own check of its result fails."""
