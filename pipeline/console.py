"""Where the command prints: text for people and JSON for programs, with nothing in it that a terminal would obey."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import rich.console
import typer
from rich.segment import Segment

from pipeline.core.printable import printable, printable_json

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.console import ConsoleOptions, RenderableType


class Console(rich.console.Console):
    """rich's console, on which text is never markup and names never control anything."""

    def __init__(self, **options: Any) -> None:  # noqa: ANN401 - rich's own
        """Take rich's options."""
        super().__init__(**{"markup": False, "emoji": False, "highlight": False, **options})

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Render as rich does; its own control codes, which move the cursor of a bar, are no text."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(printable(segment.text), segment.style)


def say(text: object, *, err: bool = False) -> None:
    """Print text for people."""
    typer.echo(printable(str(text)), err=err)


def say_json(text: str) -> None:
    """Print JSON for programs, which reads as the same values."""
    typer.echo(printable_json(text))
