"""The command `secateur`: arguments to calls, errors to messages and exit codes, nothing else."""

from __future__ import annotations

import errno
import json
import os
import shlex
import sys
import traceback
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from typer.core import TyperGroup

from pipeline.cli import bundle as cli_bundle
from pipeline.cli import device as cli_device
from pipeline.cli import frontier as cli_frontier
from pipeline.cli import gate as cli_gate
from pipeline.cli import inspect as cli_inspect
from pipeline.cli import latency as cli_latency
from pipeline.cli import pack as cli_pack
from pipeline.cli import profile as cli_profile
from pipeline.cli import store as cli_store
from pipeline.cli import task as cli_task
from pipeline.cli.choices import AsJson  # noqa: TC001 - typer reads annotations
from pipeline.cli.say import say, say_result, say_values
from pipeline.core import interruption
from pipeline.core.ending import ended_in_time, ended_when_unread
from pipeline.core.errors import InputError, ResourceError, SecateurError, StageError
from pipeline.core.quiet import printed_aside

if TYPE_CHECKING:
    from pipeline.results.run import RunReport

CANNOT_TELL = 4
#: Errors of a disk or a network: another path would not help.
MACHINE = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENFILE}
MISSED = 1
#: If set in the environment, errors come with the traceback of their cause.
TRACEBACK = "SECATEUR_TRACEBACK"
#: Names of `secateur schema` and the modules that have the function `schema`.
SCHEMAS = {
    "recipe": "pipeline.recipe",
    "latency": "pipeline.results.comparison",
    "gate": "pipeline.results.gate",
    "inspection": "pipeline.results.file_inspection",
    "profile": "pipeline.results.profile",
    "frontier": "pipeline.results.frontier",
    "bundle": "pipeline.results.bundle",
    "pack": "pipeline.results.packing",
}


class _Commands(TyperGroup):
    """The commands; what is no choice of an option is said without typer's first words."""

    def invoke(self, ctx: typer.Context) -> object:  # type: ignore[override]
        try:
            return super().invoke(ctx)
        except typer.BadParameter as error:
            error.message = error.message.removeprefix("Value error, ")
            raise


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Compress a trained network by a recipe, and prove what the exported file is worth: accuracy, size, real CPU "
    "latency.\n\nA recipe is a YAML file that chains stages: prune, finetune, export, simplify, quantize, measure, "
    "bundle. Start with\n\n"
    "  secateur recipes list\n\n"
    "  secateur recipes copy resnet20-fashion-int8 .\n\n"
    "  secateur plan recipes/resnet20-fashion-int8.yaml\n\n"
    "  secateur run recipes/resnet20-fashion-int8.yaml\n\n"
    "Latency of any exported files, made by this program or not: bench, compare, gate, doctor, device.\n\n"
    "What a network costs at other widths, before it is pruned to a latency, and what is left of its score at several: "
    "profile, frontier.\n\n"
    "Everything that a device needs to run the result, and whether it arrived unchanged: bundle, verify.\n\n"
    "The same file in fewer bytes, to store or send: pack, unpack.\n\n"
    "Exit codes of run: 0 passed, 1 budget missed, 2 bad input, 3 a stage failed, 4 cannot tell, 130 and 143 "
    "interrupted. Those of compare and gate: 0 PASS, 1 FAIL, 2 bad input, 3 INCONCLUSIVE, 4 INCOMPARABLE, 5 device "
    "unreachable, 6 wrong outputs.\n\n"
    "SECATEUR_TRACEBACK=1 in the environment shows the traceback of an error, for example in your own code.",
)
recipes_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Recipes that come with the program.")
app.add_typer(recipes_app, name="recipes")
for command in (cli_latency.bench, cli_latency.compare, cli_gate.gate, cli_device.doctor):
    app.command()(command)
