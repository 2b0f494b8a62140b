"""The page of low_rank_latency.py: accuracy at the same latency, by ranks and by channels."""

from __future__ import annotations

from statistics import mean, stdev
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

HEAD = """\
# Ranks and channels at equal latency

Networks brought to a share of the time of their own file in the same precision, in onnxruntime on one thread: by ranks
(`factorize`), by channels (`prune`, channels alone), and with uniform widths as a control. All get the same retraining,
distilled from the original. Accuracy is that of the file that ships on validation images, in percent, in brackets
before any training (of the torch network); several seeds give mean +- standard deviation. Differences of single seeds
below 0.5 points mean nothing on Fashion-MNIST, and below 2 points on ELPV, of which one image is 0.25 points. `time` is
measured once more at the end, with its interval; a network that came out faster had an easier file and a harder task.

    .venv/bin/python benchmarks/low_rank_latency.py run
    .venv/bin/python benchmarks/low_rank_latency.py table
"""
COLUMNS = ("network", "asked", "way", "seeds", "accuracy", "time", "operations left", "model's error, median and p90")


def page(records: Sequence[dict[str, Any]]) -> str:
    """Return the page as Markdown."""
    if not records:
        return f"{HEAD}\nNothing has been run yet.\n"
    last = records[-1]
    versions = ", ".join(f"{name} {value}" for name, value in last["versions"].items())
    machine = f"{last['machine']['cpu_model']} ({', '.join(last['machine']['isa'] or ())})"
    keys = dict.fromkeys((each["network"], each["precision"], each["target"], each["way"]) for each in records)
    rows = [
        line([each for each in records if tuple(each[k] for k in ("network", "precision", "target", "way")) == key])
        for key in keys
    ]
    table = [row(COLUMNS), row(["---"] * len(COLUMNS)), *map(row, rows)]
    return "\n".join([HEAD, f"On {machine}; {versions}.", "", *table, ""])


def line(found: Sequence[dict[str, Any]]) -> list[str]:
    """Return the row of the seeds of one way."""
    first = found[0]
    accuracy = [100 * each["accuracy"] for each in found]
    spread = f" +- {stdev(accuracy):.2f}" if len(accuracy) > 1 else ""
    at_once = f" ({mean(100 * each['at_once'] for each in found):.2f})"
    times = "; ".join("{value:.3f}x [{low:.3f}, {high:.3f}]".format(**each["ratio"]) for each in found)
    return [
        f"{first['network']} {first['precision']}, {100 * first['original']:.2f} % before",
        first["target"],
        first["way"],
        str(len(found)),
        f"{mean(accuracy):.2f}{spread}{at_once}",
        times,
        f"{mean(each['macs'][1] / each['macs'][0] for each in found):.3f}x",
        ", ".join(f"{100 * mean(each['model'][key] for each in found):.1f} %" for key in ("median_error", "p90_error")),
    ]


def row(cells: Sequence[str]) -> str:
    """Return a row of a table."""
    return f"| {' | '.join(cells)} |"
