"""Progress that ends a stage in the middle, as a signal would."""

from __future__ import annotations

from pipeline.core.stage import SilentProgress


class Stops(SilentProgress):
    """Ends the process after so many reports; notes are kept."""

    def __init__(self, after: int) -> None:
        self.left = after
        self.notes: list[str] = []

    def update(self, done: float, total: float, text: str = "") -> None:
        """Count down."""
        del done, total, text
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt

    def note(self, text: str) -> None:
        """Keep it."""
        self.notes.append(text)
