"""Commands whose output nobody reads end with 141 and no word, whatever they print it with."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from pipeline.core.ending import UNREAD

if TYPE_CHECKING:
    from pathlib import Path

    from tests.project import Project

#: Commands by what prints: the library of arguments, plain text, rich's tables, JSON, errors.
COMMANDS = {
    "help": ("--help",),
    "text": ("recipes", "list"),
    "a long text": ("schema", "recipe"),
    "table": ("store", "size"),
    "JSON": ("store", "size", "--json"),
    "plan": ("plan", "toy.yaml"),
    "progress": ("store", "check"),
}
ERRORS = {"an error": ("validate", "none.yaml"), "a wrong option": ("run", "--none"), "none": ("recipes", "list")}


def into_closed_pipe(folder: Path, *command: str, both: bool = False) -> tuple[int, str]:
    """Run a command of Python with a standard output (`both`: and error) that nobody reads; return code and errors."""
    reader, writer = os.pipe()
    os.close(reader)
    environment = {**os.environ, "SECATEUR_STORE": str(folder / "store"), "COLUMNS": "80"}
    try:
        ended = subprocess.run(
            [sys.executable, *command],
            cwd=folder,
            env=environment,
            stdout=writer,
            stderr=writer if both else subprocess.PIPE,
            text=True,
            check=False,
            timeout=300,
        )
    finally:
        os.close(writer)
    return ended.returncode, (ended.stderr or "").strip()


@pytest.mark.parametrize("name", COMMANDS)
def test_output_that_nobody_reads(project: Project, name: str) -> None:
    """As behind `| head`: no traceback, and no code that would be a verdict."""
    assert into_closed_pipe(project.folder, "-m", "pipeline", *COMMANDS[name]) == (UNREAD, "")


@pytest.mark.parametrize("name", ERRORS)
def test_errors_that_nobody_reads(project: Project, name: str) -> None:
    """As behind `2>&1 | head`."""
    assert into_closed_pipe(project.folder, "-m", "pipeline", *ERRORS[name], both=True)[0] == UNREAD


def test_other_closed_pipes_are_errors() -> None:
    """That of a process which a command started is no end of its output, and has a message."""
    code = """
import pipeline.cli, sys
def broken(*args, **options):
    raise BrokenPipeError(32, "Broken pipe")
pipeline.cli.app = broken
pipeline.cli.main()
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=300)
    assert ended.returncode == 3
    assert ended.stderr.startswith("error: BrokenPipeError: Broken pipe")
