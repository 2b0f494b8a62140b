"""The commands about latency: bench, compare. Arguments to calls, results to text or JSON and exit codes."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from pipeline.cli.choices import AnyRuntime, AsJson, Threads, parsed_option
from pipeline.cli.say import say, say_result
from pipeline.core.errors import DeviceError, InputError, SecateurError
from pipeline.core.runtimes import BOARDS, DEFAULT_RUNTIME, EMULATED, FORMS, form_of, runtime_for

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager

    from pipeline.core.task import Task
    from pipeline.latency.compare import ComparisonRequest
    from pipeline.measure.decoding import Decoding
    from pipeline.measure.devices import Device
    from pipeline.measure.subjects import MeasureTerms
    from pipeline.report.progress import ConsoleProgress
    from pipeline.results.comparison import Comparison
    from pipeline.results.measurement import Measurement

DEFAULT_MARGINS = {"instructions": "1%"}
STAGE_FAILED = 3

Runtime = Annotated[
    AnyRuntime | None,
    typer.Option(
        help="Runtime of all files; torch takes folders of torch networks. Default: the first of these that reads them."
    ),
]
#: Digits of one size of an input.
MOST_DIGITS = 9
Batch = Annotated[int, typer.Option(min=1, max=65_536, help="Images per inference, if the file leaves that open.")]
Shapes = Annotated[
    list[str] | None,
    typer.Option("--shape", metavar="INPUT=SIZES", help="Sizes of an input, if the file leaves them open: ids=1,128."),
]
DeviceName = Annotated[
    str,
    typer.Option("--device", metavar="DEVICE", help=f"local, {BOARDS}, {EMULATED}, or a registered name."),
]
Duty = Annotated[
    str | None,
    typer.Option(metavar="TIME", help="Idle time before each inference (30ms), as in an application. Default: none."),
]
Priority = Annotated[
    bool, typer.Option("--priority/--no-priority", help="Give the worker priority over other programs if allowed.")
]
Seed = Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Seed of the order and the inputs.")]
TimeScopeName = Annotated[
    Literal["model", "model+decode"],
    typer.Option("--time-scope", help="What is timed: the file alone, or with it the task's decoding of its outputs."),
]
Budget = Annotated[str, typer.Option(metavar="TIME", help="Longest measuring time, with a unit: 30s, 2min.")]


def bench(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Exported files (.onnx, .xml), or bundles.")],
    runtime: Runtime = None,
    threads: Threads = 1,
    batch: Batch = 1,
    shape: Shapes = None,
    device: DeviceName = "local",
    duty: Duty = None,
    priority: Priority = True,
    budget: Budget = "30s",
    time_scope: TimeScopeName = "model",
    recipe: Annotated[
        Path | None,
        typer.Option(help="The recipe whose task decodes, and says at which sizes (timed).", show_default=False),
    ] = None,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Measure the latency of exported files; with two or more, interleaved, also the ratio to the first.

    Examples:

      secateur bench model.onnx

      secateur bench original.onnx pruned.onnx int8.onnx --runtime onnxruntime --threads 1

      secateur bench model.onnx --device ssh://pi@raspberrypi --duty 30ms

      secateur bench detector.onnx int8.onnx --time-scope model+decode --recipe detector.yaml
    """
    from pipeline.bundle.as_model import ExportedFiles
    from pipeline.measure.bench import bench_files as measure_files
    from pipeline.report.progress import ConsoleProgress

    terms = _terms(threads, batch, shape, duty, priority=priority)
    budget_s = _seconds(budget, "--budget")
    runtime = runtime or _reader(files)
    task = _task_of(recipe, time_scope)
    decoded = _decoding(task, batch) if time_scope == "model+decode" else nullcontext()
    with ConsoleProgress() as progress, ExportedFiles() as opened, decoded as decoding:
        found = measure_files(
            [opened(file, runtime) for file in files],
            replace(terms, decoding=decoding),
            runtime=runtime,
            budget_s=budget_s,
            seed=seed,
            sizes=task.timed_shapes(batch) if task else None,
            device=_timed_device(device, progress.note),
            labels=[str(file) for file in files],
            progress=progress,
        )
    if as_json:
        say_result(found)
        return
    from pipeline.report.console import Console
    from pipeline.report.latency.bench import bench_table

    Console().print(bench_table(found))


