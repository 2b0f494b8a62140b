"""The command profile: what a network's file costs on a device, layer by layer and at other widths."""

from __future__ import annotations

import shlex
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli.choices import AsJson, FileRuntime  # noqa: TC001 - typer reads annotations
from pipeline.cli.say import say_result
from pipeline.core import interruption
from pipeline.core.errors import InputError
from pipeline.core.quiet import printed_aside
from pipeline.inspect.exported_argument import exported_file

if TYPE_CHECKING:
    from collections.abc import Sequence


def profile(
    model: Annotated[
        str,
        typer.Argument(
            metavar="RECIPE|MODEL",
            help="A recipe (.yaml), whose data, target and prune stage count; or a network alone: a model definition "
            "(.py), a package's network (timm:resnet50), the folder of a stored torch network "
            "(runs/demo/stages/00-original).",
            show_default=False,
        ),
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Override a value of the recipe: --set stages.prune.floor=0.2."
        ),
    ] = None,
    arguments: Annotated[
        list[str] | None,
        typer.Option("--arguments", metavar="KEY=VALUE", help="An argument of the definition's build. Repeatable."),
    ] = None,
    inputs: Annotated[
        list[str] | None,
        typer.Option(
            "--input",
            metavar="SHAPE",
            help="Of a network alone: sizes of an input without the batch: 3,224,224 or 128:int64. Once for each.",
        ),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(show_default=False, help="Where files are timed: local, ssh://, adb://, or a registered name."),
    ] = None,
    runtime: Annotated[FileRuntime | None, typer.Option(show_default=False, help="What runs the files.")] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, max=4096, show_default=False, help="Threads of one inference.")
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option(
            metavar="fp32|int8|...",
            show_default=False,
            help="What the files compute in, by the names of quantize. Default: what the recipe ships; fp32 for a "
            "network alone.",
        ),
    ] = None,
    moves: Annotated[
        str | None,
        typer.Option(
            metavar="MOVE,...",
            show_default=False,
            help="What may be taken away: channels, blocks, heads, resolution (which times the whole file with smaller "
            "images of the recipe's data). Default: the prune stage's; channels,blocks.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Seed of everything random.")] = 0,
    fresh: Annotated[bool, typer.Option("--fresh", help="Measure again what was measured before.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show what a network's file costs on a device: the cost model that a latency target prunes by.

    Files of the network at other widths, and without some of its blocks, are timed against the whole one, and a model
    is fitted to these probes: the time of every layer, the steps of width in which each class of operators gets
    faster (granule), the least that any pruning can reach (floor), and how far it is off on states that it has not
    seen. No training, and accuracy is not looked at. It takes seconds to minutes; probes are kept by graph, precision,
    runtime and machine, so that a second call and every run with a latency target go on with them. A recipe's network
    is the one it starts from, even where an earlier stage changes it.

    Options win over what the recipe says.

    Examples:

      secateur profile recipes/resnet20-fashion-int8.yaml

      secateur profile recipes/resnet20-fashion-int8.yaml --precision fp32 --runtime openvino

      secateur profile timm:mobilenetv2_100 --input 3,224,224 --precision int8 --device pi

      secateur profile models/resnet_cifar/model.py --arguments depth=56 --input 3,32,32 --moves blocks

      secateur profile my.yaml --json > profile.json, described by: secateur schema profile
    """
    from pipeline.core.store import Store, default_root
    from pipeline.inspect.model_argument import is_recipe, load_model
    from pipeline.recipe import load_recipe
    from pipeline.report.console import Console
    from pipeline.report.latency.profile_terminal import profile_table
    from pipeline.report.progress import ConsoleProgress
    from pipeline.run.profile import PricingTerms, profile_model, profile_recipe

    interruption.advise(f"What was measured is kept. Go on with: {shlex.join(['secateur', *sys.argv[1:]])}")
    chosen = tuple(each.strip() for each in moves.split(",")) if moves is not None else None
    terms = PricingTerms(device, runtime, threads, precision, chosen)
    with printed_aside():  # what the user's code prints is not part of the result
        if is_recipe(model):
            _refuse("--arguments", arguments, "--set model.arguments.KEY=VALUE")
            _refuse("--input", inputs, "--set data.KEY=VALUE")
            recipe = load_recipe(Path(model), overrides or ())
            price = partial(profile_recipe, recipe, terms, Store(default_root()))
        else:
            _refuse_file(model)
            network = load_model(model, arguments=arguments or (), inputs=inputs or (), overrides=overrides or ())
            price = partial(profile_model, network, terms)
        with ConsoleProgress() as progress:
            found = price(seed=seed, progress=progress, fresh=fresh)
    if as_json:
        say_result(found.profile)
        return
    console = Console()
    console.print(profile_table(found.profile))
    console.print(f"Kept in: {found.file}", soft_wrap=True, markup=False)


def _refuse(option: str, texts: Sequence[str] | None, instead: str) -> None:
    if texts:
        raise InputError(f"found {option} {texts[0]} with a recipe, allowed there: {instead}")


def _refuse_file(model: str) -> None:
    """Raise InputError where the network is exported: its widths are fixed."""
    if (file := exported_file(model)) is not None:
        raise InputError(
            f"{file} is an exported file, whose widths are fixed, allowed: a recipe, a model definition (.py), a "
            "package's network such as timm:resnet50, or the folder of a stored torch network. secateur inspect shows "
            "the time of each layer of a file"
        )
