"""Secateur from Python: the run, checks, store and report of the command, with values in place of YAML.

    from pipeline.api import Bundle, Export, Finetune, Prune, Quantize, Recipe, run, verify

    recipe = Recipe(
        name="shapes on a small CPU",
        model={"definition": "model.py", "arguments": {"classes": 3}},
        data={"source": "folder", "root": "images", "size": 64},
        stages=[Finetune(epochs=9), Prune(ratio=0.5), Finetune(epochs=4), Export(to="onnx"), Quantize(), Bundle()],
    )
    result = run(recipe, "runs/shapes")
    for row in result.report.rows:
        print(row.label, row.verdict)
    print(result.files["onnxruntime"], verify(result.bundle).digest)

Every key and value is that of the YAML: stages have a function here, all else is written as it stands there, in dicts
and lists; paths may be text or `Path`, relative ones start at the current folder. What is wrong is told in the same
words, all at once and before anything runs (`RecipeError`); any other error is another `SecateurError`. Importing this
module loads no heavy library, and nothing here prints. docs/python.md has a program that runs.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from pipeline.api import stages as _stages
from pipeline.api.stages import *  # noqa: F403 - a function for each stage, whichever there are
from pipeline.api.values import Recipe, Result
from pipeline.core.dataset import SPLITS
from pipeline.core.errors import DeviceError, InputError, OutputsError, RecipeError, SecateurError
from pipeline.core.runtimes import DEFAULT_RUNTIME, RUNTIMES
from pipeline.core.stage import SilentProgress
from pipeline.core.store import Store, default_root, read_artifact
from pipeline.core.units import parse_duration, parse_margin
from pipeline.recipe import LoadedRecipe, load_recipe, load_values
from pipeline.report.progress import ConsoleProgress
from pipeline.results.run_folder import previous_ingredients, read_run
from pipeline.run.fresh import own_store, store_of_run
from pipeline.run.plan import PlannedStep, make_plan
from pipeline.run.runner import Run

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import nn

    from pipeline.bundle.of_run import WrittenBundle
    from pipeline.bundle.on_device.verify import Verification
    from pipeline.core.dataset import SplitName
    from pipeline.core.stage import Progress, Runtime
    from pipeline.results.comparison import Comparison, Metric
    from pipeline.results.frontier import Frontier
    from pipeline.results.packing import PackedSizes
    from pipeline.results.profile import CostProfile
    from pipeline.run.evaluate_file import FileScore

__all__ = [
    "ConsoleProgress",
    "Recipe",
    "RecipeError",
    "Result",
    "SecateurError",
    "compare",
    "evaluate",
    "frontier",
    "load_network",
    "open_run",
    "pack",
    "plan",
    "profile",
    "run",
    "unpack",
    "verify",
    "write_bundle",
]
__all__ += _stages.__all__

#: Errors by the exit codes of a verification.
REFUSALS = {5: DeviceError, 6: OutputsError}


def run(
    recipe: Recipe | Mapping[str, Any] | str | Path,
    out: str | Path,
    *,
    seed: int = 0,
    test: bool = True,
    overrides: Sequence[str] = (),
    store: str | Path | None = None,
    fresh: bool = False,
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
        fresh: take nothing from the store, and replace what is there once the run is finished.
        progress: told how far it is; `ConsoleProgress` draws a bar.

    Raises:
        RecipeError: all problems of the recipe, before anything is run.
        SecateurError: data or files are not usable, or a stage failed; what was finished is kept.
    """
    _no_telemetry()
    loaded, folder = _loaded(recipe, overrides), Path(out)
    progress = progress or SilentProgress()
    with store_of_run(_store(store), folder, progress, fresh=fresh) as kept:
        return Result(Run(loaded, folder, kept, seed, progress, test).execute(), folder)


def plan(
    recipe: Recipe | Mapping[str, Any] | str | Path,
    out: str | Path | None = None,
    *,
    seed: int = 0,
    overrides: Sequence[str] = (),
    store: str | Path | None = None,
    fresh: bool = False,
) -> tuple[PlannedStep, ...]:
    """Check a recipe and return its steps: what `run` would do, what is in the store, and why. Runs nothing.

    `out` is the folder of the last run, from which is known what has changed; other arguments and errors as of `run`.
    `fresh` needs it: what a fresh run that was stopped has made lies there.
    """
    previous = previous_ingredients(Path(out), SilentProgress().note) if out else ()
    loaded, kept = _loaded(recipe, overrides), _store(store)
    if fresh:
        if out is None:
            raise InputError("plan: fresh needs out, the folder of the run")
        kept = own_store(kept, Path(out))
    return make_plan(loaded, kept, seed, previous).steps


