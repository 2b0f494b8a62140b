"""What the command prints: text for people and JSON for programs, nothing in it that a terminal would interpret."""

from __future__ import annotations

import typer

from pipeline.core.printable import printable_json, printable_text


def say(text: object, *, err: bool = False) -> None:
    """Print text for people."""
    typer.echo(printable_text(str(text)), err=err)


def say_json(text: str) -> None:
    """Print JSON for programs, which reads as the same values."""
    typer.echo(printable_json(text))
