"""Progress for people: a bar on a terminal, a line every half minute elsewhere. Always on stderr."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Self

from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from pipeline.core import interruption
from pipeline.report.console import Console

if TYPE_CHECKING:
    from types import TracebackType

_REFRESH_S = 0.2
_LINE_EVERY_S = 30.0


class ConsoleProgress:
    """The `Progress` of the command line. No thread of its own: it must not disturb what is being timed."""

    def __init__(self) -> None:
        self.console = Console(file=sys.stderr)
        columns = (TextColumn("{task.description}", markup=False), BarColumn(), TimeElapsedColumn(), TextColumn("left"))
        self.bar = Progress(*columns, TimeRemainingColumn(), console=self.console, auto_refresh=False, transient=True)
        self.task: TaskID | None = None
        self.drawn = 0.0

    def __enter__(self) -> Self:
        """Start drawing."""
        self.bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Remove the bar."""
        self.bar.stop()

    def update(self, done: float, total: float, text: str = "") -> None:
        """Move the bar to `done` of `total`; a smaller `done` than before starts it anew.

        Raises Interrupted after a signal that a library has swallowed; so does `note`.
        """
        interruption.check()
        now = time.monotonic()
        wait = _REFRESH_S if self.console.is_terminal else _LINE_EVERY_S
        if self.task is None:
            self.task, self.drawn = self.bar.add_task(text, total=total), now
        elif done < (self.bar.tasks[0].completed or 0) or self.bar.tasks[0].total != total:
            self.bar.reset(self.task, total=total)
        self.bar.update(self.task, completed=done, total=total, description=text)
        if now - self.drawn < wait:
            return
        self.drawn = now
        if self.console.is_terminal:
            self.bar.refresh()
        else:
            self.console.print(f"  {text} ({done:.0f} of {total:.0f})")

    def note(self, text: str) -> None:
        """Print one line that stays, and end the bar of what was before."""
        interruption.check()
        if self.task is not None:
            self.bar.remove_task(self.task)
            self.task = None
        self.console.print(text, markup=False)
        self.bar.refresh()
