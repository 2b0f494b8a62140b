"""benchmarks/quantization.md from the records of quantization.py."""

from __future__ import annotations

import json
from statistics import mean
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

NAMES = ("FP32", "ours", "onnxruntime default", "NNCF default", "Neural Compressor default")


def write_table(results: Path, page: Path) -> None:
    """Write the page."""
    auto, aware, arm = (_records(results / f"{part}.jsonl") for part in ("auto", "aware", "arm"))
    parts = [
        "# Quantization on real data",
        "",
        "Written by `quantization.py table` from `results/quantization/`; protocol and limits: [README.md](README.md).",
        "",
    ]
    if auto:
        machine, versions = auto[0]["machine"], auto[0]["versions"]
        parts += [
            f"{machine['cpu_model']} ({', '.join(machine['isa'])}), one thread, batch 1; {_versions(versions)}.",
            "",
        ]
    for network, runtime in dict.fromkeys((each["network"], each["runtime"]) for each in auto):
        mine = [each for each in auto if (each["network"], each["runtime"]) == (network, runtime)]
        parts += [f"## {network} in {runtime}", "", *_compared(mine), "", *_choices(mine), ""]
    if aware:
        parts += ["## Quantization-aware fine-tuning", "", *_aware(aware), ""]
    if arm:
        parts += ["## The same class on ARM", "", *_arm(arm), ""]
    page.write_text("\n".join(parts))


def _compared(records: Sequence[dict[str, Any]]) -> list[str]:
    """Return a row for each file: means over the seeds."""
    rows = [
        f"Means over seeds {', '.join(str(each['seed']) for each in records)}; ranges of the single runs in brackets.",
        "",
        "| file | accuracy, validation | points over FP32 | speed over FP32 | speed over ours | bytes |",
        "|---|---|---|---|---|---|",
    ]
    for name in NAMES:
        mine = [each for each in records if name in each["accuracy"]]
        if not mine:
            reasons = {each["failed"].get(name, "") for each in records}
            rows.append(f"| {name} | failed: {'; '.join(sorted(reasons))} | - | - | - | - |")
            continue
        lost = [100 * (each["accuracy"][name] - each["accuracy"]["FP32"]) for each in mine]
        cells = [
            f"{100 * mean(each['accuracy'][name] for each in mine):.2f} %",
            "-" if name == "FP32" else f"{mean(lost):+.2f} [{min(lost):+.2f}, {max(lost):+.2f}]",
            _speeds([each["speedup"].get(name) for each in mine]),
            _speeds([each["over ours"].get(name) for each in mine]),
            f"{mean(each['bytes'][name] for each in mine) / 1e3:,.0f} kB",
        ]
        rows.append(f"| {name} | {' | '.join(cells)} |")
    return rows


def _choices(records: Sequence[dict[str, Any]]) -> list[str]:
    found = []
    for each in records:
        plan = each["plan"]
        winner = plan["candidates"][plan["chosen"]]
        found.append(
            f"- seed {each['seed']}: {winner['label']} ({winner['reason']}), of {len(plan['candidates'])} candidates "
            f"in {plan['seconds']:.0f} s"
        )
    return ["Chosen:", "", *found]


def _speeds(intervals: Sequence[dict[str, float] | None]) -> str:
    found = [each for each in intervals if each]
    if not found:
        return "-"
    low, high = min(each["low"] for each in found), max(each["high"] for each in found)
    return f"{mean(each['value'] for each in found):.2f}x [{low:.2f}, {high:.2f}]"


def _aware(records: Sequence[dict[str, Any]]) -> list[str]:
    rows = [
        "| network | seeds | FP32 | int8 | points | simulation and file, dB |",
        "|---|---|---|---|---|---|",
    ]
    for network in dict.fromkeys(each["network"] for each in records):
        mine = [each for each in records if each["network"] == network]
        before, after = ([100 * each[side]["accuracy"] for each in mine] for side in ("before", "after"))
        points = [b - a for a, b in zip(before, after, strict=True)]
        noise = [each["changed"]["simulation"]["decibels"] for each in mine]
        rows.append(
            f"| {network} | {', '.join(str(each['seed']) for each in mine)} | "
            f"{mean(before):.2f} % | {mean(after):.2f} % | "
            f"{mean(points):+.2f} [{min(points):+.2f}, {max(points):+.2f}] | "
            f"{', '.join('equal' if each is None else f'{each:.0f}' for each in noise)} |"
        )
    return rows


def _arm(records: Sequence[dict[str, Any]]) -> list[str]:
    rows = ["| network | seed | scheme | processor | images | same class | same bits | largest difference |"]
    rows += ["|---|---|---|---|---|---|---|---|"]
    for each in records:
        if "skipped" in each:
            continue
        for processor, found in each["agreement"].items():
            rows.append(
                f"| {each['network']} | {each['seed']} | {each['scheme']} | {processor} | {found['images']} | "
                f"{found['same_argmax']} | {found['same_bits']} | {found['largest']:.1e} |"
            )
    return rows


def _versions(versions: dict[str, str]) -> str:
    return ", ".join(f"{name} {versions[name]}" for name in ("onnxruntime", "openvino", "torch") if name in versions)


def _records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
