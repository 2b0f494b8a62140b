"""The commands about packed files: pack and unpack. Arguments to calls, results to text or JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.choices import AsJson, FileRuntime  # noqa: TC001 - typer reads annotations
from pipeline.cli.say import say, say_result, say_values
from pipeline.compress.coding.names import CODE_NAMES


def pack(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="FILE|RUN",
            help="An exported file (.onnx, model.xml beside its .bin), the folder of a stage that has one, a bundle, "
            "or the folder of a run.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="FILE", help="Where to write. Default: its name and .packed, here."),
    ] = None,
    codes: Annotated[
        list[str] | None,
        typer.Option(
            "--code", metavar="|".join(CODE_NAMES), help="Use only this code of weights. Repeatable. Default: all."
        ),
    ] = None,
    runtime: Annotated[
        FileRuntime | None, typer.Option(help="Of a run or bundle, which file. Default: the one for its own runtime.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Store an exported network in fewer bytes, from which `unpack` gives back the same file, byte for byte.

    Each tensor is stored in the code that is smallest for it: raw, bitmap, relative index, Huffman, range coding, with
    a codebook where it has few distinct values. Runtimes do not read packed files: unpack them first.

    Examples:

      secateur pack model.onnx -o model.packed

      secateur pack runs/demo --json
    """
    from pipeline.bundle.as_model import ExportedFiles
    from pipeline.bundle.packing import file_of_run, is_run, pack_network
    from pipeline.compress.coding.unpack import SUFFIX
    from pipeline.inspect.exported_argument import exported_file
    from pipeline.report.console import Console
    from pipeline.report.packing import packing_tables
    from pipeline.report.progress import ConsoleProgress

    with ExportedFiles() as opened, ConsoleProgress() as progress:
        file = file_of_run(source, runtime) if is_run(source) else opened(exported_file(str(source)) or source, runtime)
        sizes = pack_network(file, out or Path(f"{file.name}{SUFFIX}"), codes=codes or CODE_NAMES, progress=progress)
    if as_json:
        say_result(sizes)
    else:
        Console().print(packing_tables(sizes))


def unpack(
    packed: Annotated[Path, typer.Argument(metavar="PACKED", help="A file that pack made.", show_default=False)],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="DIR", help="Where to write. Default: beside the packed file.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Give back the files in a packed one, byte for byte. They are checked before anything is written.

    A file that is there already is never replaced by another. The program `unpack.py` in a bundle does the same with
    Python and numpy alone.

    Examples:

      secateur unpack model.packed

      secateur unpack model.packed -o unpacked --json
    """
    from pipeline.bundle.packing import unpack_network

    places = unpack_network(packed, out)
    if as_json:
        say_values({str(place): place.stat().st_size for place in places})
    else:
        say("\n".join(f"{place}: {place.stat().st_size:,} bytes" for place in places))
