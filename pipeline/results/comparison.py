"""The result of comparing two files: verdict, reasons, estimate and everything that it rests on.

| verdict      | exit | what is proven, at the stated level                                                    |
|--------------|------|----------------------------------------------------------------------------------------|
| PASS         | 0    | the candidate is not slower than the baseline by more than the margin                  |
| FAIL         | 1    | it is slower by more than the margin                                                   |
| INCONCLUSIVE | 3    | neither: too little time, or too much other load; the reasons say which                |
| INCOMPARABLE | 4    | the two were not to be measured on equal terms; the reasons name the fields            |

Bad input ends with 2, a device that cannot be reached with 5, wrong outputs with 6: there is no result then.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field
from pydantic.json_schema import GenerateJsonSchema

from pipeline.core.artifact import FrozenModel
from pipeline.core.reading import read_value
from pipeline.core.stage import Runtime
from pipeline.results.measurement import Conditions, OutputCheck, Stop
from pipeline.results.run import Interval

if TYPE_CHECKING:
    from pathlib import Path

SCHEMA_VERSION: Literal[1] = 1
RESULT_FILE = "comparison.json"
ROUNDS_FILE = "rounds.json"

Verdict = Literal["PASS", "FAIL", "INCONCLUSIVE", "INCOMPARABLE"]
Metric = Literal["wall", "cpu", "instructions"]
EXIT_CODES: dict[Verdict, int] = {"PASS": 0, "FAIL": 1, "INCONCLUSIVE": 3, "INCOMPARABLE": 4}
#: Why a verdict is what it is. `slower`, `not slower`: the interval lies beyond, or below, the margin. `budget`: it
#: straddles the margin, or there were too few sessions. `contended`: wall and CPU time disagree. `waiting`: they do,
#: and nothing else was running: the candidate waits. `throttled`: frequency or temperature moved. `preempted`: most
#: blocks were interrupted. `holm`: slower, as Holm's procedure over all models finds. `above roofline`: faster than the
#: machine. `differs`: not on equal terms; `unfair`: compared all the same. `drift`: slower than long ago.
ReasonCode = Literal[
    "slower",
    "not slower",
    "budget",
    "contended",
    "waiting",
    "throttled",
    "preempted",
    "holm",
    "above roofline",
    "differs",
    "unfair",
    "drift",
]


class Reason(FrozenModel):
    """Why, as a word for machines and a sentence for people."""

    code: ReasonCode
    text: str


class Spread(FrozenModel):
    """Nanoseconds of single inferences; a quantile with less than one sample beyond it is absent."""

    inferences: int
    min: float
    mean: float
    p50: float | None = None
    p90: float | None = None
    p95: float | None = None
    p99: float | None = None


class Bound(FrozenModel):
    """What limits a file on this device: the least time that its operations and bytes need, and the share reached.

    `efficiency` is t_min / t. `bound` says which of the two needs longer, or `overhead` when the time is mostly that of
    calling operators.
    """

    bound: Literal["compute", "bandwidth", "overhead"]
    least_ms: float
    efficiency: float
    macs: int
    bytes: int


class Side(FrozenModel):
    """One of the two files: what it is, on what terms it ran, and what was found."""

    label: str
    path: str
    digest: str
    size_bytes: int | None = None
    runtime: Runtime
    runtime_version: str
    options: dict[str, str]
    input_shapes: dict[str, tuple[int, ...]]
    threads: int
    device: str
    fingerprint: dict[str, Any]
    wall_ns: Spread | None = None
    cpu_ns: Spread | None = None
    load_ms: float | None = None
    first_ms: float | None = None
    peak_rss_bytes: int | None = None
    instructions_per_inference: int | None = None
    roofline: Bound | None = None


class Protocol(FrozenModel):
    """How it was measured."""

    seed: int
    budget_s: float
    seconds: float
    stopped: Stop
    sessions: int
    rounds: int
    looks: int
    pause_ms: float = 0.0
    batch: int = 1
    in_force: dict[str, Any] = Field(default={})


class Noise(FrozenModel):
    """How quiet the device was: shares from 0 to 1; what could not be read is absent.

    `aa_q95` is the 95th percentile of |ratio - 1| that `secateur doctor` found on this device.
    """

    preempted_share: float | None = None
    standard_error: float | None = None
    aa_q95: float | None = None
    conditions: tuple[Conditions, ...] = ()


class RawRounds(FrozenModel):
    """Where the rounds are kept from which all of this can be computed again."""

    path: str
    sha256: str


class Comparison(FrozenModel):
    """Everything about one comparison.

    Ratios are candidate over baseline (1.05: five percent slower). `ratio` is that of the metric which decided, absent
    when there is none.

    `p_value` is that of "the candidate is slower by the margin at most", looks included. `detectable` is the smallest
    slowdown that would have been found, as FAIL, in 80 % of such measurements.
    """

    schema_version: Literal[1] = SCHEMA_VERSION
    tool_version: str
    created: str
    name: str
    verdict: Verdict
    reasons: tuple[Reason, ...]
    margin: float
    metric: Metric
    ratio: Interval | None = None
    wall: Interval | None = None
    cpu: Interval | None = None
    p_value: float | None = None
    detectable: float | None = None
    unfair: bool = False
    baseline: Side
    candidate: Side
    output_check: OutputCheck | None = None
    protocol: Protocol
    noise: Noise
    raw: RawRounds | None = None

    @property
    def exit_code(self) -> int:
        """The exit code that stands for the verdict."""
        return EXIT_CODES[self.verdict]


class _ResultSchema(GenerateJsonSchema):
    """A file that is written has every key, null where there is nothing, but those that are left out for some values.

    Titles that repeat the key are left out.
    """

    def field_title_should_be_set(self, schema: object) -> bool:  # noqa: ARG002
        return False

    def field_is_required(self, field: Any, total: bool) -> bool:  # noqa: ANN401, ARG002, FBT001
        return "serialization_exclude_if" not in field


def result_schema(kind: type[FrozenModel]) -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of a result as it is written."""
    described = kind.model_json_schema(mode="serialization", schema_generator=_ResultSchema)
    return {"$schema": GenerateJsonSchema.schema_dialect, **described}


#: The function that returns the JSON Schema (2020-12) which `secateur schema latency` prints.
schema = partial(result_schema, Comparison)


def load_comparison(path: Path) -> Comparison:
    """Read a comparison.

    Raises:
        InputError: the file is missing, is no comparison, or has another schema version.
    """
    return read_value(path, Comparison, f"a {RESULT_FILE} of schema version {SCHEMA_VERSION}; compare again")