def profile(
    model: Recipe | Mapping[str, Any] | str | Path,
    *,
    device: str | None = None,
    runtime: Runtime | None = None,
    threads: int | None = None,
    precision: str | None = None,
    moves: Sequence[str] | None = None,
    overrides: Sequence[str] = (),
    arguments: Sequence[str] = (),
    inputs: Sequence[str] = (),
    seed: int = 0,
    store: str | Path | None = None,
    fresh: bool = False,
    progress: Progress | None = None,
) -> CostProfile:
    """Return what a network's file costs on a device at other widths, as the command `profile` builds and keeps it.

    Args:
        model: a recipe as of `run`, or a network alone as of the command `inspect`: a definition, a stored network's
            folder, or a name such as timm:resnet50.
        device: where files are timed; what is None is as the recipe says, else as by default.
        runtime: what runs them.
        threads: of one inference.
        precision: what they compute in, by the names of `quantize`.
        moves: what may be taken away: channels, blocks, heads, resolution.
        overrides: of a recipe, as of `run`.
        arguments: of a definition's build: texts such as `depth=56`.
        inputs: of a network alone, texts such as `3,224,224`, one for each input.
        seed: of everything random.
        store: as of `run`.
        fresh: measure again what was measured before.
        progress: told how far it is, and how long it will take.

    Raises:
        RecipeError: all problems of the recipe.
        InputError: the network or an argument cannot be used.
        DeviceError: the device cannot be reached, went away, or is throttled; what was measured is kept.
    """
    from pipeline.inspect.model_argument import is_recipe, load_model
    from pipeline.run.profile import PricingTerms, profile_model, profile_recipe

    _no_telemetry()
    terms = PricingTerms(device, runtime, threads, precision, None if moves is None else tuple(moves))
    progress = progress or SilentProgress()
    if isinstance(model, str | Path) and not is_recipe(model):
        given = load_model(str(model), arguments=arguments, inputs=inputs, overrides=overrides)
        return profile_model(given, terms, seed=seed, progress=progress, fresh=fresh).profile
    for name, texts in (("arguments", arguments), ("inputs", inputs)):
        if texts:
            raise InputError(f"{name}: found {texts[0]} with a recipe, allowed there: overrides")
    loaded = _loaded(model, overrides)
    return profile_recipe(loaded, terms, _store(store), seed=seed, progress=progress, fresh=fresh).profile


def frontier(
    recipe: Recipe | Mapping[str, Any] | str | Path,
    latency: Sequence[str],
    out: str | Path,
    *,
    stage: int | None = None,
    overrides: Sequence[str] = (),
    seed: int = 0,
    store: str | Path | None = None,
    progress: Progress | None = None,
) -> Frontier:
    """Run a recipe once for each latency, as the command `frontier` does; finished points are not run again.

    Args:
        recipe: as of `run`.
        latency: targets such as `0.5x` or `2ms`, which the recipe's one `prune` stage with a target gets.
        out: the folder of all runs, each in one named as its target, of frontier.json and frontier.html.
        stage: which stage gets them, from 0, where several have a target.
        overrides: as of `run`, for all targets.
        seed: of everything random.
        store: as of `run`.
        progress: told how far it is.

    Raises:
        RecipeError: all problems of the recipe.
        SecateurError: data or files are not usable, or the device is lost; what was finished is kept. A target that
            cannot be reached and a stage that fails are points that say so.
    """
    from pipeline.run.frontier import FrontierRun, asked_points, parse_targets, target_stage

    _no_telemetry()

    def load(more: Sequence[str]) -> LoadedRecipe:
        return _loaded(recipe, [*overrides, *more])

    place = target_stage(load(()), stage)
    asked = asked_points(load, parse_targets(latency), place)
    runs = FrontierRun(asked, place, Path(out), _store(store), seed, progress or SilentProgress())
    return runs.execute()


def open_run(folder: str | Path) -> Result:
    """Return the result of a run that was made before, in its folder. Raises InputError when there is none."""
    return Result(*read_run(Path(folder)))


def load_network(folder: str | Path) -> nn.Module:
    """Return the torch network that a step made, in eval mode on the CPU: `load_network(result.stage("finetune"))`.

    Raises:
        InputError: the folder holds no torch network.
        ResourceError: its files were changed since.
    """
    from pipeline.network.stored import load_network as load

    folder = Path(folder)
    if not (folder / "network.json").is_file():
        raise InputError(f"{folder} holds no network.json, expected the folder of a torch network: stages/01-prune")
    return load(read_artifact(folder))


