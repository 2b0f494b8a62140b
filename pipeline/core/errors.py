"""The exception tree and its exit codes.

SecateurError                 exit 3
|- InputError                 exit 2   the user's recipe, files, data or arguments are not usable as given
|  |- RecipeError             exit 2   one or more problems in a recipe, each with file and line
|- StageError                 exit 3   a stage could not keep its contract (parity, certificate, NaN in training)
|- ResourceError              exit 3   the machine could not do it (disk full, a folder in use, memory)

A message says what was found, what was expected and what to do. Exit codes of `secateur run`:
0 passed, 1 budget missed, 2 bad input, 3 stage failed, 4 cannot tell (the interval straddles the budget).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar


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
    """One or more problems of one recipe file, all found in one pass."""

    def __init__(self, path: str, problems: tuple[Problem, ...]) -> None:
        """Keep the file's name and its problems; the text is one line for each."""
        self.path = path
        self.problems = problems
        lines = [
            f"{path}:{p.line} {p.key}: {p.message}" if p.line else f"{path} {p.key}: {p.message}" for p in problems
        ]
        super().__init__("\n".join(lines))


class StageError(SecateurError):
    """A stage could not keep its contract; what was finished before it is kept."""


class ResourceError(SecateurError):
    """The machine could not do it: a full disk, a folder in use, too little memory."""
