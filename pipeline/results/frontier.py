"""What a network's score is at several latencies: the content of frontier.json."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from pipeline.core.artifact import FrozenModel
from pipeline.core.stage import Target
from pipeline.results.run import Interval, Score, TaskFacts

SCHEMA_VERSION: Literal[1] = 1
FRONTIER_FILE = "frontier.json"
Status = Literal["finished", "unreachable", "failed"]


class FrontierFile(FrozenModel):
    """What is known of one file: milliseconds of one inference, validation score, bytes; absent where not taken."""

    milliseconds: Interval | None = None
    score: Score | None = None
    size_bytes: int | None = None


class FrontierPoint(FrontierFile):
    """The result of a run with one latency as target.

    `ratio` is the time of the pruned file over that of the unpruned network's in the precision that ships, as `prune`
    measured it, `asked_ratio` what was asked for, and `met` whether it is near enough. `original_ratio` is the time of
    the file that ships over that of the original FP32 file, where the recipe's `measure` timed both in the target's
    runtime. Runs are compared by these, as each was measured in one go: `milliseconds` are `original_ratio` times those
    of the frontier's original, or else `ratio` times those of the unpruned file. `change` is that of the score against
    the original.
    `pareto` says that no other file, the original among them, is as fast and as good, and better in one of both.
    `unreachable` targets and `failed` runs have the reason in `why` and nothing else.
    """

    target: str
    folder: str = Field(description="The run's folder, relative to that of frontier.json.")
    status: Status = "finished"
    why: str = ""
    ratio: Interval | None = None
    asked_ratio: float | None = None
    met: bool | None = None
    original_ratio: Interval | None = None
    change: float | None = None
    pareto: bool = False


class Frontier(FrozenModel):
    """Score and latency of one recipe at several targets. `stage` is its place among the recipe's, from 0.

    `original` is the original FP32 file as the first run has it. While it is being made, only the points that are done
    are in it. Scores are of the validation split: the test split
    is not looked at.
    """

    schema_version: Literal[1] = SCHEMA_VERSION
    name: str
    recipe_file: str
    stage: int
    target: Target
    seed: int
    task: TaskFacts = TaskFacts()
    original: FrontierFile = FrontierFile()
    points: tuple[FrontierPoint, ...] = ()


def mark_pareto(found: Frontier) -> Frontier:
    """Return the frontier with the mark of each point set anew."""
    better = 1 if found.task.judged.higher_is_better else -1

    def place(file: FrontierFile) -> tuple[float, float] | None:
        if file.milliseconds is None or file.score is None:
            return None
        return -file.milliseconds.value, better * file.score.judged

    places = [each for file in (found.original, *found.points) if (each := place(file)) is not None]

    def is_best(file: FrontierFile) -> bool:
        own = place(file)
        return own is not None and not any(
            other != own and all(a >= b for a, b in zip(other, own, strict=True)) for other in places
        )

    points = tuple(each.model_copy(update={"pareto": is_best(each)}) for each in found.points)
    return found.model_copy(update={"points": points})


def schema() -> dict[str, Any]:
    """Return the JSON Schema of a frontier."""
    return Frontier.model_json_schema()
