"""The command about one network or one exported file: inspect. Arguments to calls, results to text, page or JSON."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli.choices import AsJson, FileRuntime  # noqa: TC001 - typer reads annotations
from pipeline.cli.say import say, say_result, say_values
from pipeline.core.errors import InputError
from pipeline.core.quiet import printed_aside
from pipeline.inspect.exported_argument import exported_file

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rich.console import RenderableType

    from pipeline.inspect.file import InspectOptions
    from pipeline.results.file_inspection import FileInspection
    from pipeline.results.inspection import Inspection


def inspect(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="A recipe (.yaml), a model definition (.py), a package's network (timm:resnet50), the folder of a "
            "stored torch network (runs/demo/stages/00-original); or an exported file: .onnx, model.xml, or the folder "
            "of a stage that has one, or a bundle.",
            show_default=False,
        ),
    ],
    arguments: Annotated[
        list[str] | None,
        typer.Option("--arguments", metavar="KEY=VALUE", help="An argument of the definition's build. Repeatable."),
    ] = None,
    inputs: Annotated[
        list[str] | None,
        typer.Option(
            "--input",
            metavar="SHAPE",
            help="Sizes of an input without the batch, and its type if that is not float32: 3,224,224 or 128:int64. "
            "Once for each input; recipes, stored networks and most files know theirs.",
        ),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Override a value of the recipe: --set data.size=160. Repeatable."
        ),
    ] = None,
    against: Annotated[
        Path | None,
        typer.Option(
            metavar="FLOAT.onnx",
            help="For a quantized file: the float file it was made from, or its folder: shows each layer's noise.",
        ),
    ] = None,
    recipe: Annotated[
        Path | None,
        typer.Option(
            metavar="RECIPE", help="For a file: run it on training images of this recipe's data, not on noise."
        ),
    ] = None,
    images: Annotated[
        int,
        typer.Option("--samples", "--images", min=1, max=1_000_000, help="For a file: number of samples to run it on."),
    ] = 32,
    predictions: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="For a file with --recipe: write what it predicts for so many validation samples, in words, "
            "and drawn into the images where the task draws.",
        ),
    ] = None,
    runtime: Annotated[
        FileRuntime | None,
        typer.Option(
            help="For a file: runtime that profiles it. Default: onnxruntime for .onnx, openvino for .xml.",
        ),
    ] = None,
    runs: Annotated[int, typer.Option(min=0, max=1_000_000, help="For a file: profiled inferences; 0: no times.")] = 50,
    threads: Annotated[int, typer.Option(min=1, max=4096, help="For a file: threads of the profiled inferences.")] = 1,
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="For a file: seed of random inputs.")] = 0,
    bit_exact_arm: Annotated[
        bool,
        typer.Option(
            "--bit-exact-arm",
            help="For an ONNX file, instead of all else: does it compute the same on ARM? Compares outputs with and "
            "without the x86 kernels that clip sums, and with an emulated Cortex-A72 and A76.",
        ),
    ] = False,
    page: Annotated[Path | None, typer.Option("--html", metavar="FILE", help="Write a page with a drawing.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show what can be pruned in a network, or what an exported file computes.

    For a network: groups of coupled channels, what each costs, and what cannot be pruned and why. This prunes nothing
    and needs no trained weights. For a file: precision, weights and ranges of every layer, its share of the time in the
    runtime's own profile (which itself takes time, so this is no latency), and with --against its quantization noise.

    Examples:

      secateur inspect recipes/resnet20-fashion-int8.yaml --html inspection.html

      secateur inspect models/resnet_cifar/model.py --arguments depth=56 --arguments classes=100 --input 3,32,32

      secateur inspect timm:resnet50 --input 3,224,224

      secateur inspect runs/demo/stages/01-prune --json

      secateur inspect int8.onnx --against float.onnx --recipe recipes/resnet20-fashion-int8.yaml --html int8.html

      secateur inspect runs/demo/stages/06-export-openvino --runs 200

      secateur inspect int8.onnx --recipe recipes/resnet20-fashion-int8.yaml --samples 200 --bit-exact-arm

      secateur inspect int8.onnx --recipe detector.yaml --samples 8 --predictions found
    """
    from pipeline.bundle.as_model import ExportedFiles, is_bundle

    file = Path(model) if is_bundle(Path(model)) else exported_file(model)
    if file is None:
        options = {"--against": against, "--recipe": recipe, "--runtime": runtime, "--bit-exact-arm": bit_exact_arm}
        options["--predictions"] = predictions
        for option, value in options.items():
            _refuse(option, value, f"{model}, which is not an exported file", ".onnx, model.xml, or a folder with one")
        _show_network(model, arguments or (), inputs or (), overrides or (), page, as_json=as_json)
        return
    _refuse("--arguments", arguments, f"the exported file {file}", "a model definition (.py)")
    if recipe is None:
        _refuse("--set", overrides, f"the exported file {file} alone", "--recipe with it")
        _refuse("--predictions", predictions, f"the exported file {file} alone", "--recipe with it")
    from pipeline.inspect.file import InspectOptions, training_images

    ways = InspectOptions(
        shapes=_shapes(inputs or ()),
        count=images,
        seed=seed,
        runtime=runtime,
        runs=runs,
        threads=threads,
    )
    with ExportedFiles() as opened:
        if against and not is_bundle(against):
            against = exported_file(str(against)) or against
        ways = replace(ways, against=against and opened(against, runtime))
        path = opened(file, runtime)
        if recipe:
            ways = replace(ways, images=training_images(recipe, overrides or (), images, seed, path))
        if recipe and predictions:
            _write_predictions(path, recipe, overrides or (), ways, predictions)
        _show_file(path, ways, page, bit_exact_arm=bit_exact_arm, as_json=as_json)