def write_bundle(
    run: Result | str | Path,
    out: str | Path | None = None,
    *,
    sign: str | Path | None = None,
    progress: Progress | None = None,
    **options: Any,  # noqa: ANN401 - keys of the stage `Bundle`, which are checked
) -> WrittenBundle:
    """Write the edge bundle of a finished run, as the command `bundle` does; return its digest and places.

    Args:
        run: a result, or the folder of a run.
        out: a folder, or an archive where it ends in .tar.gz; the run's folder when left out.
        sign: a secret key of minisign.
        progress: told how far it is.
        options: keys of the stage `Bundle`, in place of those of the recipe.

    Raises:
        InputError: the run is not finished, its data or files are not what they were, or an option is not allowed.
        ResourceError: the bundle cannot be written.
    """
    from pipeline.bundle.of_run import write_bundle_of

    result = run if isinstance(run, Result) else open_run(run)
    place, key = (None if path is None else Path(path) for path in (out, sign))
    return write_bundle_of(result.report, result.folder, place, options, secret_key=key, progress=progress)


def verify(
    bundle: str | Path,
    *,
    runtime: Runtime | None = None,
    threads: int = 1,
    public_key: str | None = None,
    digest: str | None = None,
    device: str | None = None,
    progress: Progress | None = None,
) -> Verification:
    """Check a bundle, a folder or an archive, as the command `verify` does, and run its samples.

    With a `device`, as the command's `--device`, they run there, and what is returned has more
    (`pipeline.bundle.remote.FoundThere`).

    Raises:
        InputError: it is not what it says, or not signed with that key; the message names the file.
        DeviceError: the runtime is missing, or the device cannot be used.
        OutputsError: the network computes something else than it should.
    """
    from pipeline.bundle.as_model import refusal_reason
    from pipeline.bundle.check import check_bundle
    from pipeline.bundle.on_device.verify import Rejected, Verification, VerifyOptions
    from pipeline.bundle.remote import FoundThere, check_on

    _no_telemetry()
    wanted = VerifyOptions(runtime=runtime, threads=threads, public_key=public_key, digest=digest)
    try:
        if device is not None:
            there = FoundThere()
            check_on(device, Path(bundle), wanted, there, progress or SilentProgress())
            return there
        found = Verification()
        check_bundle(Path(bundle), wanted, found)
    except Rejected as error:
        raise REFUSALS.get(error.exit_code, InputError)(refusal_reason(Path(bundle), error)) from error
    return found


def pack(
    source: Result | str | Path,
    out: str | Path,
    *,
    codes: Sequence[str] | None = None,
    runtime: Runtime | None = None,
    progress: Progress | None = None,
) -> PackedSizes:
    """Store an exported network in fewer bytes, as the command `pack` does; return what that takes.

    Args:
        source: an exported file, the folder of a stage that has one, a bundle, a result, or the folder of a run.
        out: the file that is written or replaced.
        codes: names of the codes of weights that may be used; all when left out.
        runtime: of a run or a bundle, for which runtime; the one for its own when left out.
        progress: told how many tensors are done.

    Raises:
        InputError: there is no such file, a file with its weights is missing or cut, or a code has another name.
        ResourceError: it cannot be written.
    """
    from pipeline.bundle.as_model import ExportedFiles
    from pipeline.bundle.packing import file_of_run, is_run, pack_network
    from pipeline.compress.coding.names import CODE_NAMES
    from pipeline.inspect.exported_argument import exported_file

    place, wanted = source.folder if isinstance(source, Result) else Path(source), codes or CODE_NAMES
    with ExportedFiles() as opened:
        file = file_of_run(place, runtime) if is_run(place) else opened(exported_file(str(place)) or place, runtime)
        return pack_network(file, Path(out), codes=wanted, progress=progress)


def unpack(packed: str | Path, out: str | Path | None = None) -> tuple[Path, ...]:
    """Write the files in a packed one, as the command `unpack` does; return them.

    Args:
        packed: what `pack` wrote.
        out: a folder; that of the packed file when left out.

    Raises:
        InputError: it is not a packed file, cut or changed, or another file has one of the names.
        ResourceError: a file cannot be written.
    """
    from pipeline.bundle.packing import unpack_network

    return unpack_network(Path(packed), None if out is None else Path(out))


