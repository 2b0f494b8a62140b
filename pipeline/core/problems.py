"""How problems and notes about data are told: all together, some by name, the rest by number."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.core.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

#: Problems, and examples in a note, that are told one by one.
LISTED, NAMED = 12, 3


def refuse_problems(where: str, problems: Sequence[str], advice: str) -> None:
    """Raise InputError that lists the problems, the first of them in words, unless there is none."""
    if not problems:
        return
    count = f"{len(problems):,} problem{'s' if len(problems) > 1 else ''}"
    lines = [f"\n  {visible(problem)}" for problem in problems[:LISTED]]
    more = f"\n  and {len(problems) - LISTED:,} more" if len(problems) > LISTED else ""
    raise InputError(f"{visible(where)}: {count}{''.join(lines)}{more}\n{advice}")


def first_names(names: Sequence[str]) -> str:
    """Return the first names, and how many more there are."""
    more = f" and {len(names) - NAMED:,} more" if len(names) > NAMED else ""
    return f"{', '.join(map(visible, names[:NAMED]))}{more}"


def visible(text: str) -> str:
    """Return a text in one line with its control characters, which names of files may have, as escapes."""
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)