for of_files in (
    cli_bundle.bundle,
    cli_bundle.verify,
    cli_pack.pack,
    cli_pack.unpack,
    cli_inspect.inspect,
    cli_profile.profile,
    cli_frontier.frontier,
    cli_task.evaluate,
):
    app.command()(of_files)
app.add_typer(cli_device.device_app, name="device")
app.add_typer(cli_store.store_app, name="store")
app.add_typer(cli_task.task_app, name="task")

Recipe = Annotated[Path, typer.Argument(help="Recipe file (YAML).", show_default=False)]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Override a value: --set stages.prune.ratio=0.4. Repeatable. If two stages are of one kind, use the "
        "number. Keys count stages from 0 (stages.0.ratio); rows of plan, run and report count from 1, because row 0 "
        "is the original: stages.0 is row 1.",
    ),
]
Out = Annotated[Path | None, typer.Option(metavar="DIR", help="Run folder. Default: runs/<name of the recipe file>.")]
Seed = Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Seed of everything random.")]
Test = Annotated[
    bool,
    typer.Option(
        "--test/--no-test", help="Evaluate on the test split at the end; use --no-test while you are still choosing."
    ),
]
Fresh = Annotated[
    bool,
    typer.Option("--fresh", help="Make everything again: take nothing from the store, and replace what is there."),
]
Wait = Annotated[
    str | None,
    typer.Option(
        metavar="DURATION",
        show_default=False,
        help="How long to wait for another run that is making the same stage. Default: $SECATEUR_WAIT, else 24h.",
    ),
]


@app.command()
def run(
    recipe: Recipe,
    overrides: Set = None,
    out: Out = None,
    seed: Seed = 0,
    test: Test = True,
    fresh: Fresh = False,
    as_json: AsJson = False,
    wait: Wait = None,
) -> None:
    """Run a recipe. Finished stages are taken from the store, so running again resumes.

    Several runs may use one store at once: if two need the same stage, the second takes what the first makes.

    Examples:

      secateur run recipes/resnet20-fashion-int8.yaml

      secateur run my.yaml --set stages.prune.ratio=0.4 --out runs/ratio-40 --no-test
    """
    from pipeline.core.store import Store, default_root
    from pipeline.recipe import load_recipe
    from pipeline.report.progress import ConsoleProgress
    from pipeline.run.fresh import store_of_run
    from pipeline.run.runner import Run

    wait_s = None if wait is None else cli_store.seconds("--wait", wait)
    loaded = load_recipe(recipe, overrides or ())
    folder = out or Path("runs") / recipe.stem
    command = shlex.join(["secateur", *sys.argv[1:]])
    interruption.advise(f"Finished stages are kept. Resume with: {command}")
    try:
        shared = Store(default_root(), wait_s)
        with (
            printed_aside(),  # what the user's code prints is not part of the result
            ConsoleProgress() as progress,
            store_of_run(shared, folder, progress, fresh=fresh) as store,
        ):
            report = Run(loaded, folder, store, seed, progress, test, command=command).execute()
    except SecateurError as error:
        # There is nothing to resume; or `main` says it.
        if error.exit_code == InputError.exit_code or interruption.received():
            raise
        _show_traceback(error)
        say(f"\n{error}\n{_how_to_go_on(error, command)}", err=True)
        raise typer.Exit(error.exit_code) from error
    _show(report, folder, as_json=as_json)
    raise typer.Exit(_exit_code(report))