def evaluate(
    file: str | Path,
    recipe: Recipe | Mapping[str, Any] | str | Path,
    *,
    split: SplitName = "validation",
    runtime: Runtime | None = None,
    threads: int = 1,
    overrides: Sequence[str] = (),
    progress: Progress | None = None,
) -> FileScore:
    """Score any exported file by a recipe's task, as the command `evaluate` does: `score.metrics` has them by name.

    Args:
        file: an ONNX file, an OpenVINO IR, the folder of a stage that has one, or a bundle.
        recipe: the recipe whose task and data are taken; as of `run`.
        split: the test split should be looked at once, when everything is decided.
        runtime: None for the target's, if it reads the file.
        threads: of the runtime.
        overrides: as of `run`.
        progress: told how far it is.

    Raises:
        RecipeError: all problems of the recipe.
        InputError: the file cannot be read or run, its inputs or outputs do not fit the task, or data are missing.
        StageError: its outputs are not finite.
    """
    from pipeline.bundle.as_model import ExportedFiles
    from pipeline.inspect.exported_argument import exported_file
    from pipeline.run.evaluate_file import evaluate_file

    _no_telemetry()
    loaded = _loaded(recipe, overrides)
    if split not in SPLITS:
        raise InputError(f'split: found "{split}", allowed: {", ".join(SPLITS)}')
    if runtime is not None and runtime not in RUNTIMES:
        raise InputError(f'runtime: found "{runtime}", allowed: {", ".join(RUNTIMES)}')
    if threads < 1:
        raise InputError(f"threads: found {threads}, allowed: 1 or more")
    with ExportedFiles() as opened:
        source = opened(exported_file(str(file)) or Path(file), runtime)
        return evaluate_file(
            source, loaded, split=split, runtime=runtime, threads=threads, progress=progress or SilentProgress()
        )


def compare(
    baseline: str | Path,
    candidate: str | Path,
    *,
    margin: str | float = "3%",
    budget: str = "30s",
    metric: Metric | None = None,
    runtime: Runtime = DEFAULT_RUNTIME,
    threads: int = 1,
    tolerance: str | float | None = "10%",
    device: str = "local",
    progress: Progress | None = None,
) -> Comparison:
    """Say whether the candidate is slower than the baseline: `verdict` is PASS, FAIL or INCONCLUSIVE.

    Args:
        baseline: an exported file or a bundle.
        candidate: another one.
        margin: slowdown that is still accepted.
        budget: longest measuring time.
        metric: what decides; None for CPU time with one thread, wall time with more.
        runtime: of both.
        threads: of one inference.
        tolerance: how far outputs may differ, of the largest output; None for as far as they like.
        device: the machine that measures, as the command's `--device`.
        progress: told how far it is.

    Raises:
        InputError: a file or an argument cannot be used.
        IncomparableError: the two are not on equal terms.
        OutputsError: their outputs differ by more than the tolerance.
        DeviceError: the device cannot be reached.
    """
    from pipeline.bundle.as_model import ExportedFiles, short_name
    from pipeline.latency.compare import ComparisonRequest
    from pipeline.latency.gate import compare_on
    from pipeline.measure.subjects import MeasureTerms
    from pipeline.results.comparison import Metric

    _no_telemetry()
    if runtime not in RUNTIMES:
        raise InputError(f'runtime: found "{runtime}", allowed: {", ".join(RUNTIMES)}')
    if metric not in {None, *(metrics := get_args(Metric))}:
        raise InputError(f'metric: found "{metric}", allowed: {", ".join(metrics)}, or None')
    if threads < 1:
        raise InputError(f"threads: found {threads}, allowed: 1 or more")
    paths = Path(baseline), Path(candidate)
    question = ComparisonRequest(
        margin=_parsed("margin", parse_margin, margin),
        budget_s=_parsed("budget", parse_duration, budget),
        metric=metric,
        tolerance=None if tolerance is None else _parsed("tolerance", parse_margin, tolerance),
        runtime=runtime,
        terms=MeasureTerms(threads=threads, batch=1),
        labels=(str(baseline), str(candidate)),
    )
    with ExportedFiles() as opened:
        found, _ = compare_on(
            opened(paths[0], runtime),
            opened(paths[1], runtime),
            question,
            name=short_name(paths[1]),
            device=device,
            progress=progress or SilentProgress(),
        )
    return found


def _parsed(name: str, parse: Callable[[object], float], found: object) -> float:
    try:
        return parse(found)
    except ValueError as error:
        raise InputError(f"{name}: {error}") from error


def _no_telemetry() -> None:
    """Have onnxruntime send nothing, as with the command; it looks when it is loaded."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")


def _loaded(recipe: Recipe | Mapping[str, Any] | str | Path, overrides: Sequence[str]) -> LoadedRecipe:
    if isinstance(recipe, str | Path):
        return load_recipe(Path(recipe), overrides)
    values = recipe.values if isinstance(recipe, Recipe) else recipe
    return load_values(values, Path(), overrides)


def _store(root: str | Path | None) -> Store:
    return Store(default_root() if root is None else Path(root))
