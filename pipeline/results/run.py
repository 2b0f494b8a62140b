"""What a run found: the content of run.json, and the only input of the report."""

from __future__ import annotations

from operator import not_
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from pipeline.core.artifact import GAIN, ONCE_WITHOUT_FILE, Form, FrozenModel
from pipeline.core.nearness import NEARNESS, Nearness
from pipeline.core.sharing import SHARING, Sharing
from pipeline.core.sparsity import SPARSITY, Sparsity
from pipeline.core.stage import Runtime, Target
from pipeline.core.task import ACCURACY, MetricFacts
from pipeline.results.measurement import TimeScope

SCHEMA_VERSION = 1
BudgetVerdict = Literal["met", "missed", "cannot tell"]
#: What a stage can do; `report.run.gains` has the words.
What = Literal[
    "speed",
    "size",
    "accuracy",
    "score",
    "zeros",
    "gzip",
    "nothing",
    "untimed",
    "no gain",
    "far",
    "back in float",
    "nodes in float",
    "not quantized",
    "not smaller",
    "same file",
    "bundle",
    "measurement",
]


class TaskFacts(FrozenModel):
    """What a run's scores are of: the kind of task, and its metrics, the one that is judged first.

    Runs of earlier versions say nothing: they are of image classifiers.
    """

    kind: str = "classification"
    metrics: tuple[MetricFacts, ...] = (ACCURACY,)
    sample: str = Field(default="image", description="What one of the samples is called.")

    @property
    def judged(self) -> MetricFacts:
        """The metric that is judged."""
        return self.metrics[0]


class Interval(FrozenModel):
    """An estimate with its confidence interval."""

    value: float
    low: float
    high: float
    level: float = 0.95

    def times(self, factor: float) -> Interval:
        """Return it times a positive number."""
        return self.model_copy(update={name: getattr(self, name) * factor for name in ("value", "low", "high")})


class Score(BaseModel):
    """How good the exported file is on one split: the task's metrics by name, the one that is judged first.

    In JSON they stand beside the number of samples: {"images": 656, "accuracy": 0.88, "f1": 0.84}.
    """

    model_config = ConfigDict(frozen=True, extra="allow", allow_inf_nan=False)
    __pydantic_extra__: dict[str, float] = Field(init=False)

    images: int = Field(description="The number of samples: images, sentences, series.")

    @property
    def metrics(self) -> dict[str, float]:
        """The metrics by name, the one that is judged first."""
        return dict(self.__pydantic_extra__)

    @property
    def judged(self) -> float:
        """The metric that is judged."""
        return next(iter(self.__pydantic_extra__.values()))


class Timing(FrozenModel):
    """Latency of one exported file in one runtime, and its paired speedup over the original's FP32 export there.

    `speedup` compares wall time (block minimum), `cpu_speedup` process CPU time (block median) of the same rounds;
    both are absent for the original itself. `contended` says that the two disagree beyond the margin. With
    `time_scope` model+decode each call decoded its outputs too; `size` names that of the inputs where files were timed
    at several. In JSON only then.
    """

    runtime: Runtime
    threads: int
    milliseconds: Interval
    cpu_milliseconds: Interval | None = None
    speedup: Interval | None = None
    cpu_speedup: Interval | None = None
    contended: bool = False
    size: str = Field(default="", exclude_if=not_)
    time_scope: TimeScope = Field(default="model", exclude_if="model".__eq__)


class Gain(FrozenModel):
    """Whether what a stage made is faster than what it was given, where the recipe asks (`on_no_gain`).

    `speedup` is the paired ratio of the two exported files in `runtime`, from `low` to `high` at 95 %; all three are
    absent where both are one file. `text` says so in words, with what casts doubt on it.
    """

    decision: Literal["kept", "skipped"]
    runtime: Runtime
    speedup: float | None = None
    low: float | None = None
    high: float | None = None
    text: str


class Effect(FrozenModel):
    """One thing that a stage did, against the row before.

    `change` is the speedup of `speed` (2 is twice as fast), the relative change of `size` (-0.5 is half as large) and
    of the size with `gzip`, the difference in `accuracy` (0.01 is a point), or in the `score` of another task, in its
    `unit`, the share of weights that are `zeros`, the seconds of a `measurement`. `count` is of nodes or measured
    files, `names` are the nodes that went back to float, `why` the
    reason in words. `nothing` says that nothing got better, `untimed` that nothing else did, and that it was not timed
    against the row before. In JSON only what there is.
    """

    what: What
    change: float = Field(default=0.0, exclude_if=not_)
    judged: Literal["better", "worse", "unsure"] | None = Field(default=None, exclude_if=not_)
    count: int = Field(default=0, exclude_if=not_)
    names: tuple[str, ...] = Field(default=(), exclude_if=not_)
    why: str = Field(default="", exclude_if=not_)
    unit: str = Field(default="", exclude_if=not_)


