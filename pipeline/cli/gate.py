"""The command gate: many models against a store of baselines. Arguments to calls, results to files and exit codes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from pipeline.cli.choices import AsJson  # noqa: TC001 - typer reads annotations
from pipeline.cli.say import say, say_result
from pipeline.core.errors import InputError

if TYPE_CHECKING:
    from pipeline.results.gate import GateResult


def gate(
    config: Annotated[
        Path, typer.Option(metavar="FILE", help="Which files, margins and terms (TOML).", show_default=False)
    ],
    junit: Annotated[Path | None, typer.Option(metavar="FILE", help="Write JUnit XML.")] = None,
    markdown: Annotated[Path | None, typer.Option(metavar="FILE", help="Write a Markdown table.")] = None,
    inconclusive: Annotated[
        Literal["pass", "fail", "retry"] | None,
        typer.Option(
            help="Exit code of INCONCLUSIVE: 0 (pass), 1 (fail), or up to two longer tries (retry). Default: 3."
        ),
    ] = None,
    accept: Annotated[
        str | None,
        typer.Option(metavar="REASON", help="Make every measured candidate the new baseline, for this reason."),
    ] = None,
    refreeze: Annotated[
        bool, typer.Option(help="With --accept: also measure drift against these files from now on.")
    ] = False,
    drift: Annotated[
        bool, typer.Option(help="Measure against the first accepted file, and look for a step in all such ratios.")
    ] = False,
    only: Annotated[
        list[str] | None, typer.Option(metavar="MODEL", help="Only the model with this name. Repeatable.")
    ] = None,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder of the results of each model.")] = Path("runs/gate"),
    force: Annotated[
        bool, typer.Option(help="Measure even on terms other than the baseline's; the result is marked as unfair.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Measure models against their baselines, and say which are slower: for CI.

    The baseline is a file, kept by its hash and measured again next to the candidate, never a stored number. A model
    may be a bundle, which stands for its file for the runtime. With several models, the exit code is the first that
    applies of: 6 wrong outputs, 1 FAIL, 2 bad input, 5 device unreachable, 4 INCOMPARABLE, 3 INCONCLUSIVE, 0 PASS.

    \b
    latency.toml:
      margin = "3%"
      budget = "30s"
      [[model]]
      name = "resnet20-int8"
      file = "build/resnet20-int8.onnx"

    Examples:

      secateur gate --config latency.toml --accept "first baseline"

      secateur gate --config latency.toml --junit latency.xml --markdown latency.md --inconclusive retry

      secateur gate --config latency.toml --drift
    """  # noqa: D301 - typer keeps the lines of a paragraph after this character
    from pipeline.bundle.as_model import ExportedFiles
    from pipeline.core.partial import write_whole
    from pipeline.core.paths import check_folder
    from pipeline.latency.baselines import BaselineStore
    from pipeline.latency.gate import Gate
    from pipeline.latency.gate_config import gated_models, read_config
    from pipeline.report.progress import ConsoleProgress
    from pipeline.results.gate import RESULT_FILE

    _require_sensible(accept, refreeze=refreeze, drift=drift)
    read = read_config(config)
    models = [each for each in gated_models(read, config.parent, force=force) if not only or each.name in only]
    if only and len(models) != len(set(only)):
        names = ", ".join(each.name for each in read.model)
        raise InputError(f"found --only {', '.join(only)}, allowed: {names}")
    check_folder(out, "the results' folder", "give another with --out")
    with ConsoleProgress() as progress, ExportedFiles() as opened:
        task = Gate(
            store=BaselineStore(config.parent / read.baselines),
            config=str(config),
            results=out,
            policy=inconclusive or "report",
            accept=accept,
            refreeze=refreeze,
            drift=drift,
            any_machine=read.machine == "any",
            opened=opened,
        )
        found = task.run(models, progress)
    out.mkdir(parents=True, exist_ok=True)
    write_whole(out / RESULT_FILE, found.model_dump_json(indent=1) + "\n")
    _write(found, junit, markdown)
    _show(found, as_json=as_json)
    raise typer.Exit(found.exit_code)


def _require_sensible(accept: str | None, *, refreeze: bool, drift: bool) -> None:
    if accept is not None and not accept.strip():
        raise InputError('found an empty --accept, allowed: a reason, such as --accept "wider stem, +2 points"')
    if refreeze and accept is None:
        raise InputError("found --refreeze without --accept, allowed: both together")
    if drift and accept is not None:
        raise InputError(
            "found --drift with --accept, allowed: one of them; --refreeze changes what drift is measured against"
        )


def _write(found: GateResult, junit: Path | None, markdown: Path | None) -> None:
    from pipeline.core.partial import write_whole
    from pipeline.report.latency import gate as pages

    for path, text in ((junit, pages.junit_xml), (markdown, pages.markdown)):
        if path:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, text(found))


def _show(found: GateResult, *, as_json: bool) -> None:
    from pipeline.report.console import Console
    from pipeline.report.latency import gate as pages

    if os.environ.get("GITHUB_ACTIONS") == "true":
        for line in pages.github_lines(found):
            say(line, err=as_json)
    if as_json:
        say_result(found)
    else:
        Console().print(pages.gate_summary(found))
