"""What a recipe says about its task: one frozen class for each kind, told apart by `kind`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from pipeline.core.artifact import FrozenModel
from pipeline.core.paths import ExistingFile, ExistingPath

Argument = str | int | float | bool | None


class ClassificationTask(FrozenModel):
    """One class of several for each sample, an image or a series: the network gives a logit for each class."""

    kind: Literal["classification"]


class TaskFile(FrozenModel):
    """Your own Python file, with a function `task(**arguments)` that returns what docs/tasks.md describes."""

    kind: Literal["file"]
    path: ExistingFile = Field(description="The Python file.")
    arguments: dict[str, Argument] = Field(default={}, description="Keyword arguments of task.")
    inputs: tuple[ExistingPath, ...] = Field(
        default=(),
        description="Files and folders that task reads: when their content changes, finished stages are made again.",
    )


TaskConfig = Annotated[ClassificationTask | TaskFile, Field(discriminator="kind")]


def task_settings(config: TaskConfig) -> dict[str, Any]:
    """Return what tells two tasks apart; a file is told apart by its content, see `pipeline.data.task_digest`."""
    return config.model_dump(mode="json", exclude={"path", "inputs"})
