"""The command frontier: score and latency of a recipe at several latencies."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli.choices import AsJson  # noqa: TC001 - typer reads annotations
from pipeline.cli.say import say_result
from pipeline.core import interruption
from pipeline.core.errors import InputError, StageError
from pipeline.core.quiet import printed_aside

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.recipe import LoadedRecipe
    from pipeline.results.frontier import Frontier


def frontier(
    recipe: Annotated[Path, typer.Argument(help="Recipe file (YAML).", show_default=False)],
    latency: Annotated[
        str,
        typer.Option(
            metavar="TARGET,...",
            help="Targets, each of which the prune stage gets: shares of the unpruned file's time (0.5x) or times "
            "(2ms).",
        ),
    ] = "0.7x,0.5x,0.35x,0.25x",
    stage: Annotated[
        int | None,
        typer.Option(
            min=0,
            show_default=False,
            help="Which stage gets them, counted from 0, where several prune stages have a target.",
        ),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Override a value of the recipe, for all targets. Repeatable."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder of all runs. Default: runs/<name of the recipe file>-frontier."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Seed of everything random.")] = 0,
    test: Annotated[
        bool,
        typer.Option("--no-test", help="The test split is left alone in any case: a frontier is there to choose by."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Run a recipe once for each latency, and show what is left of its score: one table, one picture.

    Each target has its run in DIR/<target>, and all share the store: stages before the pruning run once, prices of
    the network are measured once. Running it again runs only what is not finished: add a target, or go on after an
    interruption. Finished points of the same recipe stay. A target that cannot be reached is listed with the reason,
    and the others go on. Scores are those on
    validation; choose a target by them, put it into the recipe, and let `run` take the test once.

    DIR gets frontier.json (described by: secateur schema frontier) and frontier.html.

    Exit codes: 0, 2 bad input or no target can be reached, 3 a stage failed, 5 the device is lost, 130 and 143
    interrupted.

    Examples:

      secateur frontier my.yaml --latency 0.7x,0.5x,0.35x,0.25x

      secateur frontier my.yaml --latency 2ms,1.5ms --out runs/two --json

      secateur frontier my.yaml --latency 0.5x --set stages.finetune.epochs=1 --stage 2
    """
    del test
    from pipeline.core.store import Store, default_root
    from pipeline.recipe import load_recipe
    from pipeline.report.progress import ConsoleProgress
    from pipeline.run.frontier import FrontierRun, asked_points, parse_targets, target_stage

    def load(more: Sequence[str]) -> LoadedRecipe:
        return load_recipe(recipe, [*(overrides or ()), *more])

    place = target_stage(load(()), stage)
    asked = asked_points(load, parse_targets(latency.split(",")), place)
    folder = out or Path("runs") / f"{recipe.stem}-frontier"
    command = shlex.join(["secateur", *sys.argv[1:]])
    interruption.advise(f"Finished points are kept. Go on with: {command}")
    with printed_aside(), ConsoleProgress() as progress:  # what the user's code prints is not part of the result
        found = FrontierRun(asked, place, folder, Store(default_root()), seed, progress, command).execute()
    _show(found, folder, as_json=as_json)
    raise typer.Exit(_exit_code(found))


def _show(found: Frontier, folder: Path, *, as_json: bool) -> None:
    if as_json:
        say_result(found)
        return
    from pipeline.report.console import Console
    from pipeline.report.latency.frontier import PAGE, frontier_table

    console = Console()
    console.print(frontier_table(found))
    console.print(f"Picture: {folder / PAGE}", soft_wrap=True, markup=False)


def _exit_code(found: Frontier) -> int:
    states = {point.status for point in found.points}
    if "failed" in states:
        return StageError.exit_code
    return 0 if "finished" in states else InputError.exit_code
