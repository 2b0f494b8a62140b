"""Secateur from Python: the run, checks, store and report of the command, with values in place of YAML.

    from pipeline.api import Export, Finetune, Prune, Quantize, Recipe, run

    recipe = Recipe(
        name="shapes on a small CPU",
        model={"definition": "model.py", "arguments": {"classes": 3}},
        data={"source": "folder", "root": "images", "size": 32},
        stages=[Finetune(epochs=8), Prune(ratio=0.3), Finetune(epochs=4), Export(to="onnx"), Quantize()],
    )
    result = run(recipe, "runs/shapes")
    print(result.report.rows[-1].verdict, result.files["onnxruntime"])

Every key and value is that of the YAML: stages have a function here, all else is written as it stands there, in dicts
and lists; paths may be text or `Path`, relative ones start at the current folder. What is wrong is told in the same
words, all at once and before anything runs (`RecipeError`); any other error is another `SecateurError`. Importing this
module loads no heavy library, and nothing here prints.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from inspect import Parameter, Signature
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from pipeline.core.errors import InputError, RecipeError, SecateurError
from pipeline.core.stage import SilentProgress
from pipeline.core.store import Store, default_root, read_artifact
from pipeline.plan import Step, make_plan
from pipeline.recipe import LoadedRecipe, load_recipe, load_values
from pipeline.records import previous_ingredients, read_run
from pipeline.runner import Run
from pipeline.stages import bundle, export, finetune, measure, prune, quantize, quantize_aware, simplify

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import nn

    from pipeline.core.run import RunReport
    from pipeline.core.stage import Progress, Stage

__all__ = [
    "Bundle",
    "Export",
    "Finetune",
    "Measure",
    "Prune",
    "Quantize",
    "QuantizeAwareFinetune",
    "Recipe",
    "RecipeError",
    "Result",
    "SecateurError",
    "Simplify",
    "load_network",
    "open_run",
    "plan",
    "run",
]

Settings = dict[str, Any]


def _stage(model: type[Stage]) -> Callable[..., Settings]:
    """Return a function that writes the stage as a recipe has it; its help lists the keys and what they mean."""
    (kind,) = get_args(model.model_fields["kind"].annotation)
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


Prune = _stage(prune.Prune)
Finetune = _stage(finetune.Finetune)
Export = _stage(export.Export)
Simplify = _stage(simplify.Simplify)
Quantize = _stage(quantize.Quantize)
QuantizeAwareFinetune = _stage(quantize_aware.QuantizeAwareFinetune)
Measure = _stage(measure.Measure)
Bundle = _stage(bundle.Bundle)


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
        """The recipe as YAML would give it."""
        given = {name: value for name, value in vars(self).items() if value is not None}
        return {"format": 1, **given}


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
    def passed(self) -> bool:
        """Whether the run is finished and every line of the recipe's budget is met."""
        return self.report.status == "finished" and all(line.verdict == "met" for line in self.report.budget)


def run(
    recipe: Recipe | Mapping[str, Any] | str | Path,
    out: str | Path,
    *,
    seed: int = 0,
    test: bool = True,
    overrides: Sequence[str] = (),
    store: str | Path | None = None,
    progress: Progress | None = None,
) -> Result:
    """Run a recipe into the folder `out`. Finished stages are taken from the store, so running again resumes.

    Args:
        recipe: a `Recipe`, a dict with the same keys and `format`, or the path of a YAML file.
        out: the run folder: run.json, report.html and stages/.
        seed: of everything random.
        test: False leaves the test split alone, for while one chooses.
        overrides: texts such as `stages.prune.ratio=0.4`, as the command's `--set`.
        store: where finished stages are kept; the command's store when left out.
        progress: told how far it is; `pipeline.progress.ConsoleProgress` draws a bar.

    Raises:
        RecipeError: all problems of the recipe, before anything is run.
        SecateurError: data or files are not usable, or a stage failed; what was finished is kept.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    loaded, folder = _loaded(recipe, overrides), Path(out)
    task = Run(loaded, folder, _store(store), seed, progress or SilentProgress(), test)
    return Result(task.execute(), folder)


def plan(
    recipe: Recipe | Mapping[str, Any] | str | Path,
    out: str | Path | None = None,
    *,
    seed: int = 0,
    overrides: Sequence[str] = (),
    store: str | Path | None = None,
) -> tuple[Step, ...]:
    """Check a recipe and return its steps: what `run` would do, what is in the store, and why. Runs nothing.

    `out` is the folder of the last run, from which is known what has changed; other arguments and errors as of `run`.
    """
    previous = previous_ingredients(Path(out)) if out else ()
    return make_plan(_loaded(recipe, overrides), _store(store), seed, previous).steps


def open_run(folder: str | Path) -> Result:
    """Return the result of a run that was made before, in its folder. Raises InputError when there is none."""
    return Result(*read_run(Path(folder)))


def load_network(folder: str | Path) -> nn.Module:
    """Return the torch network that a step made, in eval mode on the CPU: `load_network(result.stage("finetune"))`.

    Raises:
        InputError: the folder holds no torch network.
        ResourceError: its files were changed since.
    """
    from pipeline.network import load_network as load  # noqa: PLC0415 - loads torch

    folder = Path(folder)
    if not (folder / "network.json").is_file():
        raise InputError(f"{folder} holds no network.json, expected the folder of a torch network: stages/01-prune")
    return load(read_artifact(folder))


def _loaded(recipe: Recipe | Mapping[str, Any] | str | Path, overrides: Sequence[str]) -> LoadedRecipe:
    if isinstance(recipe, str | Path):
        return load_recipe(Path(recipe), overrides)
    values = recipe.values if isinstance(recipe, Recipe) else recipe
    return load_values(values, Path(), overrides)


def _store(root: str | Path | None) -> Store:
    return Store(default_root() if root is None else Path(root))
