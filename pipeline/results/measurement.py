"""What a latency measurement found: raw nanoseconds of every inference, and under which conditions.

measurement.json keeps the samples. Every summary (milliseconds, speedup, interval) is computed from them and from
the plan that stands beside them, so that anyone can compute it again.
"""

from __future__ import annotations

import hashlib
import json
from operator import not_
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import Field, model_validator

from pipeline.core.artifact import FrozenModel
from pipeline.core.partial import write_whole
from pipeline.core.reading import read_value
from pipeline.core.stage import Runtime

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

SCHEMA_VERSION: Literal[2] = 2
MEASUREMENT_FILE = "measurement.json"
#: Why sampling ended: every speedup is known closely enough, the verdict stands, the budget or the sessions are used
#: up, or the device went away in the middle.
Stop = Literal["precise", "decided", "budget", "sessions", "broken off"]

#: What is timed: the file alone, or with it what decodes its outputs.
TimeScope = Literal["model", "model+decode"]

#: Fields of the fingerprint without which two latencies are not of one machine. Kernel, memory and load may differ.
MUST_MATCH: tuple[str, ...] = tuple(
    "cpu_model architecture isa microcode virtual logical_cores affinity cgroup_cpus".split()
)


class SamplingPlan(FrozenModel):
    """The constants of the sampling protocol and of the statistics over its samples.

    A session is one re-creation of every subject: it takes about `session_s`, at most half of it for loading and
    warming up, and has `min_rounds` to `max_rounds` rounds. The samples are looked at after the sessions of
    `looks_after`; sampling stops there when the question is answered. Since there are `looks` of them, every interval
    is taken at the error rate (1 - level) / looks (Bonferroni), whichever look was the last.
    """

    budget_s: float = Field(gt=0)
    strict: bool = Field(default=False, description="stop at the budget even with fewer than `min_sessions`")
    session_s: float = Field(default=0.6, gt=0, description="target length of a session")
    min_sessions: int = Field(default=4, ge=2, description="fewest sessions that give an interval")
    min_rounds: int = Field(default=3, ge=1)
    max_rounds: int = Field(default=60, ge=1)
    block_ns: int = Field(default=10_000_000, description="target length of a block")
    min_block: int = Field(default=3, description="least number of inferences in a block")
    max_block: int = Field(default=16, description="largest number of inferences in a block")
    warmup_blocks: int = Field(default=3, description="block minima that must agree before timing starts")
    warmup_agreement: float = Field(default=0.02, description="required relative agreement")
    warmup_cap_ns: int = Field(default=1_000_000_000, description="longest warm-up of one subject in one session")
    level: float = Field(default=0.95, gt=0, lt=1)
    width: float = Field(default=0.04, description="relative width (high - low) / value at which sampling may stop")
    replicates: int = Field(default=100, description="resamples of the bootstrap")
    error_floor: float = Field(default=0.004, description="least standard error of a log-ratio")
    contention: float = Field(default=0.05, description="relative disagreement of wall and CPU speedup on one thread")
    comparisons: int = Field(default=1, ge=1, description="number of questions asked together, which share the level")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min_rounds > self.max_rounds:
            raise ValueError("the minimum of rounds exceeds its maximum")
        return self

    @property
    def max_sessions(self) -> int:
        """The sessions that the budget has room for."""
        return max(self.min_sessions, int(self.budget_s / self.session_s))

    @property
    def looks_after(self) -> tuple[int, ...]:
        """Return the numbers of sessions after which the samples are looked at: each half as many again, and the end.

        With more looks each would have to be stricter, and a look costs time in which nothing is measured.
        """
        found: list[int] = []
        sessions = self.min_sessions
        while sessions < self.max_sessions:
            found.append(sessions)
            sessions = -(-3 * sessions // 2)
        return (*found, self.max_sessions)

    @property
    def looks(self) -> int:
        """How often sampling may look at its intervals."""
        return len(self.looks_after)

    def block_size(self, inference_ns: int) -> int:
        """Return how many inferences a block has when one takes `inference_ns`."""
        return min(max(self.block_ns // max(inference_ns, 1), self.min_block), self.max_block)


class Block(FrozenModel):
    """The inferences of one subject in one round: nanoseconds of each, on the wall clock and in the process's CPU time.

    `order` is the block's place in its round (0 was first), `preemptions` the involuntary context switches during it,
    `frequency_mhz` the cores' mean right after it where the kernel tells.
    """

    order: int
    wall_ns: tuple[int, ...] = Field(min_length=1)
    cpu_ns: tuple[int, ...]
    preemptions: int
    frequency_mhz: float | None = None

    @model_validator(mode="after")
    def _paired(self) -> Self:
        if len(self.wall_ns) != len(self.cpu_ns):
            raise ValueError(f"{len(self.wall_ns)} wall times and {len(self.cpu_ns)} CPU times in one block")
        return self


class SessionSamples(FrozenModel):
    """One re-creation of one subject: load, first inference, warm-up, and one block per round."""

    load_ns: int
    first_ns: int
    warmup: tuple[Block, ...]
    rounds: tuple[Block, ...]


class OutputCheck(FrozenModel):
    """How far a subject's outputs are from those of the first subject, on the same inputs.

    `relative` is the largest absolute difference over the largest absolute output of the first.
    """

    max_abs: float
    relative: float
    cosine: float


class SubjectSamples(FrozenModel):
    """Everything measured of one file in one runtime, and the terms that it was measured on.

    `peak_rss_bytes` is the peak of a process that loads this file alone and infers twice. `fingerprint` describes the
    machine, `device` how it was reached. `instructions` are those of single inferences, by process, where they were
    counted instead of timed. `size` names that of the inputs where files were timed at several.
    """

    label: str
    path: str = ""
    runtime: Runtime
    size: str = Field(default="", exclude_if=not_)
    runtime_version: str
    options: dict[str, str]
    digest: str
    size_bytes: int | None = None
    input_shapes: dict[str, tuple[int, ...]]
    threads: int
    device: str = "local"
    fingerprint: dict[str, Any]
    peak_rss_bytes: int | None = None
    check: OutputCheck | None = None
    sessions: tuple[SessionSamples, ...]
    instructions: tuple[tuple[int, ...], ...] = ()

    @property
    def compared_within(self) -> tuple[Runtime, str]:
        """Runtime and size: subjects that share both are compared with the first of them."""
        return self.runtime, self.size


class Conditions(FrozenModel):
    """State of the machine around one session; what cannot be read is absent. `steal`: share of CPU time, 0 to 1."""

    load: float | None = None
    steal: float | None = None
    frequency_mhz: float | None = None
    temperature_c: float | None = None


class Measurement(FrozenModel):
    """Subjects measured together, interleaved round by round; round i of session k has one block of each.

    The first subject in each runtime, and at each size of inputs, is the baseline there.
    """

    schema_version: Literal[2] = SCHEMA_VERSION
    created: str
    batch: int
    pause_ns: int = 0
    time_scope: TimeScope = Field(default="model", exclude_if="model".__eq__)
    seed: int
    in_force: dict[str, Any]
    plan: SamplingPlan
    seconds: float
    stopped: Stop
    conditions: tuple[Conditions, ...]
    subjects: tuple[SubjectSamples, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _aligned(self) -> Self:
        shapes = {tuple(len(session.rounds) for session in subject.sessions) for subject in self.subjects}
        if len(shapes) != 1:
            raise ValueError(f"subjects differ in their rounds per session: {sorted(shapes)}")
        return self

    def baseline(self, index: int) -> int:
        """Return the index of the subject that subject `index` is compared with."""
        wanted = self.subjects[index].compared_within
        return next(i for i, subject in enumerate(self.subjects) if subject.compared_within == wanted)


def machine_digest(described: Mapping[str, Any]) -> str:
    """Return the sha256 over the fields of a fingerprint that must match (`MUST_MATCH`)."""
    fields = {name: described.get(name) for name in MUST_MATCH}
    return hashlib.sha256(json.dumps(fields, sort_keys=True, allow_nan=False).encode()).hexdigest()


#: What a difference of the sizes of inputs begins with.
INPUT_SHAPES = "input shapes"


def term_differences(measurement: Measurement, *, between_runtimes: bool = False) -> tuple[str, ...]:
    """Return what keeps the two subjects from a fair comparison, one `field: this, that` each; empty if nothing does.

    With `between_runtimes` runtime, version and options may differ: the question is which of the two is faster.
    """
    a, b = measurement.subjects[:2]
    pairs: dict[str, tuple[Any, Any]] = {
        name: (a.fingerprint.get(name), b.fingerprint.get(name)) for name in MUST_MATCH
    }
    pairs |= {"threads": (a.threads, b.threads)}
    pairs |= {INPUT_SHAPES: (list(a.input_shapes.values()), list(b.input_shapes.values()))}
    options = {name: (a.options.get(name), b.options.get(name)) for name in sorted({*a.options, *b.options})}
    if not between_runtimes:
        pairs |= {"runtime": (a.runtime, b.runtime), "runtime version": (a.runtime_version, b.runtime_version)}
        pairs |= {f"runtime option {name}": pair for name, pair in options.items()}
    return tuple(f"{name}: {this!r}, {that!r}" for name, (this, that) in pairs.items() if this != that)


def save_measurement(measurement: Measurement, path: Path) -> None:
    """Write the measurement as JSON, whole or not at all."""
    write_whole(path, measurement.model_dump_json())


def load_measurement(path: Path) -> Measurement:
    """Read a measurement.

    Raises:
        InputError: the file is missing, is no measurement, or has another schema version.
    """
    return read_value(path, Measurement, f"a measurement.json of schema version {SCHEMA_VERSION}; measure again")
