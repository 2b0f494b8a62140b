"""rich's console for tables and bars, with nothing in what it prints that a terminal would obey."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import rich.console
from rich.segment import Segment

from pipeline.core.printable import printable_text

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.console import ConsoleOptions, RenderableType


class Console(rich.console.Console):
    """rich's console, on which text is never markup and names never control anything."""

    def __init__(self, **options: Any) -> None:  # noqa: ANN401 - rich's own
        super().__init__(**{"markup": False, "emoji": False, "highlight": False, **options})

    def on_broken_pipe(self) -> None:
        """Let the error pass where rich would end the program with the code 1, which is a verdict of some commands."""
        raise  # noqa: PLE0704 - rich calls this while it handles that error

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Render as rich does; its own control codes, which move the cursor of a bar, are no text."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(printable_text(segment.text), segment.style)