@app.command()
def plan(
    recipe: Recipe,
    overrides: Set = None,
    out: Out = None,
    seed: Seed = 0,
    fresh: Fresh = False,
    as_json: AsJson = False,
) -> None:
    """Show what would run, what is cached, and why. Runs nothing and loads no heavy library.

    The options are those of run: with --fresh it shows what run --fresh would do.

    Example: secateur plan my.yaml --set stages.prune.ratio=0.4
    """
    from pipeline.core.store import Store, default_root
    from pipeline.recipe import load_recipe
    from pipeline.results.run_folder import previous_ingredients
    from pipeline.run.fresh import own_store
    from pipeline.run.plan import make_plan

    loaded = load_recipe(recipe, overrides or ())
    folder, store = out or Path("runs") / recipe.stem, Store(default_root())
    previous = previous_ingredients(folder, partial(say, err=True))
    steps = make_plan(loaded, own_store(store, folder) if fresh else store, seed, previous).steps
    if as_json:
        fields = ("index", "label", "key", "cached", "reason", "ingredients")
        say_values([{**{name: getattr(step, name) for name in fields}, **step.remarks.as_values()} for step in steps])
        return
    width = max(len(step.label) for step in steps)
    for step in steps:
        state = "cached" if step.cached else "will run"
        say(f"{step.index:>2}  {step.label:<{width}}  {state:<8}  {step.key[:12]}  {step.reason}")
        for line in step.remarks.lines():
            say(f"    {line}")


@app.command()
def validate(recipe: Recipe, overrides: Set = None, as_json: AsJson = False) -> None:
    """Check a recipe: report every problem with file and line. Exit code 2 if there is one.

    Example: secateur validate my.yaml
    """
    from pipeline.recipe import load_recipe
    from pipeline.run.plan import remarks_on

    loaded = load_recipe(recipe, overrides or ())
    stages = loaded.recipe.stages
    kinds = [stage.kind for stage in stages]
    remarks = remarks_on(stages, loaded.recipe.target)
    warned = [f"stages.{index}: {text}" for index, each in enumerate(remarks) for text in each.warnings]
    if as_json:
        more = {"warnings": warned} if warned else {}
        say(json.dumps({"valid": True, "stages": kinds, **more}, allow_nan=False))
        return
    for text in warned:
        say(f"{recipe}: warning: {text}", err=True)
    say(f"{recipe}: valid: {' -> '.join(kinds)}")


@app.command()
def schema(
    of: Annotated[
        str,
        typer.Argument(
            metavar="|".join(SCHEMAS),
            help="latency: comparison.json, the result of compare; gate: gate.json; inspection: the output of inspect "
            "FILE --json; profile: the output of profile --json; frontier: frontier.json; bundle: a bundle's "
            "manifest.json.",
        ),
    ] = "recipe",
) -> None:
    """Print the JSON Schema of a recipe, for completion in editors, or of a result, for programs that read it.

    Examples:

      secateur schema > schema.json, and as a recipe's first line: # yaml-language-server: $schema=schema.json

      secateur schema latency
    """
    from importlib import import_module

    if of not in SCHEMAS:
        raise typer.BadParameter(f"found {of!r}, allowed: {', '.join(SCHEMAS)}")
    say(json.dumps(import_module(SCHEMAS[of]).schema(), indent=2, allow_nan=False))


@app.command()
def report(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Folder of a run or of a comparison.", show_default=False)
    ],
    as_json: AsJson = False,
) -> None:
    """Show the report of a run or of a comparison again, and rewrite its Markdown and HTML.

    Examples:

      secateur report runs/demo

      secateur report runs/compare/main--branch
    """
    from pipeline.results.comparison import RESULT_FILE

    if folder.name == RESULT_FILE or (folder / RESULT_FILE).is_file():
        cli_latency.show_comparison(folder.parent if folder.name == RESULT_FILE else folder, as_json=as_json)
        return
    from pipeline.report import write_report
    from pipeline.results.run_folder import read_run

    found, run_folder = read_run(folder)
    write_report(found, run_folder)
    _show(found, run_folder, as_json=as_json)


@recipes_app.command("list")
def recipes_list(as_json: AsJson = False) -> None:
    """List the recipes that come with the program: what each is for and how long it takes."""
    from pipeline.recipe.bundled import list_recipes

    found = list_recipes()
    if as_json:
        say_values([{"name": each.name, "purpose": each.purpose, "time": each.time} for each in found])
        return
    for each in found:
        say(f"{each.name}\n    {each.purpose}\n    {each.time}")