class Row(FrozenModel):
    """One line of the report: the original (index 0) or what one stage shipped.

    `digest` is the exported file's, `artifact` the stage's own: they differ for a torch network, which is judged on its
    ONNX export. `folder` is relative to the run folder. `effects` are what the stage did, and `verdict` says them in
    words; runs of earlier versions have the words alone. The file of a stage that was skipped, or that only looked
    (`makes_file` is false), is that of the row before.
    """

    index: int
    label: str
    kind: str
    makes_file: bool = True
    config: dict[str, Any] = Field(default={})
    form: Form
    digest: str
    artifact: str = ""
    folder: str
    cached: bool = False
    seconds: float
    validation: Score | None = None
    macs: int | None = None
    parameters: int | None = None
    size_bytes: int | None = None
    gzip_bytes: int | None = None
    timings: tuple[Timing, ...] = ()
    changed: dict[str, Any] = Field(default={})
    effects: tuple[Effect, ...] = ()
    verdict: str = ""

    @model_validator(mode="before")
    @classmethod
    def _of_earlier_versions(cls, given: Any) -> Any:  # noqa: ANN401 - whatever was stored
        """Say of rows that do not whether their stage made a file."""
        if isinstance(given, dict) and given.get("kind") in ONCE_WITHOUT_FILE:
            return {"makes_file": False, **given}
        return given

    @property
    def gain(self) -> Gain | None:
        """What was found where the recipe asks for a gain in time."""
        return Gain.model_validate(self.changed[GAIN]) if GAIN in self.changed else None

    @property
    def nearness(self) -> Nearness | None:
        """How near the stage's file is to its float file, for a stage that made one in fewer bits."""
        return Nearness.model_validate(self.changed[NEARNESS]) if NEARNESS in self.changed else None

    @property
    def sparsity(self) -> Sparsity | None:
        """The zeros among the weights of the file, where a stage before it, or it, made masks."""
        return Sparsity.model_validate(self.changed[SPARSITY]) if SPARSITY in self.changed else None

    @property
    def sharing(self) -> Sharing | None:
        """The values that the weights of the file take, where a stage before it, or it, made clusters."""
        return Sharing.model_validate(self.changed[SHARING]) if SHARING in self.changed else None

    @property
    def skipped(self) -> bool:
        """Whether the stage was left out of the chain, since it brought no gain."""
        return self.gain is not None and self.gain.decision == "skipped"


class ClassScore(FrozenModel):
    """The score of one class before and after; absent where it has none, as a class that does not occur."""

    name: str
    original: float | None
    result: float | None


class SampleChange(FrozenModel):
    """What one sample alone scores before and after, by the metric that is judged; `place` in its split is from 0."""

    place: int
    original: float
    result: float


class FinalTest(FrozenModel):
    """Scores of the original's and the result's exported files on the test split, taken once, on the same samples.

    `difference` is result minus original in the metric that is judged, with a paired interval: of accuracy 0.01 is a
    point. `classes` has the score of each class by `class_metric`, the first metric that has such; `worst` the samples
    that lost most by themselves. In JSON only what there is, and of tasks other than telling images apart.
    """

    original: Score
    result: Score
    difference: Interval
    class_metric: str = Field(default="", exclude_if=not_)
    classes: tuple[ClassScore, ...] = Field(default=(), exclude_if=not_)
    worst: tuple[SampleChange, ...] = Field(default=(), exclude_if=not_)


class BudgetLine(FrozenModel):
    """One line of the recipe's budget: what was asked, what was found, and whether it holds."""

    name: Literal["latency", "accuracy_drop", "score_drop", "size"]
    asked: str
    found: str
    verdict: BudgetVerdict


class Storage(FrozenModel):
    """Bytes of the result's file: as it is, with zlib at level 9, and as `secateur pack` stores it.

    `original` are those of the original's file, `bound` the zeroth-order entropy of all tensors without any table, and
    `in_memory` what the tensors take once a runtime has loaded them, which makes all of them dense.
    """

    original: int
    raw: int
    zlib: int
    packed: int
    bound: int
    in_memory: int


class BundleRecord(FrozenModel):
    """The edge bundle of a run: its folder and archive relative to the run folder, the archive's bytes, its digest.

    The digest is the sha256 of the bundle's SHA256SUMS, which covers every file in it.
    """

    folder: str
    archive: str
    archive_bytes: int
    digest: str


class RunReport(FrozenModel):
    """Everything about one run. `machine` is the fingerprint of the machine that measured.

    `threads` are those of training and evaluation, `threads_from` says what set them. Paths in `recipe` start at
    `recipe_folder`; runs of earlier versions say none of these. `storage` is there where stages made zeros or clusters.
    `command` resumes the run, from the folder in which it was started; empty where a program or another command ran it.
    """

    schema_version: int = SCHEMA_VERSION
    name: str
    recipe_file: str
    recipe_folder: str = ""
    recipe: dict[str, Any]
    recipe_digest: str
    data: dict[str, Any]
    task: TaskFacts = TaskFacts()
    target: Target
    seed: int
    threads: int | None = None
    threads_from: str = ""
    versions: dict[str, str]
    machine: dict[str, Any]
    started: str
    seconds: float
    status: Literal["running", "finished", "interrupted", "failed"]
    error: str = ""
    command: str = Field(default="", exclude_if=not_)
    rows: tuple[Row, ...] = Field(default=())
    final: FinalTest | None = None
    budget: tuple[BudgetLine, ...] = ()
    bundle: BundleRecord | None = None
    storage: Storage | None = Field(default=None, exclude_if=not_)
