"""The commands about tasks: evaluate, and `secateur task new`. Arguments to calls, results to text or JSON."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from pipeline.cli.choices import AsJson, FileRuntime, TaskKind, Threads  # noqa: TC001 - typer reads annotations
from pipeline.cli.say import say, say_result
from pipeline.core.errors import InputError
from pipeline.core.quiet import printed_aside

if TYPE_CHECKING:
    from pipeline.run.evaluate_file import FileScore

task_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="What a network is for, written in Python.")


def evaluate(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="An exported file: .onnx, model.xml, the folder of a stage that has one, or a bundle.",
            show_default=False,
        ),
    ],
    recipe: Annotated[Path, typer.Option(help="The recipe whose task and data are taken.", show_default=False)],
    split: Annotated[
        Literal["validation", "test", "train"],
        typer.Option(help="The samples. Look at the test split once, when everything is decided."),
    ] = "validation",
    runtime: Annotated[FileRuntime | None, typer.Option(help="Default: the target's, if it reads the file.")] = None,
    threads: Threads = 1,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Override a value of the recipe. Repeatable."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Score any exported file by a recipe's task, whoever made it: the same decode and metrics as of a run.

    Examples:

      secateur evaluate model.onnx --recipe detector.yaml

      secateur evaluate runs/demo/stages/05-quantize --recipe demo.yaml --split test --json
    """
    from pipeline.bundle.as_model import ExportedFiles
    from pipeline.inspect.exported_argument import exported_file
    from pipeline.recipe import load_recipe
    from pipeline.report.progress import ConsoleProgress
    from pipeline.run.evaluate_file import evaluate_file

    loaded = load_recipe(recipe, overrides or [])
    # what the user's code prints is not part of the result
    with printed_aside(), ConsoleProgress() as progress, ExportedFiles() as opened:
        source = opened(exported_file(str(file)) or file, runtime)
        found = evaluate_file(source, loaded, split=split, runtime=runtime, threads=threads, progress=progress)
    if as_json:
        say_result(found)
    else:
        say(_text(found, file))


def _text(found: FileScore, file: Path) -> str:
    from pipeline.report import numbers

    known = {metric.name: metric for metric in found.task.metrics}
    lines = [
        f"  {numbers.metric_name(name)}: {numbers.score(value, known[name])}"
        for name, value in found.score.metrics.items()
    ]
    return "\n".join([f"{file} on {found.score.images:,} {found.split} samples in {found.runtime}:", *lines])


@task_app.command("new")
def new(
    kind: Annotated[
        TaskKind,
        typer.Option(help="The kind of task; file: all of it in your own Python."),
    ],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder to write into.")] = Path(),
) -> None:
    """Write a recipe that runs, with samples, a network and what goes with them, to be replaced by your own.

    Examples:

      secateur task new --kind detection my-detector

      secateur run my-detector/recipe.yaml
    """
    from pipeline.recipe.starter import write_starter

    try:
        for path in write_starter(kind, folder):
            say(path)
    except FileExistsError as error:
        raise InputError(f"{error.filename} is there already: give another folder") from error
