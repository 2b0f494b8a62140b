"""Runs the int8 recipes and writes what they bring: a JSON file for this machine and the table of recipes/README.md."""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

ROOT = Path(__file__).parents[1]
NAMES = ("resnet18-elpv-int8", "efficientnet-lite0-elpv-int8", "resnet20-fashion-int8")
MARKS = ("<!-- measured results: begin -->", "<!-- measured results: end -->")
HEAD = """\
| recipe | validation, original | validation, result | test, original | test, result | difference on test, points | \
speedup, onnxruntime | speedup, openvino | bytes |
|---|---|---|---|---|---|---|---|---|"""


def run(recipe: Path, folder: Path, options: Sequence[str] = ()) -> dict[str, Any]:
    """Run one recipe (finished stages come from the store) and return its run.json."""
    command = [sys.executable, "-m", "pipeline", "run", str(recipe), "--out", str(folder), *options]
    subprocess.run(command, check=True, cwd=ROOT)  # noqa: S603 (our own command)
    found: dict[str, Any] = json.loads((folder / "run.json").read_text())
    del found["recipe_folder"]  # a path of this machine
    return found


def speedup(row: dict[str, Any], runtime: str) -> str:
    """Write the paired speedup of a row's file in a runtime with its interval."""
    for timing in row["timings"]:
        if timing["runtime"] == runtime and timing["speedup"]:
            found = timing["speedup"]
            return f"{found['value']:.2f}x [{found['low']:.2f}, {found['high']:.2f}]"
    return "not measured"


def line(name: str, report: dict[str, Any]) -> str:
    """Write the line of one recipe."""
    rows = {row["label"]: row for row in report["rows"]}
    original, result, ir = rows["original"], rows["quantize"], rows["export openvino"]
    final = report["final"]
    change = final["difference"]
    cells = [
        f"[{name}]({name}.yaml)",
        *(f"{100 * row['validation']['accuracy']:.2f} %" for row in (original, result)),
        *(f"{100 * final[side]['accuracy']:.2f} %" for side in ("original", "result")),
        f"{100 * change['value']:+.2f} [{100 * change['low']:+.2f}, {100 * change['high']:+.2f}]",
        speedup(result, "onnxruntime"),
        speedup(ir, "openvino"),
        f"{original['size_bytes'] / 1e6:.2f} → {result['size_bytes'] / 1e6:.2f} MB",
    ]
    return f"| {' | '.join(cells)} |"


def where(report: dict[str, Any]) -> str:
    """Say what a run was measured on."""
    machine, target = report["machine"], report["target"]
    versions = ", ".join(f"{name} {report['versions'][name]}" for name in ("torch", "onnxruntime", "openvino"))
    isa = ", ".join(machine["isa"])
    how = f"{target['threads']} thread, batch {target['batch']}"
    return f"Measured on {machine['cpu_model']} ({isa}), {how}; {versions}."


def put_between_marks(page: Path, text: str) -> None:
    """Replace what stands between the marks of a page, and print it."""
    before, _, rest = page.read_text().partition(MARKS[0])
    after = rest.partition(MARKS[1])[2]
    page.write_text(f"{before}{MARKS[0]}\n{text}\n{MARKS[1]}{after}")
    print(text)


def main() -> None:
    """Run what is asked for, write the JSON, and put the table into recipes/README.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=NAMES, help="recipes; all three int8 recipes by default")
    reports = {name: run(ROOT / "recipes" / f"{name}.yaml", ROOT / "runs" / name) for name in parser.parse_args().names}
    first = next(iter(reports.values()))
    isa = ", ".join(first["machine"]["isa"])
    machine = "-".join(re.findall(r"[a-z0-9]+", f"{first['machine']['cpu_model']} {isa}".lower()))
    folder = ROOT / "benchmarks" / "baselines" / machine
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "recipes.json").write_text(json.dumps(reports, indent=1) + "\n")
    table = "\n".join([HEAD, *(line(name, report) for name, report in reports.items())])
    put_between_marks(ROOT / "recipes" / "README.md", f"{where(first)}\n\n{table}")


if __name__ == "__main__":
    main()
