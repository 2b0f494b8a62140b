"""The result of `secateur gate`: one entry for each model, and the exit code of all of them together.

When models differ, the exit code is the first of these that any of them has:

| code | what it says                                                     |
|------|------------------------------------------------------------------|
| 6    | wrong outputs: a candidate computes something else               |
| 1    | FAIL: a candidate is slower, or the drift check found a slowdown |
| 2    | bad input: no baseline, a changed file in the store, a bad file  |
| 5    | a device cannot be reached                                       |
| 4    | INCOMPARABLE: measured on terms other than the baseline's's        |
| 3    | INCONCLUSIVE                                                     |
| 0    | PASS                                                             |

What is proven against a candidate comes first: who tolerates one of the codes that say "could not be judged" (2 to 5)
does not thereby overlook a slowdown of another model.
"""

from __future__ import annotations

from functools import partial
from typing import Literal

from pipeline.core.artifact import FrozenModel
from pipeline.results.comparison import EXIT_CODES, Comparison, Reason, Verdict, result_schema

SCHEMA_VERSION: Literal[1] = 1
RESULT_FILE = "gate.json"

Check = Literal["gate", "drift"]
#: What an INCONCLUSIVE means for the exit code: 3, or 0, or 1, or measured again for longer.
Policy = Literal["report", "pass", "fail", "retry"]
_POLICY_CODES: dict[Policy, int] = {"report": 3, "pass": 0, "fail": 1, "retry": 3}
_PRECEDENCE = (6, 1, 2, 5, 4, 3, 0)


class DriftStep(FrozenModel):
    """A change of level in a series of ratios.

    `created` is the date of the first point after it; `size` the level after it over that before it, minus one, where
    levels are means of the points between two steps; `p_value` that of the t-test between the two.
    """

    index: int
    created: str
    size: float
    p_value: float


class Drift(FrozenModel):
    """What the series of ratios to the frozen reference shows: how many points, every step, and those that last.

    A step lasts when it is a slowdown and the last level is still that much above the one before it. `total` is the
    last level over the first, minus one.
    """

    reference: str
    points: int
    steps: tuple[DriftStep, ...] = ()
    lasting: tuple[DriftStep, ...] = ()
    total: float = 0.0


class Failure(FrozenModel):
    """Why a model has no verdict, with the exit code that stands for the kind of reason."""

    exit_code: int
    text: str


class ModelResult(FrozenModel):
    """One model of a gate.

    Either `failure` or `verdict` is there. `comparison` is absent where nothing was timed. `reasons` and `verdict` are
    the gate's: they take the other models and the drift into account. `attempts` counts measurements, `accepted` is the
    digest that became the baseline, `exit_code` this model's alone.
    """

    model: str
    file: str
    margin: float
    verdict: Verdict | None = None
    reasons: tuple[Reason, ...] = ()
    comparison: Comparison | None = None
    failure: Failure | None = None
    drift: Drift | None = None
    attempts: int = 1
    accepted: str | None = None
    exit_code: int = 0


class GateResult(FrozenModel):
    """A gate over all models of a configuration."""

    schema_version: Literal[1] = SCHEMA_VERSION
    tool_version: str
    created: str
    config: str
    check: Check = "gate"
    inconclusive: Policy = "report"
    reason: str | None = None
    models: tuple[ModelResult, ...]
    exit_code: int


def model_code(found: ModelResult, policy: Policy) -> int:
    """Return the exit code of one model: 0 once it was accepted, else that of its failure or its verdict."""
    if found.accepted:
        return 0
    if found.failure:
        return found.failure.exit_code
    if found.verdict is None or found.verdict == "INCONCLUSIVE":
        return _POLICY_CODES[policy]
    return EXIT_CODES[found.verdict]


def overall_code(models: tuple[ModelResult, ...]) -> int:
    """Return the exit code of several models, in the order of the table above."""
    codes = {each.exit_code for each in models}
    return next((code for code in _PRECEDENCE if code in codes), 0)


#: The function that returns the JSON Schema (2020-12) which `secateur schema gate` prints.
schema = partial(result_schema, GateResult)
