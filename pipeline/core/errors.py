"""The exception tree and its exit codes.

SecateurError                 exit 3
|- InputError                 exit 2   the user's recipe, files, data or arguments are not usable as given
|  |- RecipeError             exit 2   one or more problems in a recipe, each with file and line
|  |- UnreachableError        exit 2   the aim lies beyond what can be reached; all else is usable
|- StageError                 exit 3   a stage could not keep its contract (parity, certificate, NaN in training)
|  |- OutputsError            exit 6   a file computes something else than it should: it is not timed
|- ResourceError              exit 3   the machine could not do it (disk full, a folder in use, memory)
|- IncomparableError          exit 4   two files were not to be measured on equal terms; the message names the field
|- DeviceError                exit 5   a device cannot be reached, or what runs there stopped answering

A message says what was found, what was expected and what to do. Exit codes of `secateur run`:
0 passed, 1 budget missed, 2 bad input, 3 stage failed, 4 cannot tell (the interval straddles the budget), 130 and 143
interrupted (`pipeline.core.interruption`).
Those of `compare` and `gate` are in `pipeline.results.comparison`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

#: Problems of one recipe that its message lists.
_MOST_TOLD = 100


class SecateurError(Exception):
    """Root of every error that is reported to the user as one message without a traceback."""

    exit_code: ClassVar[int] = 3


class InputError(SecateurError):
    """The recipe, a file, the data or an argument cannot be used as given."""

    exit_code = 2


@dataclass(frozen=True)
class Problem:
    """One problem in a recipe: where it is, what was found there and what would be allowed."""

    key: str
    message: str
    line: int | None = None


class RecipeError(InputError):
    """One or more problems of one recipe file, all found in one pass; the text lists the first hundred."""

    def __init__(self, path: str, problems: tuple[Problem, ...]) -> None:
        self.path = path
        self.problems = problems
        lines = [
            f"{path}:{p.line} {p.key}: {p.message}" if p.line else f"{path} {p.key}: {p.message}"
            for p in problems[:_MOST_TOLD]
        ]
        rest = len(problems) - _MOST_TOLD
        super().__init__("\n".join([*lines, f"{path}: and {rest:,} more"] if rest > 0 else lines))


class UnreachableError(InputError):
    """What is asked for is less than can be had, or more: another aim would do, and the rest is usable."""


class StageError(SecateurError):
    """A stage could not keep its contract; what was finished before it is kept."""


class ResourceError(SecateurError):
    """The machine could not do it: a full disk, a folder in use, too little memory."""


class OutputsError(StageError):
    """A file's outputs are not finite, have other shapes, or are too far from those expected."""

    exit_code = 6


class IncomparableError(SecateurError):
    """Two sides of a comparison differ in what must be equal for a fair one; `fields` says in what, one text each."""

    exit_code = 4
    fields: tuple[str, ...] = ()


class DeviceError(SecateurError):
    """A device cannot be reached, refuses, lacks something, or its worker stopped answering.

    `partial` holds what was measured before that, where there is anything.
    """

    exit_code = 5
    partial: object = None


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text that says something: what a person can use of a library's message."""
    return next((line.strip().rstrip(".:") for line in str(error).splitlines() if line.strip()), type(error).__name__)
