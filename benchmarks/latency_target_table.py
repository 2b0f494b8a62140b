"""The page of latency_target.py: a table of cells, how many of them hit, and what the cost models were off by."""

from __future__ import annotations

from statistics import mean, median
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

#: A cell hits when its file takes between these shares of the target.
LOWEST, HIGHEST = 0.97, 1.00
HEAD = """\
# Compressing to a latency

Each network is pruned to a share of the time of its own unpruned file, in the precision that ships, without any
training (`{kind: prune, target: {latency: 0.5x}}`, criterion group_l2, channels and residual blocks as moves). Then the
file at the end of the recipe is timed against the unpruned one in a measurement of its own: interleaved, one thread,
CPU time, 20 s, and again for 60 s and 120 s while the interval is wider than 3 %. A cell hits when the ratio lies
between 0.97 and 1.00 of the target. Lines of `results/latency_target.jsonl` have all that was found, moves and
corrections too. Cells in onnxruntime that were measured beside other work and stayed noisy were timed up to three
times, whatever they had shown; the last measurement counts. Moves were chosen by 256 training images in the cells of
ResNet-20 in onnxruntime, of MobileNetV2 there at 0.75x and 0.5x and of ResNet-18 at 0.75x, and by 64 in the others.

Of several noisy measurements of 15 s the first one in the range was believed at first. Since then what lies in the
range is measured once more, and the mean of both counts. Run that way were the cells of EfficientNet-Lite0 and of
ResNet-18 in OpenVINO, and, a second time, those six that had missed before: ResNet-18 and the ViT in onnxruntime at
0.5x, MobileNetV2 and the ViT in OpenVINO at 0.5x and 0.35x. Cells that had hit keep their first result, so that the
share of hits flatters the rule by what a second run of those would have lost.

    .venv/bin/python benchmarks/latency_target.py hit
    .venv/bin/python benchmarks/latency_target.py again
    .venv/bin/python benchmarks/latency_target.py table
"""
GAIN_HEAD = """\
## Operations that become time

Float files in onnxruntime: how much faster (time before / after), how many times fewer multiply-accumulates, and the
one over the other. Half of the time was the target, or half of the operations. At least 0.9 is aimed at with half of
the time. What stays below, as networks of many small operators may, pays for their calls, which hardly fall with
operations.

    .venv/bin/python benchmarks/latency_target.py gain

| network | target | faster [95 %] | fewer operations | latency gain / operations gain |
|---|---|---|---|---|"""
WORTH_HEAD = """\
## Is it worth it?

The accuracy of the int8 file on validation images, after the same short retraining (4 epochs; of Fashion-MNIST on
15,000 images): what was chosen, and uniform widths, one ranking by L2 norm and random channels, brought to the same
latency by the same search. The ratio that each was measured at stands beside it: what is more than 3 % off the target
is not compared. L2 at equal operations beside them takes another time. Widths alone may not reach the
time (0.61x is the floor of ResNet-20's int8 file), so controls first lose blocks that change their input least: as many
as were chosen, or the nearest number from which widths reach it. So each of them is told how deep to be.

    .venv/bin/python benchmarks/latency_target.py worth
"""
SAME_TIME = ("uniform", "l2", "random")
#: How far from the target a file may be to be compared at equal latency.
SAME = 0.03
COLUMNS = """\
| network | runtime | precision | target | measured ratio [95 %] | of the target | MACs left | blocks | \
model: median, p90 error | probing | all |
|---|---|---|---|---|---|---|---|---|---|---|"""


def page(records: Sequence[dict[str, Any]], gains: Sequence[dict[str, Any]], worth: Sequence[dict[str, Any]]) -> str:
    """Return the page as Markdown."""
    hits = hit_section(records) if records else f"{HEAD}\nNothing has been run yet.\n"
    return "\n".join([hits, *gain_section(gains), *worth_section(worth)])


def hit_section(records: Sequence[dict[str, Any]]) -> str:
    """Return the table of cells."""
    ordered = sorted(records, key=lambda each: (each["network"], each["runtime"], -target_of(each)))
    hits = [each for each in ordered if is_hit(each)]
    within = [each for each in ordered if high_end(each) >= LOWEST and low_end(each) <= HIGHEST]
    errors = [each["latency"]["model"]["median_error"] for each in ordered]
    machine = ordered[-1]["machine"]
    versions = ", ".join(f"{name} {value}" for name, value in ordered[-1]["versions"].items())
    said = (
        f"{len(hits)} of {len(ordered)} cells hit; in {len(within)} the interval reaches into the range. Intervals "
        "wider than 3 % are of a machine that other work shared: whether such a cell hits is not known. The models' "
        f"leave-one-out errors are {100 * median(errors):.1f} % in the median over cells.{miss_text(ordered)}\n\n"
        f"Measured on {machine['cpu_model']} ({', '.join(machine['isa'])}); {versions}."
    )
    return "\n".join([HEAD, said, "", COLUMNS, *map(line, ordered), ""])


def miss_text(records: Sequence[dict[str, Any]]) -> str:
    """Return how many of the misses were within the range by the measurement that chose them; nothing without any."""
    missed = [each for each in records if not is_hit(each)]
    met = [each for each in missed if each["latency"]["met"]]
    return f" Of {len(missed)} that miss {len(met)} met the target when they were chosen." if missed else ""


