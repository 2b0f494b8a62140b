"""The recipe: what to compress, on which data, for which target, by which stages.

A recipe is YAML, `format: 1`. Reading one finds all its problems in one pass, each with its line, and checks that each
stage can start from what the stage before it gives, before anything heavy is loaded.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError, field_validator, model_validator
from pydantic.json_schema import GenerateJsonSchema

from pipeline import __version__
from pipeline.core.artifact import FrozenModel
from pipeline.core.code_inputs import NETWORK_FILE
from pipeline.core.errors import InputError, Problem, RecipeError
from pipeline.core.paths import ExistingFile, ExistingPath
from pipeline.core.runtimes import judged_form, last_readable
from pipeline.core.stage import Target
from pipeline.core.units import FactorOrDuration, FactorOrSize, Points, ScoreDrop
from pipeline.data.config import SIZED, Argument, DataConfig, with_size
from pipeline.measure.devices.registry import device_record
from pipeline.network.library import DefinitionFile, libraries_of, with_name
from pipeline.recipe.chain import chain_problems
from pipeline.recipe.overrides import apply
from pipeline.recipe.problems import problem_messages, shown_value
from pipeline.recipe.values import VALUES, read_values
from pipeline.recipe.yaml import Document, dotted_place, read_file
from pipeline.stages import AnyStage
from pipeline.tasks.config import RegressionTask, TaskConfig

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from pydantic.json_schema import JsonSchemaValue
    from pydantic_core import core_schema

    from pipeline.core.artifact import Form
    from pipeline.core.stage import Stage
    from pipeline.recipe.yaml import Place

#: The newest format of recipes that this version reads.
FORMAT = 1


class ModelConfig(FrozenModel):
    """The network to start from."""

    definition: DefinitionFile = Field(
        description="Python file with a function build(**arguments) -> torch.nn.Module; or timm:NAME, torchvision:NAME "
        "or transformers:NAME from an installed package; or the folder of a stage, to go on from its network."
    )
    weights: ExistingFile | None = Field(
        default=None,
        description="Trained weights (.safetensors, .pt, or the index of shards beside it, *.index.json); absent: as "
        "build returns them.",
    )
    weights_key: str | None = Field(
        default=None,
        exclude_if=lambda given: given is None,
        description="Which entry of the file is the network, where it has several: ema, or model.ema in one of its "
        "entries.",
    )
    strip_prefix: str | None = Field(
        default=None,
        exclude_if=lambda given: given is None,
        description="What stands before the network's names in the file, such as model.; absent: what makes more of "
        "them fit.",
    )
    strict: bool = Field(
        default=True,
        exclude_if=lambda given: given,
        description="Everything has to fit. If false, tensors that the file lacks, or has with another shape, stay as "
        "build makes them, those that the network lacks are left out, and all are listed.",
    )
    arguments: dict[str, Argument] = Field(
        default={}, description="Keyword arguments of build; for a named network, those that its package takes."
    )

    inputs: tuple[ExistingPath, ...] = Field(
        default=(),
        description="Files and folders that build reads or imports from: when their content changes, finished stages "
        "are made again.",
    )

    _name = model_validator(mode="before")(with_name)

    @model_validator(mode="after")
    def _of_weights(self) -> ModelConfig:
        given = [name for name in ("weights_key", "strip_prefix", "strict") if name in self.model_fields_set]
        if given and self.weights is None:
            raise ValueError(f"found {', '.join(given)} without weights, allowed: with weights")
        return self

    @field_validator("inputs", mode="before")
    @classmethod
    def _tuple(cls, given: object) -> object:
        """Turn a list into a tuple: after the validator above it no longer comes from JSON."""
        return tuple(given) if isinstance(given, list) else given

    @model_validator(mode="after")
    def _of_stored(self) -> ModelConfig:
        given = [name for name in ("arguments", "inputs") if getattr(self, name)]
        if self.stored and given:
            raise ValueError(
                f"found {', '.join(given)} with a stored network, allowed: its own, which are stored with it"
            )
        return self

    @property
    def stored(self) -> Path | None:
        """The folder of the stored network that is gone on from; None for a definition."""
        return self.definition.parent if self.definition.name == NETWORK_FILE else None

    @property
    def libraries(self) -> tuple[str, ...]:
        """The packages whose versions decide what is built."""
        return libraries_of(self.definition)


class Budget(FrozenModel):
    """Limits that the result must keep; they decide whether a run passes. A factor is relative to the original."""

    latency: FactorOrDuration | None = Field(default=None, description="At most this time, such as 0.25x or 3ms.")
    score_drop: ScoreDrop | None = Field(
        default=None,
        description="At most this much of the task's score lost: points of a share, such as 0.5pt; a share of the "
        "original's score, such as 2%; or the metric's own unit, such as 0.2dB.",
    )
    accuracy_drop: Points | None = Field(
        default=None, description="The same in points of a classifier's accuracy, such as 0.5pt."
    )
    size: FactorOrSize | None = Field(default=None, description="At most this size, such as 0.3x or 1.5MB.")

    @model_validator(mode="after")
    def _not_empty(self) -> Budget:
        if self.latency is None and self.drop is None and self.size is None:
            raise ValueError("found an empty budget, allowed: at least one of latency, score_drop, size")
        if self.score_drop is not None and self.accuracy_drop is not None:
            raise ValueError("found score_drop and accuracy_drop, allowed: one of them")
        return self

    @property
    def drop(self) -> ScoreDrop | None:
        """How much of the score may be lost."""
        return self.score_drop if self.accuracy_drop is None else ScoreDrop(self.accuracy_drop, "pt")


class Recipe(FrozenModel):
    """A recipe: a trained network, and the stages that prune, train, export, quantize, measure or ship it."""

    format: Literal[1] = Field(description="Version of the recipe's own format.")
    name: str = Field(min_length=1, description="What the recipe is for, in a few words.")
    model: ModelConfig = Field(description="The network to start from.")
    task: TaskConfig | None = Field(
        default=None, description="What the network is for; absent: it tells classes of images apart."
    )
    data: DataConfig | None = Field(
        default=None, description="The samples to train, calibrate and evaluate on; a task's own file has its own."
    )
    target: Target = Field(default=Target(), description="Where the result will run; this decides what is measured.")
    budget: Budget | None = Field(default=None, description="Limits that the result must keep.")
    stages: tuple[AnyStage, ...] = Field(min_length=1, description="The stages, in this order.")


@dataclass(frozen=True)
class LoadedRecipe:
    """A valid recipe, its file, its plain values after `--set`, and the sha256 of those values.

    Where a program made the values, `path` is no file but says where paths start: in its folder.
    """

    recipe: Recipe
    path: Path
    digest: str
    raw: dict[str, Any]


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> LoadedRecipe:
    """Read, override and validate a recipe; its paths become absolute, relative ones from the recipe's folder.

    Args:
        path: the YAML file.
        overrides: texts such as `stages.0.ratio=0.4` or `stages.prune.ratio=0.4`.

    Raises:
        RecipeError: all problems at once, each with its line, what was found and what is allowed.
    """
    name = str(path)
    return _loaded(read_file(path, name), path.resolve(), name, overrides)


def load_values(values: Mapping[str, Any], folder: Path, overrides: Sequence[str] = ()) -> LoadedRecipe:
    """Override and validate a recipe of Python values as `load_recipe` does; relative paths start at `folder`.

    Raises:
        RecipeError: all problems at once, each with its key, what was found and what is allowed.
    """
    return _loaded(read_values(values), folder.resolve() / VALUES, "recipe", overrides)


def _loaded(document: Document, path: Path, name: str, overrides: Sequence[str]) -> LoadedRecipe:
    _check_top_level(document, name)
    described = schema()
    overridden = apply(document.data, overrides, described)
    recipe, found = _validate(overridden.data, path.parent, described)
    problems = [*overridden.problems, *document.problems.values()]
    for place, message in found.items():
        if overridden.touches(place):
            problems.append(Problem(f"--set {dotted_place(place)}", message))
        elif not document.refuses(place):
            problems.append(Problem(dotted_place(place), message, document.line(place)))
    if recipe is None or problems:
        raise RecipeError(name, tuple(sorted(problems, key=lambda problem: problem.line or 0)))
    digest = hashlib.sha256(json.dumps(overridden.data, sort_keys=True, allow_nan=False).encode()).hexdigest()
    return LoadedRecipe(recipe, path, digest, overridden.data)


def _check_top_level(document: Document, name: str) -> None:
    """Refuse what is not a recipe at all, and a recipe of a newer format, before any other check."""
    data = document.data
    if () in document.problems:
        raise RecipeError(name, (document.problems[()],))
    if not isinstance(data, dict):
        found = "an empty file" if data is None else f"{shown_value(data)} at the top level"
        keys = ", ".join(Recipe.model_fields)
        problem = Problem("recipe", f"found {found}, allowed: a mapping with the keys {keys}", document.line(()))
        raise RecipeError(name, (problem,))
    written = data.get("format")
    if isinstance(written, int) and written > FORMAT:
        reads = f"secateur {__version__} reads format {FORMAT}; upgrade secateur: pip install --upgrade secateur"
        raise RecipeError(name, (Problem("format", f"found {written}, but {reads}", document.line(("format",))),))


def _validate(data: dict[str, Any], folder: Path, described: dict[str, Any]) -> tuple[Recipe | None, dict[Place, str]]:
    """Return the recipe unless it is invalid, and a message for each place that is wrong."""
    context = {"folder": folder}
    try:
        recipe = Recipe.model_validate_json(json.dumps(data, allow_nan=False), strict=True, context=context)
    except ValidationError as error:
        found = problem_messages(error.errors(include_url=False), described, data) | _sample_messages(data)
        if any(place[:1] == ("stages",) for place in found):
            return None, found
        adapter: TypeAdapter[tuple[Stage, ...]] = TypeAdapter(tuple[AnyStage, ...])
        stages = adapter.validate_json(json.dumps(data["stages"], allow_nan=False), strict=True, context=context)
        wrong = any(place[:1] == ("target",) for place in found)
        target = Target() if wrong else Target.model_validate(data.get("target", {}))
        return None, found | _stage_messages(stages, target)
    fault = device_fault(recipe.target.device)
    found = _stage_messages(recipe.stages, recipe.target) | ({("target", "device"): fault} if fault else {})
    found |= _size_messages(recipe)
    return recipe, found | _sample_messages(data) | _drop_messages(recipe)


def _sample_messages(data: Mapping[str, Any]) -> dict[Place, str]:
    """Return what is wrong where samples come from nowhere, or from two places."""
    task = data.get("task")
    own = isinstance(task, dict) and task.get("kind") == "file"
    if own and data.get("data") is not None:
        return {("data",): "found data beside a task's own file, which has its own samples, allowed: one of them"}
    if not own and data.get("data") is None:
        return {("data",): f"found nothing, required: {Recipe.model_fields['data'].description}"}
    return {}


def _drop_messages(recipe: Recipe) -> dict[Place, str]:
    """Return where points are allowed of a score that has none, as far as the kind of task tells."""
    if not isinstance(recipe.task, RegressionTask) or recipe.budget is None or recipe.budget.drop is None:
        return {}
    share = recipe.task.metric in {"SSIM", "delta1"}
    if share or recipe.budget.drop.unit != "pt":
        return {}
    key = "score_drop" if recipe.budget.score_drop else "accuracy_drop"
    return {
        ("budget", key): f"found {recipe.budget.drop}, allowed: an amount in the metric's own unit, or a share in %"
    }


def _size_messages(recipe: Recipe) -> dict[Place, str]:
    """Return where a stage may choose another size of images, and the recipe's data or task have none to choose."""
    why, allowed = "", f"allowed: data with a key size: {', '.join(SIZED)}"
    if with_size(recipe.data) is None:
        source = f"data of the source {recipe.data.source}" if recipe.data else "samples of the task's own file"
        why = f"{source}, whose images have no size that can be chosen, {allowed}"
    elif recipe.task is not None and recipe.task.dynamic:
        why = f"open sizes of the task ({', '.join(recipe.task.dynamic)}), allowed: fixed ones"
    places = [index for index, stage in enumerate(recipe.stages) if why and stage.resizes]
    return {("stages", index, "moves"): f"found resolution with {why}" for index in places}


