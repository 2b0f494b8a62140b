"""The page of sparsity.py: accuracy by method and density, before and after retraining."""

from __future__ import annotations

from statistics import mean, stdev
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

HEAD = """\
# Single weights to zero

ResNet-20 on Fashion-MNIST: one method sets weights to zero, all at once or while it trains, and the network is then
retrained in the same way for all (4 epochs of 15,000 images, SGD at 0.05, distilled from the original). Accuracy is
that of the exported float file on the 5,000 validation images, in percent; in brackets without retraining. Several
seeds give mean +- standard deviation. Differences below 0.5 points of single seeds mean nothing. Methods that look at
images have looked at 512 training images.

    .venv/bin/python benchmarks/sparsity.py run
    .venv/bin/python benchmarks/sparsity.py table
"""


def page(records: Sequence[dict[str, Any]]) -> str:
    """Return the page as Markdown."""
    if not records:
        return f"{HEAD}\nNothing has been run yet.\n"
    densities = sorted({each["density"] for each in records}, reverse=True)
    methods = list(dict.fromkeys(each["method"] for each in records))
    last = records[-1]
    versions = ", ".join(f"{name} {value}" for name, value in last["versions"].items())
    said = (
        f"The original has {100 * last['original']:.2f} %. On {last['machine']['cpu_model']} "
        f"({', '.join(last['machine']['isa'])}); {versions}."
    )
    head = "| method | " + " | ".join(f"{100 * (1 - each):.4g} % zeros" for each in densities) + " |"
    lines = [
        f"| {method} | " + " | ".join(cell(records, method, each) for each in densities) + " |" for method in methods
    ]
    return "\n".join([HEAD, said, "", head, "|---" * (len(densities) + 1) + "|", *lines, ""])


def cell(records: Sequence[dict[str, Any]], method: str, density: float) -> str:
    """Return the accuracy of a method at a density; empty where nothing was run."""
    found = [each for each in records if (each["method"], each["density"]) == (method, density)]
    if not found:
        return ""
    after, before = ([100 * each[key] for each in found] for key in ("accuracy", "at_once"))
    spread = f" +- {stdev(after):.2f}" if len(after) > 1 else ""
    return f"{mean(after):.2f}{spread} ({mean(before):.2f})"
