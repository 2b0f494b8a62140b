"""What the command prints: text for people and JSON for programs, nothing in it that a terminal would interpret."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import typer

from pipeline.core.printable import printable_json, printable_text

if TYPE_CHECKING:
    from pydantic import BaseModel


def say(text: object, *, err: bool = False) -> None:
    """Print text for people."""
    typer.echo(printable_text(str(text)), err=err)


def say_json(text: str) -> None:
    """Print JSON for programs, which reads as the same values."""
    typer.echo(printable_json(text))


def say_result(found: BaseModel) -> None:
    """Print a result as JSON."""
    say_json(found.model_dump_json(indent=1))


def say_values(content: object) -> None:
    """Print plain values as JSON, in ASCII."""
    say_json(json.dumps(content, indent=1, allow_nan=False))