def _write_predictions(file: Path, recipe: Path, overrides: Sequence[str], ways: InspectOptions, folder: Path) -> None:
    from pipeline.recipe import load_recipe
    from pipeline.run.told_predictions import TEXT, write_predictions

    loaded = load_recipe(recipe, overrides)
    count = write_predictions(file, loaded, folder, count=ways.count, runtime=ways.runtime, threads=ways.threads)
    say(f"Predictions for {count} validation samples: {folder / TEXT}", err=True)


def _show_file(file: Path, ways: InspectOptions, page: Path | None, *, bit_exact_arm: bool, as_json: bool) -> None:
    if bit_exact_arm:
        from pipeline.inspect.bits import compare_bits, text_of, worst_exit_code

        agreements = compare_bits(file, ways)
        if as_json:
            say_values([each.to_json() for each in agreements])
        else:
            say(text_of(agreements))
        raise typer.Exit(worst_exit_code(agreements))
    from pipeline.inspect.file import inspect_file
    from pipeline.report.inspection import file_html
    from pipeline.report.inspection.file_terminal import file_table
    from pipeline.report.inspection.network_html import save_page

    found = inspect_file(file, ways)
    if page is not None:
        save_page(file_html.render(found), page)
    _show(found, lambda width: file_table(found, width), page, as_json=as_json)


def _show_network(
    model: str,
    arguments: Sequence[str],
    inputs: Sequence[str],
    overrides: Sequence[str],
    page: Path | None,
    *,
    as_json: bool,
) -> None:
    from pipeline.inspect.model_argument import load_model
    from pipeline.inspect.network import inspect_network
    from pipeline.report.inspection import network_html
    from pipeline.report.inspection.network_terminal import network_table

    with printed_aside():  # what the user's code prints is not part of the result
        given = load_model(model, arguments=arguments, inputs=inputs, overrides=overrides)
        found = inspect_network(given.network, given.inputs, given.name)
    if page is not None:
        network_html.save_page(network_html.render(found), page)
    _show(found, lambda width: network_table(found, width), page, as_json=as_json)


def _show(
    found: Inspection | FileInspection, table: Callable[[int], RenderableType], page: Path | None, *, as_json: bool
) -> None:
    if as_json:
        say_result(found)
        return
    from pipeline.report.console import Console

    console = Console()
    console.print(table(console.width))
    if page is not None:
        console.print(f"Drawing: {page}", soft_wrap=True, markup=False)


def _shapes(texts: Sequence[str]) -> tuple[tuple[int, ...], ...]:
    if not texts:
        return ()
    from pipeline.inspect.model_argument import input_spec

    return tuple(input_spec(text, index).shape for index, text in enumerate(texts))


def _refuse(option: str, value: object, what: str, allowed: str) -> None:
    if value:
        raise InputError(f"found {option} with {what}, allowed there: {allowed}")