def compare(
    baseline: Annotated[
        Path, typer.Argument(metavar="BASE", help="The old one: an exported file or a bundle.", show_default=False)
    ],
    candidate: Annotated[Path, typer.Argument(metavar="CANDIDATE", help="The new one.", show_default=False)],
    margin: Annotated[
        str | None,
        typer.Option(metavar="SHARE", help="Largest slowdown that is accepted. Default: 3%; 1% of instructions."),
    ] = None,
    budget: Budget = "30s",
    metric: Annotated[
        Literal["wall", "cpu", "instructions"] | None,
        typer.Option(help="What decides. Default: CPU time with one thread, wall time with more."),
    ] = None,
    runtime: Runtime = None,
    runtime_b: Annotated[
        AnyRuntime | None,
        typer.Option("--runtime-b", help="Runtime of the candidate, to compare two runtimes."),
    ] = None,
    threads: Threads = 1,
    threads_b: Annotated[int | None, typer.Option(min=1, max=4096, help="Threads of the candidate.")] = None,
    batch: Batch = 1,
    shape: Shapes = None,
    device: DeviceName = "local",
    device_b: Annotated[
        str | None, typer.Option("--device-b", metavar="DEVICE", help="The candidate's device.")
    ] = None,
    duty: Duty = None,
    priority: Priority = True,
    tolerance: Annotated[
        str,
        typer.Option(
            metavar="SHARE", help="How far outputs may differ, as a share of the largest output; any: no limit."
        ),
    ] = "10%",
    force: Annotated[bool, typer.Option(help="Compare even on unequal terms; the result is marked as unfair.")] = False,
    roofline: Annotated[
        bool, typer.Option("--roofline/--no-roofline", help="Say what limits each side; this probes a device once.")
    ] = True,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Result folder. Default: runs/compare/BASE--CANDIDATE.")
    ] = None,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Say whether CANDIDATE is slower than BASE by more than the margin: PASS, FAIL or INCONCLUSIVE.

    Both run in turns, so that other load affects both alike; measuring ends as soon as the answer is certain.
    Exit codes: 0 PASS, 1 FAIL, 2 bad input, 3 INCONCLUSIVE, 4 INCOMPARABLE, 5 device unreachable, 6 wrong outputs.

    Examples:

      secateur compare main.onnx branch.onnx --margin 3%

      secateur compare fp32.onnx int8.onnx --tolerance 30% --device ssh://pi@raspberrypi

      secateur compare model.onnx model.onnx --runtime-b openvino

      secateur compare main.tar.gz runs/branch/bundle.tar.gz --runtime openvino
    """
    from pipeline.bundle.as_model import ExportedFiles, short_name
    from pipeline.core.paths import check_folder, file_name
    from pipeline.latency.compare import ComparisonRequest, keep_partial, write_comparison
    from pipeline.report.latency.comparison_html import write_comparison_page
    from pipeline.report.progress import ConsoleProgress

    runtime = runtime or _reader([baseline] if runtime_b else [baseline, candidate])
    question = ComparisonRequest(
        margin=_share(margin or DEFAULT_MARGINS.get(metric or "", "3%"), "--margin"),
        budget_s=_seconds(budget, "--budget"),
        metric=metric,
        tolerance=None if tolerance == "any" else _share(tolerance, "--tolerance"),
        runtime=runtime,
        runtime_b=runtime_b,
        threads_b=threads_b,
        terms=_terms(threads, batch, shape, duty, priority=priority),
        force=force,
        seed=seed,
        roofline=roofline,
        labels=(str(baseline), str(candidate)),
    )
    name = short_name(candidate)
    folder = out or Path("runs") / "compare" / file_name(f"{short_name(baseline)}--{name}")
    check_folder(folder, "the result's folder", "give another with --out")
    try:
        with ConsoleProgress() as progress, ExportedFiles() as opened:
            files = opened(baseline, runtime), opened(candidate, runtime_b or runtime)
            found, measurement = _compared(name, files, question, (device, device_b), progress)
        found = write_comparison(found, measurement, folder)
        write_comparison_page(found, measurement, folder)
    except DeviceError as error:
        kept = keep_partial(error, folder)
        if kept:
            say(f"What was measured so far is kept in {kept}", err=True)
        raise
    except SecateurError as error:
        if error.exit_code != STAGE_FAILED:
            raise
        say(f"error: {error}", err=True)  # with an exit code that no verdict has
        raise typer.Exit(InputError.exit_code) from error
    _show(found, folder, as_json=as_json)
    raise typer.Exit(found.exit_code)


def _reader(files: Sequence[Path]) -> str:
    """Return the first runtime that reads all files, by their names; what else they are is seen when they are read."""
    forms = {form_of(file) or next((name for name in FORMS if _holds(file, name)), None) for file in files}
    try:
        return runtime_for([form for form in forms if form], DEFAULT_RUNTIME)
    except LookupError as error:
        raise InputError(f"{error}; give files that one runtime reads") from error


def _holds(folder: Path, form: str) -> bool:
    """Say whether a folder is a network of a form that is no exported file."""
    return not FORMS[form].cost and (folder / FORMS[form].main).is_file()


def _compared(
    name: str,
    files: tuple[Path, Path],
    question: ComparisonRequest,
    devices: tuple[str, str | None],
    progress: ConsoleProgress,
) -> tuple[Comparison, Measurement]:
    from pipeline.latency.compare import compare_files
    from pipeline.latency.instructions import compare_instructions
    from pipeline.measure.devices.local import LocalDevice

    if question.metric == "instructions":
        return compare_instructions(*files, question, device=devices[0], name=name, progress=progress)
    opened = [_timed_device(device, progress.note) for device in devices if device]
    found = () if opened == [None] else tuple(each or LocalDevice() for each in opened)
    return compare_files(*files, question, name=name, devices=found, progress=progress)


def _timed_device(name: str, note: Callable[[str], None]) -> Device | None:
    """Return the device of that name, or None for this machine, whose worker depends on the runtime.

    Raises:
        InputError: there is no such device, or it is emulated, so that its times mean nothing.
    """
    from pipeline.measure.devices import open_device

    if name == "local":
        return None
    found = open_device(name, note=note)
    if found.emulated:
        raise InputError(
            f"{name} is emulated: its time is the emulator's and says nothing about a processor. "
            f"Compare instructions there instead: secateur compare BASE CANDIDATE --device {name} --metric instructions"
        )
    return found


def _task_of(recipe: Path | None, time_scope: str) -> Task | None:
    """Return the task of a recipe, which decodes outputs or says at which sizes files are timed; None without one."""
    if recipe is None:
        if time_scope == "model+decode":
            raise InputError("--time-scope model+decode needs --recipe: its task decodes the outputs")
        return None
    from pipeline.data import load_task
    from pipeline.recipe import load_recipe

    loaded = load_recipe(recipe, []).recipe
    task = load_task(loaded.task, loaded.data)
    if time_scope == "model" and not task.sizes.axes:
        raise InputError(f"--recipe {recipe}: its task leaves no sizes open; give --time-scope model+decode too")
    return task


def _decoding(task: Task | None, batch: int) -> AbstractContextManager[Decoding | None]:
    from pipeline.analysis.timed_decoding import timed_decoding

    return timed_decoding(task, batch) if task else nullcontext()


def _terms(threads: int, batch: int, shapes: list[str] | None, duty: str | None, *, priority: bool) -> MeasureTerms:
    from pipeline.measure.subjects import MeasureTerms

    pause_ns = round(_seconds(duty, "--duty") * 1e9) if duty else 0
    given = dict(_shape(each) for each in shapes or ())
    return MeasureTerms(threads=threads, batch=batch, shapes=given, pause_ns=pause_ns, priority=priority)


def _shape(text: str) -> tuple[str, tuple[int, ...]]:
    name, equals, listed = text.rpartition("=")
    sizes = listed.split(",")
    if not (equals and name and all(each.isdecimal() and len(each) <= MOST_DIGITS and int(each) for each in sizes)):
        raise typer.BadParameter(f"found {text!r}, allowed: INPUT=SIZES, such as ids=1,128", param_hint="--shape")
    return name, tuple(int(each) for each in sizes)


def _seconds(text: str, option: str) -> float:
    from pipeline.core.units import parse_duration

    return parsed_option(parse_duration, text, option)


def _share(text: str, option: str) -> float:
    from pipeline.core.units import parse_margin

    return parsed_option(parse_margin, text, option)


def show_comparison(folder: Path, *, as_json: bool) -> None:
    """Print a stored comparison and draw it; raises InputError if its rounds are not those it was made from."""
    from pipeline.latency.compare import read_comparison
    from pipeline.report.latency.comparison_html import write_comparison_page

    found, measurement = read_comparison(folder)
    write_comparison_page(found, measurement, folder)
    _show(found, folder, as_json=as_json)


def _show(found: Comparison, folder: Path, *, as_json: bool) -> None:
    if as_json:
        say_result(found)
        return
    from pipeline.report.console import Console
    from pipeline.report.latency.comparison_terminal import comparison_summary

    console = Console()
    console.print(comparison_summary(found))
    console.print(f"Drawings: {folder / 'comparison.html'}", soft_wrap=True, markup=False)
