"""Options that several commands have, and the names of a table as values: typer makes choices of a Literal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from pipeline.core.runtimes import RUNTIMES, shipping_runtimes
from pipeline.tasks.kinds import KITS

if TYPE_CHECKING:
    from collections.abc import Callable

    TaskKind = str
    AnyRuntime = str
    FileRuntime = str
else:
    TaskKind = Literal[(*KITS, "file")]
    AnyRuntime = Literal[tuple(RUNTIMES)]
    FileRuntime = Literal[shipping_runtimes()]

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
Threads = Annotated[int, typer.Option(min=1, max=4096, help="Threads of one inference.")]


def parsed_option(parse: Callable[[str], float], text: str, option: str) -> float:
    """Return what `parse` makes of an option's text; its ValueError becomes typer's error about that option."""
    try:
        return parse(text)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=option) from error