def gain_section(records: Sequence[dict[str, Any]]) -> list[str]:
    """Return the table of what fewer operations bring in time; nothing where nothing was measured."""
    return [GAIN_HEAD, *map(gain_line, sorted(records, key=lambda each: each["network"])), ""] if records else []


def gain_line(record: dict[str, Any]) -> str:
    """Return one row of it."""
    found, (before, after) = record["ratio"], record["macs"]
    faster = f"{1 / found['value']:.2f}x [{1 / found['high']:.2f}, {1 / found['low']:.2f}]"
    fewer = before / after
    aim = {"latency": "half of the time", "macs": "half of the operations"}[record["aim"]]
    return f"| {record['network']} | {aim} | {faster} | {fewer:.2f}x | {1 / found['value'] / fewer:.2f} |"


def worth_section(records: Sequence[dict[str, Any]]) -> list[str]:
    """Return the table of accuracies at the same latency; nothing where none was trained."""
    if not records:
        return []
    controls = list(dict.fromkeys(each["control"] for each in records))
    cells: dict[tuple[str, str], dict[str, list[dict[str, Any]]]] = {}
    for each in records:
        cells.setdefault((each["network"], each["target"]), {}).setdefault(each["control"], []).append(each)
    heads = ("network", "target", *controls, "chosen over the best control, by seed")
    lines = [WORTH_HEAD, f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    gains: list[float] = []
    for (network, target), found in cells.items():
        texts = [accuracy_text(found.get(control, [])) for control in controls]
        gained = over_controls(found)
        gains += gained[:1] and [mean(gained)]
        texts.append(", ".join(f"{each:+.2f}" for each in gained) or "-")
        lines.append(f"| {network} | {target} | {' | '.join(texts)} |")
    return [*lines, "", verdict(gains), ""] if gains else [*lines, ""]


def over_controls(found: Mapping[str, Sequence[dict[str, Any]]]) -> list[float]:
    """Return by seed what was chosen has over the control that is best in the mean over seeds, in points."""
    by_seed = {
        name: {each["seed"]: 100 * each["accuracy"] for each in records if is_comparable(each)}
        for name, records in found.items()
    }
    controls = [by_seed[name] for name in SAME_TIME if by_seed.get(name)]
    if not controls or not by_seed.get("chosen"):
        return []
    best = max(controls, key=lambda each: mean(each.values()))
    return [score - best[seed] for seed, score in by_seed["chosen"].items() if seed in best]


def is_comparable(record: dict[str, Any]) -> bool:
    """Say whether a file takes what was asked for, within 3 %."""
    return bool(abs(record["ratio"]["value"] / target_of(record) - 1) <= SAME)


def verdict(gains: Sequence[float]) -> str:
    """Return in how many cells the chosen network is at least as good as the best control, and the worst of them."""
    good = sum(each >= 0 for each in gains)
    return (
        f"In {good} of {len(gains)} cells what was chosen is at least as accurate as the best control; over cells the "
        f"mean gain is {mean(gains):+.2f} points (from {min(gains):+.2f} to {max(gains):+.2f})."
    )


def accuracy_text(records: Sequence[dict[str, Any]]) -> str:
    """Return mean accuracy over seeds with its range, the measured ratio, and how many seeds there are."""
    if not records:
        return "-"
    values = [100 * each["accuracy"] for each in records]
    ratios = [each["ratio"]["value"] for each in records]
    spread = f" ({min(values):.2f} to {max(values):.2f})" if len(values) > 1 else ""
    return f"{mean(values):.2f} %{spread}, {mean(ratios):.3f}x, {len(values)} seed{'s' if len(values) > 1 else ''}"


def target_of(record: dict[str, Any]) -> float:
    """Return the factor that was asked for."""
    return float(record["target"].removesuffix("x"))


def is_hit(record: dict[str, Any]) -> bool:
    """Say whether the measured ratio lies in the range."""
    return bool(LOWEST <= record["ratio"]["value"] / target_of(record) <= HIGHEST)


def low_end(record: dict[str, Any]) -> float:
    """Return the low end of the interval, as a share of the target."""
    return float(record["ratio"]["low"]) / target_of(record)


def high_end(record: dict[str, Any]) -> float:
    """Return the high end of the interval, as a share of the target."""
    return float(record["ratio"]["high"]) / target_of(record)


def line(record: dict[str, Any]) -> str:
    """Return one row of the table."""
    found, latency, (before, after) = record["ratio"], record["latency"], record["macs"]
    blocks = sum(move["kind"] == "block" for move in latency["moves"])
    model = latency["model"]
    trust = "" if model["trusted"] else " (not trusted)"
    share = found["value"] / target_of(record)
    cells = [
        *(record[key] for key in ("network", "runtime", "precision", "target")),
        f"{found['value']:.3f}x [{found['low']:.3f}, {found['high']:.3f}]",
        f"{share:.3f}{'' if is_hit(record) else ' (missed)'}",
        f"{100 * after / before:.0f} %",
        f"-{blocks}" if blocks else "all kept",
        f"{100 * model['median_error']:.1f} %, {100 * model['p90_error']:.1f} %{trust}",
        f"{model['seconds']:.0f} s, {model['probes']} probes",
        f"{record['seconds']:.0f} s",
    ]
    return f"| {' | '.join(cells)} |"
