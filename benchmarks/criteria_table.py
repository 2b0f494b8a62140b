"""Writes the page of criteria.py from its records."""

from __future__ import annotations

import statistics
from collections import defaultdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    Record = dict[str, Any]

HEAD = """\
# Criteria

Written by `criteria.py table`; README.md has the protocol. ResNet-20 on Fashion-MNIST.
"""


def page(records: list[Record], rows: Sequence[str]) -> str:
    """Return the page in Markdown: one section for each budget."""
    budgets: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        budget = record["budget"]
        text = (
            f"{budget['epochs']} epoch(s) of {budget['images']:,} images, learning rate {budget['learning_rate']:g}, "
            f"{budget['calibration']} images for criteria that look at data"
        )
        budgets[text].append(record)
    sections = [line for text, found in budgets.items() for line in (f"## {text}\n", *section(found, rows))]
    return "\n".join([HEAD, *sections]) + "\n"


def section(records: list[Record], rows: Sequence[str]) -> Iterator[str]:
    """Yield the table of one budget."""
    factors = sorted({record["factor"] for record in records})
    seeds = len({record["seed"] for record in records})
    yield f"Test accuracy in %, mean ± standard deviation of {seeds} seeds; in brackets validation before retraining.\n"
    names = ["row", *(f"{factor}x fewer operations" for factor in factors), "scoring, CPU seconds", "images"]
    yield f"| {' | '.join(names)} |"
    yield f"|{'---|' * len(names)}"
    for row in rows:
        own = [record for record in records if record["row"] == row]
        if own:
            cells = [cell([record for record in own if record["factor"] == factor]) for factor in factors]
            seconds = statistics.median(record["scoring_seconds"] for record in own)
            yield f"| {' | '.join([row, *cells, f'{seconds:.2f}', str(own[0]['scoring_images'] or '')])} |"
    worst = max(abs(record["miss"]) for record in records)
    yield ""
    yield f"Targets are met within {100 * worst:.2f} %.\n"


def cell(records: list[Record]) -> str:
    """Write test accuracy over seeds."""
    if not records:
        return ""
    test = [100 * record["test"] for record in records]
    spread = f" ± {statistics.stdev(test):.2f}" if len(test) > 1 else ""
    before = statistics.mean(100 * record["untrained_validation"] for record in records)
    return f"{statistics.mean(test):.2f}{spread} ({before:.1f})"
