"""benchmarks/harness.md from the records of harness.py: how often each way of comparing is right."""

from __future__ import annotations

import json
import math
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

KINDS = ("A/A", "+5 %", "+10 %")
Z95 = 1.959963984540054


def write_table(results: Path, page: Path, settings: Mapping[str, Any]) -> None:
    """Write the page."""
    calibration, paired, plain, sequential = (
        _records(results / name)
        for name in ("calibration.jsonl", "paired.jsonl", "paired-no-priority.jsonl", "sequential.jsonl")
    )
    parts = [
        "# How often the verdict is right",
        "",
        "Written by `harness.py table` from `results/harness/`; the protocol is in [README.md](README.md).",
        "",
        *_machines(paired),
        "",
        "## The pairs",
        "",
        *_calibration(calibration),
    ]
    for runtime in dict.fromkeys(each["runtime"] for each in paired):
        margin = settings["margins"][runtime]
        parts += ["", f"## {runtime}, margin {margin:.0%}, a hog on every core", ""]
        mine = [each for each in paired if each["runtime"] == runtime]
        parts += _verdicts(mine)
        parts += _without_priority([each for each in plain if each["runtime"] == runtime])
        parts += ["", "One after the other in the same wall time, and the estimate of the paired comparison:", ""]
        parts += _designs(mine, [each for each in sequential if each["runtime"] == runtime], margin)
    parts += _acceptance(results / "acceptance.json")
    page.write_text("\n".join(parts) + "\n")


def _acceptance(path: Path) -> list[str]:
    """Return the single cases, each with its state and what was found."""
    if not path.is_file():
        return []
    rows = [f"| {e['what']} | {e['state']} | {_cell(e['found'])} |" for e in json.loads(path.read_text())]
    return ["", "## Single cases (`harness_acceptance.py`)", "", "| what | state | found |", "|---|---|---|", *rows]


def _cell(text: str) -> str:
    """Return a text for a table, with the folders of the run left out."""
    return re.sub(r"/\S*/", "", text).replace("|", "\\|")


def _records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def _machines(paired: Sequence[Mapping[str, Any]]) -> list[str]:
    """Say where the comparisons ran; they were begun on one machine and ended on another."""
    by_isa: dict[str, list[Mapping[str, Any]]] = {}
    for each in paired:
        by_isa.setdefault(_isa(each), []).append(each)
    return [
        f"- {len(mine)} comparisons: {mine[0]['cpu_model']} ({isa}), two cores, virtual; one thread, batch 1; load "
        f"average {min(e['load'] for e in mine):.1f} to {max(e['load'] for e in mine):.1f}, since other programs ran "
        f"besides the hogs; in force: {mine[0]['in_force']}."
        for isa, mine in by_isa.items()
    ]


def _isa(record: Mapping[str, Any]) -> str:
    return ", ".join(record["isa"])


def _calibration(records: Sequence[Mapping[str, Any]]) -> list[str]:
    rows = ["| CPU | runtime | pair | true slowdown, CPU | wall |", "|---|---|---|---|---|"]
    for each in records:
        cells = [
            f"{math.exp(each[clock]['log_ratio']) - 1:+.2%} +- {each[clock]['error']:.2%}" for clock in ("cpu", "wall")
        ]
        rows.append(f"| {_isa(each)} | {each['runtime']} | {each['kind']} | {cells[0]} | {cells[1]} |")
    return rows


def _verdicts(records: Sequence[Mapping[str, Any]]) -> list[str]:
    rows = [
        "| pair | comparisons | FAIL | PASS | INCONCLUSIVE | seconds, mean / 95 % | standard error, median |",
        "|---|---|---|---|---|---|---|",
    ]
    for kind in KINDS:
        mine = [each for each in records if each["kind"] == kind]
        if not mine:
            continue
        counts = [sum(each["verdict"] == verdict for each in mine) for verdict in ("FAIL", "PASS", "INCONCLUSIVE")]
        seconds = sorted(each["seconds"] for each in mine)
        errors = sorted(each["error"] for each in mine if each["error"])
        shares = " | ".join(_share(count, len(mine)) for count in counts)
        rows.append(
            f"| {kind} | {len(mine)} | {shares} | {sum(seconds) / len(seconds):.1f} / {_quantile(seconds, 0.95):.1f} | "
            f"{_quantile(errors, 0.5):.2%} |"
        )
    return rows


def _without_priority(records: Sequence[Mapping[str, Any]]) -> list[str]:
    if not records:
        return []
    return ["", "The same for a user who may not raise priorities:", "", *_verdicts(records)]


def _designs(paired: Sequence[Mapping[str, Any]], sequential: Sequence[Mapping[str, Any]], margin: float) -> list[str]:
    """Say how often the point estimate alone lies beyond the margin, and how far it is off in A/A."""
    ways: dict[str, tuple[Sequence[Mapping[str, Any]], Callable[[Mapping[str, Any]], float]]] = {
        "paired estimate": (paired, lambda each: each["ratio"]["value"]),
        "sequential, median (benchmark_app)": (sequential, lambda each: each["b"]["median"] / each["a"]["median"]),
        "sequential, mean (hyperfine)": (sequential, lambda each: each["b"]["mean"] / each["a"]["mean"]),
    }
    rows = [
        f"| estimate says slower by more than {margin:.0%} | A/A | +5 % | +10 % | 95 % of the A/A errors below |",
        "|---|---|---|---|---|",
    ]
    for name, (records, ratio) in ways.items():
        found = {kind: [ratio(each) for each in records if each["kind"] == kind] for kind in KINDS}
        cells = [_share(sum(each > 1 + margin for each in found[kind]), len(found[kind])) for kind in KINDS]
        errors = sorted(abs(each - 1) for each in found["A/A"])
        rows.append(f"| {name} | {' | '.join(cells)} | {_quantile(errors, 0.95):.1%} |")
    return rows


def _share(count: int, total: int) -> str:
    """Return a count with its share and the Wilson interval at 95 %."""
    if not total:
        return "-"
    share = count / total
    middle = (share + Z95**2 / (2 * total)) / (1 + Z95**2 / total)
    reach = Z95 * math.sqrt(share * (1 - share) / total + Z95**2 / (4 * total**2)) / (1 + Z95**2 / total)
    return f"{count} ({share:.0%}; {max(middle - reach, 0):.0%} to {min(middle + reach, 1):.0%})"


def _quantile(ordered: Sequence[float], share: float) -> float:
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)] if ordered else math.nan