@recipes_app.command("copy")
def recipes_copy(
    name: Annotated[str, typer.Argument(help="Name of a recipe, as `recipes list` prints it.", show_default=False)],
    destination: Annotated[Path, typer.Argument(metavar="DIR", help="Folder to copy into.")] = Path(),
    overwrite: Annotated[bool, typer.Option(help="Replace existing files.")] = False,
) -> None:
    """Copy a recipe with the model definitions and weights that it names, to change it or run it elsewhere.

    Example: secateur recipes copy resnet20-fashion-int8 my-project
    """
    from pipeline.recipe.bundled import copy_recipe

    for path in copy_recipe(name, destination, overwrite=overwrite):
        say(path)


def _how_to_go_on(error: SecateurError, command: str) -> str:
    """Say how to continue after a run that failed: a stage that refused its input would refuse it again."""
    if isinstance(error, StageError):
        return (
            "Finished stages are kept. The same recipe would most likely fail in the same way: first change what is "
            f"said above, in the recipe or by --set, and then run: {command}"
        )
    return f"Finished stages are kept. Resume with: {command}"


def _show(found: RunReport, folder: Path, *, as_json: bool) -> None:
    if as_json:
        say_result(found)
        return
    from pipeline.report.console import Console
    from pipeline.report.run.facts import bundle_facts
    from pipeline.report.run.terminal import run_table

    console = Console()
    console.print(run_table(found))
    if found.bundle is not None:
        console.print(f"Bundle: {bundle_facts(found.bundle, folder)}", soft_wrap=True, markup=False)
    console.print(f"Report: {folder / 'report.html'}", soft_wrap=True)


def _exit_code(found: RunReport) -> int:
    verdicts = {line.verdict for line in found.budget}
    if "missed" in verdicts:
        return MISSED
    return CANNOT_TELL if "cannot tell" in verdicts else 0


def main() -> None:
    """Run the command; every error of ours, of the file system and every interruption is a message and an exit code.

    It ends the process: threads that were started meanwhile get some time to end, as `ended_in_time` says. If nobody
    reads the output any more, it ends silently.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    interruption.install()
    with ended_in_time(), ended_when_unread():
        _main()


def _main() -> None:
    try:
        app()
    except interruption.Interrupted:
        _interrupted()
    except (SystemExit, Exception) as error:
        if interruption.received():  # a library has turned it into its own error
            _interrupted()
        shown = error if isinstance(error, SecateurError) else _file_error(error)
        if shown is None:
            raise
        _show_traceback(error)
        say(f"error: {shown}", err=True)
        sys.exit(shown.exit_code)


def _show_traceback(error: BaseException) -> None:
    """Print where an error came from, if the environment asks for it."""
    if os.environ.get(TRACEBACK):
        traceback.print_exception(error)


def _interrupted() -> NoReturn:
    line = "\n" if sys.stderr.isatty() else ""  # after the ^C that a terminal shows
    say(line + interruption.interruption_lines(), err=True)
    sys.stdout.flush()
    os._exit(interruption.exit_code())  # a process that has loaded torch takes seconds to shut down


def _file_error(error: BaseException) -> SecateurError | None:
    """Return the message for a system error, most often about a file or folder; None for other errors.

    Some name no file: those of writing into an open file, and those that Python's library makes from a text.
    """
    if not isinstance(error, OSError):
        return None
    named = error.filename is not None
    text = f"{error.filename}: {error.strerror}" if named else f"{type(error).__name__}: {error.strerror or error}"
    if error.errno in MACHINE:
        return ResourceError(f"{text}. Run again once that is fixed")
    if not named:
        return ResourceError(f"{text}. With {TRACEBACK}=1 in the environment, the next run shows where")
    return InputError(f"{text}. Give another path, or make this one usable")
