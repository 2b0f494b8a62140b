"""What a latency measurement found: raw nanoseconds of every inference, and under which conditions.

measurement.json keeps the samples. Every summary (milliseconds, speedup, interval) is computed from them and from
the plan that stands beside them, so that anyone can compute it again.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from pipeline.core.artifact import Frozen
from pipeline.core.errors import InputError
from pipeline.core.stage import Runtime

if TYPE_CHECKING:
    from pathlib import Path

SCHEMA_VERSION: Literal[1] = 1

#: Fields of the fingerprint without which two latencies are not of one machine. Kernel, memory and load may differ.
MUST_MATCH: tuple[str, ...] = (
    "cpu_model",
    "architecture",
    "isa",
    "microcode",
    "virtual",
    "logical_cores",
    "affinity",
    "cgroup_cpus",
)


class SamplingPlan(Frozen):
    """The constants of the sampling protocol and of the statistics over its samples.

    A session is one re-creation of every subject. Its share of the budget is `budget_s / max_sessions`, and it has
    `min_rounds` to `max_rounds` rounds. From the session `min_sessions` on, each one ends with a look at the
    intervals: sampling stops when all are narrower than `width`. Since there may be `looks` of them, every interval
    is taken at the error rate (1 - level) / looks (Bonferroni), whichever look was the last.
    """

    budget_s: float = Field(gt=0)
    min_sessions: int = Field(default=4, ge=2)
    max_sessions: int = Field(default=8, ge=2)
    min_rounds: int = Field(default=3, ge=1)
    max_rounds: int = Field(default=40, ge=1)
    block_ns: int = Field(default=10_000_000, description="aim for the length of a block")
    min_block: int = Field(default=3, description="inferences in a block, at least")
    max_block: int = Field(default=16, description="inferences in a block, at most")
    warmup_blocks: int = Field(default=3, description="block minima that must agree before timing starts")
    warmup_agreement: float = Field(default=0.02, description="how closely, relative")
    warmup_cap_ns: int = Field(default=1_000_000_000, description="longest warm-up of one subject in one session")
    level: float = Field(default=0.95, gt=0, lt=1)
    width: float = Field(default=0.04, description="relative width (high - low) / value at which sampling may stop")
    replicates: int = Field(default=400, description="resamples of the bootstrap")
    error_floor: float = Field(default=0.004, description="least standard error of a log-ratio")
    contention: float = Field(default=0.05, description="relative disagreement of wall and CPU speedup on one thread")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min_sessions > self.max_sessions or self.min_rounds > self.max_rounds:
            raise ValueError("a minimum of sessions or rounds exceeds its maximum")
        return self

    @property
    def looks(self) -> int:
        """How often sampling may look at its intervals."""
        return self.max_sessions - self.min_sessions + 1

    @property
    def session_ns(self) -> float:
        """The share of the budget of one session."""
        return self.budget_s * 1e9 / self.max_sessions

    def block_size(self, inference_ns: int) -> int:
        """Return how many inferences a block has when one takes `inference_ns`."""
        return min(max(self.block_ns // max(inference_ns, 1), self.min_block), self.max_block)


class Block(Frozen):
    """Consecutive inferences of one subject: nanoseconds of each, on the wall clock and of the process's CPU time.

    `order` is the block's place in its round (0 was first), `preemptions` the involuntary context switches during it.
    """

    order: int
    wall_ns: tuple[int, ...] = Field(min_length=1)
    cpu_ns: tuple[int, ...]
    preemptions: int

    @model_validator(mode="after")
    def _paired(self) -> Self:
        if len(self.wall_ns) != len(self.cpu_ns):
            raise ValueError(f"{len(self.wall_ns)} wall times and {len(self.cpu_ns)} CPU times in one block")
        return self


class SessionSamples(Frozen):
    """One re-creation of one subject: load, first inference, warm-up, and one block per round."""

    load_ns: int
    first_ns: int
    warmup: tuple[Block, ...]
    rounds: tuple[Block, ...]


class SubjectSamples(Frozen):
    """Everything measured of one file in one runtime."""

    label: str
    runtime: Runtime
    runtime_version: str
    options: dict[str, str]
    digest: str
    input_shape: tuple[int, ...]
    sessions: tuple[SessionSamples, ...]


class Conditions(Frozen):
    """State of the machine around one session; what cannot be read is absent. `steal`: share of CPU time, 0 to 1."""

    load: float | None = None
    steal: float | None = None
    frequency_mhz: float | None = None
    temperature_c: float | None = None


class Measurement(Frozen):
    """Subjects measured together, interleaved round by round; round i of session k has one block of each.

    The first subject in each runtime is the baseline there.
    """

    schema_version: Literal[1] = SCHEMA_VERSION
    created: str
    threads: int
    batch: int
    seed: int
    fingerprint: dict[str, Any]
    in_force: dict[str, Any]
    plan: SamplingPlan
    seconds: float
    stopped: Literal["precise", "budget", "sessions"]
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
        runtime = self.subjects[index].runtime
        return next(i for i, subject in enumerate(self.subjects) if subject.runtime == runtime)


def differences(first: Measurement, second: Measurement) -> tuple[str, ...]:
    """Return what keeps two measurements from being compared, one `field: this, that` each; empty if nothing does."""
    pairs = {name: (first.fingerprint.get(name), second.fingerprint.get(name)) for name in MUST_MATCH}
    pairs |= {"threads": (first.threads, second.threads), "batch": (first.batch, second.batch)}
    here, there = _runtimes(first), _runtimes(second)
    pairs |= {f"runtime {name}": (here[name], there[name]) for name in sorted(here.keys() & there.keys())}
    return tuple(f"{name}: {a!r}, {b!r}" for name, (a, b) in pairs.items() if a != b)


def _runtimes(measurement: Measurement) -> dict[str, tuple[str, dict[str, str]]]:
    return {subject.runtime: (subject.runtime_version, subject.options) for subject in measurement.subjects}


def require_comparable(first: Measurement, second: Measurement) -> None:
    """Refuse two measurements that were not taken under the same terms.

    Raises:
        InputError: machine, threads, batch, or a runtime's version or options differ; the message lists them.
    """
    found = differences(first, second)
    if found:
        listed = "\n  ".join(found)
        raise InputError(
            f"the two measurements cannot be compared, they differ in\n  {listed}\n"
            "measure both files together on one machine instead"
        )


def save(measurement: Measurement, path: Path) -> None:
    """Write the measurement as JSON; `path` holds the old content or the whole new one, never a part."""
    partial = path.with_name(f"{path.name}.partial")
    with partial.open("w", encoding="utf-8") as stream:
        stream.write(measurement.model_dump_json())
        stream.flush()
        os.fsync(stream.fileno())
    partial.replace(path)


def load(path: Path) -> Measurement:
    """Read a measurement.

    Raises:
        InputError: the file is missing, is no measurement, or has another schema version.
    """
    try:
        return Measurement.model_validate_json(path.read_bytes())
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist; expected a measurement.json") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InputError(
            f"{path} is no measurement of schema version {SCHEMA_VERSION}: {where} {first['msg']}; measure again"
        ) from error
