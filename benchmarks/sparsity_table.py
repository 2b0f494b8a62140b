"""The page of sparsity.py: accuracy by method and density, before and after retraining."""

from __future__ import annotations

from statistics import mean, stdev
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

HEAD = """\
# Single weights to zero

ResNet-20 on Fashion-MNIST: one method sets weights to zero, at once or while it trains, and all get the same training:
epochs of 15,000 images, SGD at 0.05, distilled from the original. Accuracy is that of the exported float file on the
5,000 validation images, in percent; in brackets before any training. Several seeds give mean +- standard deviation.
Differences below 0.5 points of single seeds mean nothing. Methods that look at images have looked at 512 of training.

    .venv/bin/python benchmarks/sparsity.py run
    .venv/bin/python benchmarks/sparsity.py table
"""


def page(records: Sequence[dict[str, Any]]) -> str:
    """Return the page as Markdown: a table for each number of epochs."""
    if not records:
        return f"{HEAD}\nNothing has been run yet.\n"
    last = records[-1]
    versions = ", ".join(f"{name} {value}" for name, value in last["versions"].items())
    said = (
        f"The original has {100 * last['original']:.2f} %. On {last['machine']['cpu_model']} "
        f"({', '.join(last['machine']['isa'])}); {versions}."
    )
    epochs = sorted({each["epochs"] for each in records}, reverse=True)
    sections = [section([each for each in records if each["epochs"] == count], count) for count in epochs]
    return "\n".join([HEAD, said, *sections, ""])


def section(records: Sequence[dict[str, Any]], epochs: int) -> str:
    """Return the table of methods and densities with so many epochs of training."""
    densities = sorted({each["density"] for each in records}, reverse=True)
    methods = dict.fromkeys(each["method"] for each in records)
    head = "| method | " + " | ".join(f"{100 * (1 - each):.4g} % zeros" for each in densities) + " |"
    rule = "|---" * (len(densities) + 1) + "|"
    rows = ([each, *(cell(records, each, density) for density in densities)] for each in methods)
    title = f"## {epochs} epochs" if epochs else "## Without training"
    return "\n".join(["", title, "", head, rule, *(f"| {' | '.join(row)} |" for row in rows)])


def cell(records: Sequence[dict[str, Any]], method: str, density: float) -> str:
    """Return the accuracy of a method at a density; empty where nothing was run."""
    found = [each for each in records if (each["method"], each["density"]) == (method, density)]
    if not found:
        return ""
    after = [100 * each["accuracy"] for each in found]
    before = [100 * each["at_once"] for each in found if each["epochs"] and "at_once" in each]
    spread = f" +- {stdev(after):.2f}" if len(after) > 1 else ""
    return f"{mean(after):.2f}{spread}" + (f" ({mean(before):.2f})" if before else "")
