"""Counts of what was tried, and the table of them in benchmarks/torture.md."""

from __future__ import annotations

import platform
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

TABLE = "torture"
FILE = Path(__file__).resolve().parents[2] / "benchmarks" / "torture.md"
HEAD = """\
# What was done to it, and what became of it

Written by `make torture`. Right is a right result, or one clear message with exit code 2 (3 for what the machine could
not do) and no traceback; after a kill, a crash or a full disk it is also that the next run ends with the same bytes as
one that nothing disturbed. Everything is seeded; `make check` tries a part of it.

| kind | tried | right | wrong |
|---|--:|--:|--:|
"""


@dataclass
class Tally:
    """Right and wrong outcomes by kind; of wrong ones what happened. `full` says whether all is to be tried."""

    full: bool
    counts: dict[str, list[int]] = field(default_factory=lambda: defaultdict(lambda: [0, 0]))
    wrong: list[str] = field(default_factory=list)

    @property
    def tried(self) -> int:
        """How many outcomes there are."""
        return sum(tried for tried, _ in self.counts.values())

    def add(self, kind: str, case: object, wrong: str = "") -> None:
        """Count an outcome; `wrong` says what is wrong with it."""
        count = self.counts[kind]
        count[0] += 1
        if wrong:
            count[1] += 1
            self.wrong.append(f"{kind}: {case}: {wrong}")


def write_table(rows: list[tuple[str, int, int]], *, to_file: bool) -> list[str]:
    """Return the lines of the table of (kind, tried, wrong), and write the file where that is wanted."""
    totals = defaultdict[str, list[int]](lambda: [0, 0])
    for kind, tried, wrong in rows:
        totals[kind][0] += tried
        totals[kind][1] += wrong
    lines = [f"| {kind} | {tried:,} | {tried - wrong:,} | {wrong} |" for kind, (tried, wrong) in totals.items()]
    tried, wrong = (sum(each[index] for each in totals.values()) for index in (0, 1))
    lines.append(f"| all | {tried:,} | {tried - wrong:,} | {wrong} |")
    if to_file:
        FILE.write_text(HEAD + "\n".join(lines) + f"\n\nPython {platform.python_version()}.\n")
    return lines
