"""What a Python program gives and gets: a recipe and its stages, and the result of a run.

What a recipe holds is checked when it is planned or run.
"""

from __future__ import annotations

from dataclasses import dataclass
from inspect import Parameter, Signature
from typing import TYPE_CHECKING, Any

from pipeline.bundle.selection import check_finished, shipping_rows, stored_artifact
from pipeline.core.errors import InputError
from pipeline.results.bundle import BundleOptions
from pipeline.stages import STAGES

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from pipeline.core.stage import Runtime, Stage
    from pipeline.results.run import RunReport

Settings = dict[str, Any]


def _stage(kind: str, model: type[Stage]) -> Callable[..., Settings]:
    """Return a function that writes a stage as a recipe has it; its help lists the keys and what they mean."""
    fields = {name: field for name, field in model.model_fields.items() if name != "kind"}

    def written(**settings: object) -> Settings:
        return {"kind": kind, **settings}

    lines = [f"{name}: {field.description}" for name, field in fields.items()]
    written.__name__ = written.__qualname__ = model.__name__
    written.__doc__ = "\n\n".join([f"{{kind: {kind}}}: {model.__doc__}", *lines])
    parameters = [
        Parameter(name, Parameter.KEYWORD_ONLY, default=Parameter.empty if field.is_required() else field.default)
        for name, field in fields.items()
    ]
    written.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
    return written


#: By the names of the stages' classes.
STAGE_FUNCTIONS = {model.__name__: _stage(kind, model) for kind, model in STAGES.items()}


@dataclass(frozen=True)
class Recipe:
    """What to compress, on which data, for which target, by which stages: the keys of a recipe in YAML."""

    name: str
    model: Mapping[str, Any]
    data: Mapping[str, Any]
    stages: Sequence[Mapping[str, Any]]
    target: Mapping[str, Any] | None = None
    budget: Mapping[str, Any] | None = None

    @property
    def values(self) -> Settings:
        """The recipe as YAML would give it, stages last."""
        given = {name: value for name, value in vars(self).items() if value is not None and name != "stages"}
        return {"format": 1, **given, "stages": list(self.stages)}


@dataclass(frozen=True)
class Result:
    """A run: what was found (`report`, the content of run.json), and the folder that all of it lies in."""

    report: RunReport
    folder: Path

    def stage(self, label: str) -> Path:
        """Return the folder of what a step made, by its label in the report: "original", "prune", "export onnx".

        Raises:
            InputError: there is no such step; the message names those that there are.
        """
        for row in self.report.rows:
            if row.label == label:
                return self.folder / row.folder
        labels = ", ".join(row.label for row in self.report.rows)
        raise InputError(f'found no step "{label}" in {self.folder}, allowed: {labels}')

    @property
    def files(self) -> dict[Runtime, Path]:
        """The exported files that ship, by the runtime that reads them.

        Raises:
            InputError: nothing was exported, the run is not finished, or its files are gone.
        """
        check_finished(self.report, self.folder)
        rows = shipping_rows(self.report, BundleOptions())
        return {runtime: stored_artifact(row, self.folder).file for runtime, row in rows.items()}

    @property
    def bundle(self) -> Path:
        """The folder of the edge bundle that the stage `bundle` wrote; beside it lies its archive.

        Raises:
            InputError: there is none.
        """
        if self.report.bundle is None:
            raise InputError(f"{self.folder} has no bundle; end the recipe with the stage bundle, or call write_bundle")
        return self.folder / self.report.bundle.folder

    @property
    def passed(self) -> bool:
        """Whether the run is finished and every line of the recipe's budget is met."""
        return self.report.status == "finished" and all(line.verdict == "met" for line in self.report.budget)
