"""The page of low_rank.py: error and accuracy by parameters that are left, for each way."""

from __future__ import annotations

from statistics import mean
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

HEAD = """\
# Whitened and plain factors at equal parameters

ResNet-20 on Fashion-MNIST, no training after it, but batch norms take their statistics again from 500 training images.
Error is the mean over factorised layers of the share of the output's energy that is lost, on validation images and in
brackets that of the worst layer; accuracy is that of the torch network on the 5,000 validation images, in percent, in
brackets the lowest and the highest of the seeds, which draw the training images. `plain factors` have the ranks of
`whitened`, so the difference between the two is that of the factors alone; `plain` chooses other ranks and layers, and
its mean error is over these. Differences of accuracy below 0.5 points mean nothing.
No times are measured here: fewer parameters are not less time.

    .venv/bin/python benchmarks/low_rank.py run
    .venv/bin/python benchmarks/low_rank.py table
"""


def page(records: Sequence[dict[str, Any]]) -> str:
    """Return the page as Markdown."""
    if not records:
        return f"{HEAD}\nNothing has been run yet.\n"
    said = f"The original has {100 * records[-1]['original']:.2f} %. torch {records[-1]['torch']}."
    rows = ["| parameters asked | way | left | layers | error | accuracy | seeds |", "|---|---|---|---|---|---|---|"]
    keys = dict.fromkeys((each["share"], each["way"]) for each in records)
    order = sorted(keys, key=lambda key: -key[0])
    rows += [line([each for each in records if (each["share"], each["way"]) == key]) for key in order]
    return "\n".join([HEAD, said, "", *rows, ""])


def line(found: Sequence[dict[str, Any]]) -> str:
    """Return the row of the seeds of one way at one share."""
    accuracy = [100 * each["accuracy"] for each in found]
    parts = (
        f"{found[0]['share']:g}x",
        found[0]["way"],
        f"{mean(each['left'] for each in found):.3f}x",
        f"{mean(each['layers'] for each in found):.3g}",
        f"{mean(each['error'] for each in found):.4f} ({max(each['largest_error'] for each in found):.4f})",
        f"{mean(accuracy):.2f} ({min(accuracy):.2f} to {max(accuracy):.2f})",
        str(len(found)),
    )
    return f"| {' | '.join(parts)} |"