def device_fault(device: str) -> str:
    """Say what is wrong with a target's device: it is no device, unknown, or emulated, so without a time; else ""."""
    try:
        kind = device_record(device).address.kind
    except InputError as error:
        return str(error)
    emulated = (
        f'found "{device}", which is emulated, so that its times mean nothing, allowed: local, ssh://, adb://, a name'
    )
    return emulated if kind == "qemu" else ""


def _stage_messages(stages: Sequence[Stage], target: Target) -> dict[Place, str]:
    """Return what is wrong with stages that are valid by themselves: in this chain, and here for this target."""
    unmet = [(index, *each) for index, stage in enumerate(stages) for each in stage.unmet(target)]
    found: dict[Place, str] = {
        ("stages", index, key): message for index, key, message in [*chain_problems(stages), *unmet]
    }
    return found or _runtime_messages(stages, target)


def _runtime_messages(stages: Sequence[Stage], target: Target) -> dict[Place, str]:
    """Return what is wrong if the target's runtime reads none of the files of a valid chain."""
    forms: list[Form] = ["torch"]
    for stage in stages:
        forms.append(stage.produces(forms[-1]))
    try:
        last_readable(forms, target.runtime)
    except LookupError as error:
        made = ", ".join(dict.fromkeys(map(judged_form, forms)))
        return {("target", "runtime"): f'found "{target.runtime}", which reads none of the files ({made}): {error}'}
    return {}


class _RecipeSchema(GenerateJsonSchema):
    """JSON Schema with defaults as a recipe writes them, and without a title for every key."""

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        described = super().default_schema(schema)
        inner: Any = schema["schema"]
        writer = inner.get("serialization", {})
        if writer.get("type") == "function-plain" and "default" in described:
            described["default"] = writer["function"](self.get_default_value(schema))
        return described

    def field_title_should_be_set(self, schema: object) -> bool:  # noqa: ARG002
        return False


def schema() -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of a recipe, for editors and for `recipes/schema.json`."""
    return {"$schema": GenerateJsonSchema.schema_dialect, **Recipe.model_json_schema(schema_generator=_RecipeSchema)}
