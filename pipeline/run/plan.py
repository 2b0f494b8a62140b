"""Recipe to steps with cache keys: what would run, what is there already, and why. Loads no torch.

The key of a step is the sha256 of its ingredients: stage kind, revision, full configuration with defaults, the key of
the step before, the digest of the data, the versions of the libraries that the stage names, the seed, the batch, the
target's runtime for a stage that runs its files, and for one that measures the whole target and the digest of the
machine. Files count by content, not by path, and so do modules next to a definition or a data file that it imports.

What a stage makes does not depend on `on_no_gain`: it has a key of its own, which is the step's where nothing is timed.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from pipeline.core.artifact import file_digest, payload_digest
from pipeline.core.code_inputs import content_digest, input_digests
from pipeline.core.cpu import cpu_flags
from pipeline.core.local_imports import local_modules
from pipeline.core.runtimes import RUNTIMES, shipping_runtimes
from pipeline.core.stage import Remarks, runs_in
from pipeline.data import data_digest, task_identity
from pipeline.data.config import data_settings
from pipeline.measure.devices.registry import device_record
from pipeline.measure.machine import machine_fingerprint
from pipeline.network.shards import weight_files
from pipeline.results.measurement import machine_digest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from pipeline.core.stage import Stage, Target
    from pipeline.core.store import Store
    from pipeline.recipe import LoadedRecipe, ModelConfig

#: Bump this when the original's artifact would be written differently.
_ORIGINAL_REVISION = 1
#: Bump this when a stage's gain would be decided differently.
_GAIN_REVISION = 1

#: Keys of the data that the shape of samples depends on.
_SHAPING = {"source", "size", "channels", "arguments"}
#: Sources whose content decides on shapes and classes, which a network is checked against.
_OF_USERS = {"file", "folder"}

_DIGEST = re.compile(r"(sha256:)?[0-9a-f]{64}")
#: In place of a key that is not there, which is another thing than one that is None.
_ABSENT = object()

Ingredients = dict[str, Any]


@dataclass(frozen=True)
class PlannedStep:
    """One step: the original (index 0, no stage) or a stage. `reason` says why it is cached or not.

    `made` is the key of what the stage makes: that of the step, unless the step also asks whether it brings a gain.
    """

    index: int
    label: str
    stage: Stage | None
    ingredients: Ingredients
    key: str
    made: str
    cached: bool
    reason: str
    remarks: Remarks = field(default_factory=Remarks)


@dataclass(frozen=True)
class Plan:
    """All steps of a recipe, in order, with what tells the data apart."""

    steps: tuple[PlannedStep, ...]
    data_identity: Ingredients
    machine: dict[str, Any]


def digest_of(ingredients: Mapping[str, Any]) -> str:
    """Return the sha256 over the ingredients as canonical JSON."""
    return hashlib.sha256(json.dumps(ingredients, sort_keys=True, allow_nan=False).encode()).hexdigest()


def resolve(stages: Sequence[Stage]) -> list[Stage]:
    """Return the stages with every choice made that depends on this machine, then every one on the stages behind."""
    here = [stage.resolved(cpu_flags()) for stage in stages]
    return [stage.following(here[index:]) for index, stage in enumerate(here, 1)]


def remarks_on(stages: Sequence[Stage], target: Target) -> list[Remarks]:
    """Return what is to be said of each stage of a recipe before anything runs."""
    here = [stage.resolved(cpu_flags()) for stage in stages]
    return [stage.remarks(here[index:], target) for index, stage in enumerate(here, 1)]


def labels(stages: Sequence[Stage]) -> list[str]:
    """Return a short name for each stage: its own, and a number where names repeat."""
    names: list[str] = []
    for stage in stages:
        name = stage.label
        repeats = sum(earlier == name or earlier.startswith(f"{name} #") for earlier in names)
        names.append(f"{name} #{repeats + 1}" if repeats else name)
    return names


def make_plan(loaded: LoadedRecipe, store: Store, seed: int, previous: Sequence[Ingredients] = ()) -> Plan:
    """Work out every step of a recipe. `previous` are the ingredients of the last run in the same folder.

    Raises InputError when the data set or a file is missing.
    """
    source = loaded.recipe.data
    data = {
        **({"digest": data_digest(source), "split": data_settings(source)} if source else {}),
        **task_identity(loaded.recipe.task),
    }
    machine = machine_fingerprint()
    where = _where(loaded, machine)
    stages = resolve(loaded.recipe.stages)
    remarks = [Remarks(), *remarks_on(loaded.recipe.stages, loaded.recipe.target)]
    ingredients = [_original(loaded, seed)]
    made = [digest_of(ingredients[0])]
    for stage in stages:
        own = _stage(loaded, stage, digest_of(ingredients[-1]), data, seed)
        if stage.model_copy(update={"on_no_gain": "keep"}).measures:
            own |= where
        made.append(digest_of(own))
        ingredients.append(own if stage.on_no_gain == "keep" else {**own, **where, **_gain(stage, own)})
    names = ["original", *labels(stages)]
    steps: list[PlannedStep] = []
    for index, (name, given) in enumerate(zip(names, ingredients, strict=True)):
        key = digest_of(given)
        cached = store.has(key)
        before = previous[index] if index < len(previous) else None
        finished = "made by the --fresh run that was stopped" if store.aside else "in the store"
        reason = finished if cached else _left_aside(store, key) or _difference(before, given)
        if not cached and store.has(made[index]):
            reason = "made before; its gain has yet to be timed"
        planned = stages[index - 1] if index else None
        steps.append(PlannedStep(index, name, planned, given, key, made[index], cached, reason, remarks[index]))
    return Plan(tuple(steps), data, machine)


def _original(loaded: LoadedRecipe, seed: int) -> Ingredients:
    model, data = loaded.recipe.model, loaded.recipe.data
    return {
        "kind": "original",
        "revision": _ORIGINAL_REVISION,
        **_definition(model),
        **({"inputs": [*input_digests(model.inputs, "model.inputs")]} if model.inputs else {}),
        "weights": _weights(model),
        "arguments": dict(model.arguments),
        "input_shape": data.model_dump(mode="json", include=_SHAPING) if data else {},
        **({"data": data_digest(data)} if data and data.source in _OF_USERS else {}),
        **task_identity(loaded.recipe.task),
        # Without weights the network starts at random, and so depends on the seed.
        "seed": None if model.stored or (model.weights and model.strict) else seed,
        "versions": {name: version(name) for name in ("torch", *model.libraries)},
    }


def _definition(model: ModelConfig) -> Ingredients:
    """Return what a network is built by: a file with the modules that it imports, or all files of a stored one."""
    if model.stored:
        return {"stored": payload_digest("torch", model.stored)}
    return {"definition": file_digest(model.definition), **_modules(model.definition)}


def _weights(model: ModelConfig) -> object:
    """Return the digest of the weights; with shards those of all files, and how they are read where that is said."""
    if model.weights is None:
        return None
    files = [file_digest(file) for file in weight_files(model.weights)]
    read = model.model_dump(include={"weights_key", "strip_prefix", "strict"})
    return {"files": files, **read} if read or len(files) > 1 else files[0]


def _modules(definition: Path) -> Ingredients:
    """Return the modules beside a definition that it imports, as part of what it is; nothing where there is none."""
    found = local_modules(definition)
    return {"modules": {name: file_digest(path) for name, path in found.items()}} if found else {}


def _stage(loaded: LoadedRecipe, stage: Stage, parent: str, data: Ingredients, seed: int) -> Ingredients:
    runtime = {"runtime": runs_in(loaded.recipe.target)} if stage.computes else {}
    packages = [RUNTIMES[name].package for name in runtime.values()]
    return {
        "kind": stage.kind,
        "revision": stage.revision,
        "config": _by_content(stage.model_dump(mode="json", by_alias=True, exclude={"on_no_gain"}), stage.files()),
        "parent": parent,
        "data": data,
        "batch": loaded.recipe.target.batch,
        "versions": {name: version(name) for name in (*stage.depends_on(), *packages)},
        "seed": seed,
        **runtime,
    }


def _where(loaded: LoadedRecipe, machine: Mapping[str, Any]) -> Ingredients:
    """Return what a latency depends on."""
    return {
        "target": loaded.recipe.target.model_dump(mode="json"),
        "machine": machine_digest(machine),
        "device": device_record(loaded.recipe.target.device).model_dump(mode="json"),
        **({"sizes": list(task.timed)} if (task := loaded.recipe.task) and task.timed else {}),
    }


def _gain(stage: Stage, own: Ingredients) -> Ingredients:
    """Return what a step that asks for a gain depends on in addition to what its stage does and where it is timed."""
    packages = [RUNTIMES[name].package for name in shipping_runtimes()]
    return {
        "config": {**own["config"], "on_no_gain": stage.on_no_gain},
        "versions": {**own["versions"], **{name: version(name) for name in packages}},
        "gain": _GAIN_REVISION,
    }


def _by_content(config: dict[str, Any], files: Sequence[Path]) -> dict[str, Any]:
    """Replace every path of `files` by the digest of its content; everything else stays, whatever it is called."""
    digests = {str(path): f"sha256:{content_digest(path)}" for path in files}

    def replaced(value: object) -> object:
        if isinstance(value, dict):
            return {name: replaced(item) for name, item in value.items()}
        if isinstance(value, list):
            return [replaced(item) for item in value]
        return digests.get(value, value) if isinstance(value, str) else value

    return {name: replaced(value) for name, value in config.items()}


def _left_aside(store: Store, key: str) -> str:
    """Say that a fresh run leaves aside what is in the store; empty where there is nothing, or no such run."""
    return "in the store, which --fresh ignores" if store.aside and store.aside.has(key) else ""


def _difference(before: Ingredients | None, now: Ingredients) -> str:
    """Say in a few words what differs from the ingredients of the last run."""
    if before is None:
        return "not run before"
    if before["kind"] != now["kind"]:
        return f"was {before['kind']}, is {now['kind']}"
    stored = json.loads(json.dumps(now, allow_nan=False))  # as the last run's are
    for name, value in stored.items():
        if before.get(name) == value:
            continue
        return "follows a step that changed" if name == "parent" else _change((name,), before.get(name), value)
    return "not in the store: not finished, or removed"


def _change(place: tuple[str, ...], before: object, now: object) -> str:
    """Say where two values differ first, down to the key; of files only that their content changed."""
    before, now = _by_name(before), _by_name(now)
    if isinstance(before, dict) and isinstance(now, dict):
        key = next(each for each in sorted({*before, *now}) if before.get(each, _ABSENT) != now.get(each, _ABSENT))
        return _change(place if key == "digest" else (*place, key), before.get(key, _ABSENT), now.get(key, _ABSENT))
    text = ".".join(place[1:] or place)
    return f"{text}: changed" if _digests(before) and _digests(now) else f"{text}: {_shown(before)} -> {_shown(now)}"


def _by_name(value: object) -> object:
    """Return pairs of a file's name and digest as a mapping, anything else as it is."""
    pairs = isinstance(value, list) and all(
        isinstance(each, list) and _digests(each[1:2]) and not each[2:] for each in value
    )
    return dict(value) if pairs and value else value  # type: ignore[call-overload]


def _digests(value: object) -> bool:
    """Say whether a value stands for files: a digest, or a list of digests."""
    each = value if isinstance(value, list) else [value]
    return bool(each) and all(isinstance(one, str) and _DIGEST.fullmatch(one) for one in each)


def _shown(value: object) -> str:
    if value is _ABSENT:
        return "absent"
    return "a file" if _digests(value) else "settings" if isinstance(value, dict) else str(value)
