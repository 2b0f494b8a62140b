"""Runs jobs of `tasks/` as a person does, verifies their bundles, and writes `tasks.md` from what is kept of each.

    benchmarks/tasks.py run detection segmentation
    benchmarks/tasks.py table

A job is a recipe `tasks/NAME.yaml`; what is kept of its run and of the verification of its bundle is
`results/tasks/NAME.json`. Jobs that were not run are not in the table.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bundle import verify

from recipes import ROOT, put_between_marks, run, speedup, where

if TYPE_CHECKING:
    from collections.abc import Sequence

PAGE, JOBS, RESULTS = (ROOT / "benchmarks" / name for name in ("tasks.md", "tasks", "results/tasks"))
RUNTIMES = {"onnxruntime": "onnx", "openvino": "openvino"}
#: Of a run and of its rows, what the table is made of and what tells the run apart.
KEPT = ("name", "recipe_digest", "data", "task", "target", "seed", "versions", "machine", "started", "seconds", "final")
KEPT_OF_ROWS = ("index", "label", "kind", "form", "validation", "macs", "parameters", "size_bytes", "timings")
#: What a stage found that may leave the float file as it is: a gain in time, or the fastest precision.
DECISIONS = ("gain", "plan")
#: Where a run keeps what its first stage trained.
TRAINED = "stages/01-finetune/weights.safetensors"
#: Ratios of two speedups nearer to 1 than this are no difference.
NO_DIFFERENCE = 0.05
HEAD = """\
| job | data | metric | original FP32, test | compressed, test | difference [95 %] | speedup, onnxruntime | \
speedup, openvino | bytes | bundle | remarks |
|---|---|---|---|---|---|---|---|---|---|---|"""


def kept_of(report: dict[str, Any], verification: dict[str, Any] | None) -> dict[str, Any]:
    """Return what is kept of a run and of the verification of its bundle, if the recipe makes one."""
    rows = [
        {key: row[key] for key in KEPT_OF_ROWS if key in row}
        | {key: row["changed"][key] for key in DECISIONS if key in row.get("changed", {})}
        for row in report["rows"]
    ]
    verified = verification and {key: verification[key] for key in ("verified", "runtime", "max_abs", "error")}
    return {**{key: report[key] for key in KEPT}, "rows": rows, "bundle": verified}


def amount(value: float, metric: dict[str, Any], sign: str = "") -> str:
    """Write a score or a difference of scores: shares in per cent, others in their unit."""
    if metric["unit"]:
        return f"{value:{sign}.3f}" + ("" if sign else f" {metric['unit']}")
    return f"{100 * value:{sign}.2f}" + ("" if sign else " %")


def last(report: dict[str, Any], form: str) -> dict[str, Any]:
    """Return the row of the last file of a form, or the original's where there is none."""
    return next((row for row in reversed(report["rows"]) if row["form"] == form), report["rows"][0])


def ratio(row: dict[str, Any], runtime: str) -> float | None:
    """Return the speedup of a row's file over the original's in a runtime."""
    found = (timing["speedup"] for timing in row["timings"] if timing["runtime"] == runtime and timing["speedup"])
    return next((each["value"] for each in found), None)


def remarks(report: dict[str, Any]) -> str:
    """Say what the float file before quantization does, and whether int8 is faster than it here."""
    metric, said = report["task"]["metrics"][0], list[str]()
    rows = [row for row in report["rows"] if row["form"] == "onnx" and row["kind"] in {"export", "quantize"}]
    score = amount(rows[0]["validation"][metric["name"]], metric)
    operations = f"{rows[0]['macs'] / report['rows'][0]['macs']:.0%} of the operations" if rows[0]["macs"] else ""
    alone = ratio(rows[0], "onnxruntime")
    facts = [operations, f"{alone:.2f}x" if alone else "", f"{score} on validation"]
    said.append("float file before int8: " + ", ".join(filter(None, facts)))
    if len(rows) > 1 and (why := float_kept(rows[-1])):
        said.append(why)
    elif len(rows) > 1:
        said.append(f"int8: {amount(rows[-1]['validation'][metric['name']], metric)} on validation")
        compressed = ratio(rows[-1], "onnxruntime")
        if compressed:
            said.append(of_int8(compressed / (alone or 1.0)))
    for each in report["task"]["metrics"][1:2]:
        ends = " → ".join(amount(report["final"][side][each["name"]], each) for side in ("original", "result"))
        said.append(f"{each['name']} on test {ends}")
    return "; ".join(said)


def float_kept(row: dict[str, Any]) -> str:
    """Say why a stage left the float file where it was, if it did: no gain in time, or the search for a precision."""
    gain, plan = row.get("gain"), row.get("plan")
    if gain and gain["decision"] == "skipped":
        return f"**the FP32 file ships**, for int8 gains no time: {gain['text']}"
    if not plan or plan["candidates"][plan["chosen"]]["precision"] != "fp32":
        return ""
    timed = [each for each in plan["candidates"] if each.get("speedup") and each["precision"] != "fp32"]
    tried = "; ".join(f"{each['label']} {each['speedup']['value']:.2f}x: {each['reason']}" for each in timed)
    return f"**the FP32 file ships**, for no other is faster and right: {tried}"


def of_bundle(checked: dict[str, Any] | None) -> str:
    """Say whether the bundle was verified."""
    if not checked:
        return "none"
    return f"verified, {checked['runtime']}" if checked["verified"] else f"refused: {checked['error']}"


def of_int8(much: float) -> str:
    """Say in words how much faster the int8 file is than the float file before it."""
    if abs(much - 1) < NO_DIFFERENCE:
        return "**int8 is no faster than float here**"
    return f"int8 alone {much:.2f}x" if much > 1 else f"**int8 is slower than float here: {much:.2f}x**"


def data_of(name: str, data: dict[str, Any]) -> str:
    """Say what data a job has, and that it is synthetic where the recipe's comment says so."""
    notes = [each for each in data.get("notes", []) if not each.startswith("files that")]  # what plan cannot see
    words = "; ".join([data["name"], *notes])
    synthetic = "synthetic" in (JOBS / f"{name}.yaml").read_text() and "synthetic" not in words
    return words + ("; synthetic" if synthetic else "")


def line(name: str, report: dict[str, Any]) -> str:
    """Write the line of one job."""
    metric, final = report["task"]["metrics"][0], report["final"]
    change = final["difference"]
    bounds = ", ".join(amount(change[each], metric, "+") for each in ("low", "high"))
    compressed = last(report, RUNTIMES[report["target"]["runtime"]])
    counts = ", ".join(f"{report['data'][split]:,}" for split in ("train", "validation", "test"))
    cells = [
        f"[{name}](tasks/{name}.yaml)",
        "; ".join([data_of(name, report["data"]), counts]),
        metric["name"] + ("" if metric["higher_is_better"] else " (lower is better)"),
        *(amount(final[side][metric["name"]], metric) for side in ("original", "result")),
        f"{amount(change['value'], metric, '+')} [{bounds}] {metric['unit'] or 'points'}",
        *(speedup(last(report, form), runtime) for runtime, form in RUNTIMES.items()),
        " → ".join(f"{row['size_bytes']:,}" for row in (report["rows"][0], compressed)),
        of_bundle(report["bundle"]),
        remarks(report),
    ]
    return f"| {' | '.join(cells)} |"


def table() -> str:
    """Return the lines of all jobs that were run, and on what."""
    found = {path.stem: json.loads(path.read_text()) for path in sorted(RESULTS.glob("*.json"))}
    lines = [line(name, report) for name, report in found.items()]
    machines = dict.fromkeys(where(report) for report in found.values())
    return "\n\n".join([*machines, "\n".join([HEAD, *lines])])


def trained_first(name: str, runs: Path, options: Sequence[str]) -> tuple[str, ...]:
    """Train what a job starts from, where `train-NAME.yaml` does and its recipe names no weights; say what to set."""
    first, job = (JOBS / f"{prefix}{name}.yaml" for prefix in ("train-", ""))
    if not first.exists() or "weights:" in job.read_text():
        return ()
    run(first, runs / first.stem, (*options, "--no-test"))
    return ("--set", f"model.weights={(runs / first.stem).resolve() / TRAINED}")


def run_jobs(names: Sequence[str], runs: Path, options: Sequence[str]) -> None:
    """Run jobs (finished stages come from the store), verify their bundles, and keep what was found."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    for name in names:
        given = (*options, *trained_first(name, runs, options))
        report = run(JOBS / f"{name}.yaml", runs / name, given)
        verification = verify(runs / name / report["bundle"]["archive"])[0] if report.get("bundle") else None
        kept = kept_of(report, verification)
        (RESULTS / f"{name}.json").write_text(json.dumps(kept, indent=1) + "\n")


def main() -> None:
    """Run what is named, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    running = commands.add_parser("run", help="run jobs, then write the table")
    running.add_argument("names", nargs="+", choices=sorted(path.stem for path in JOBS.glob("*.yaml")), metavar="JOB")
    running.add_argument("--runs", type=Path, default=ROOT / "runs", help="folder for the runs")
    running.add_argument("--seed", default="0")
    commands.add_parser("table", help="write the table from what is kept")
    given = parser.parse_args()
    if given.command == "run":
        run_jobs(given.names, given.runs, ("--seed", given.seed))
    put_between_marks(PAGE, table())


if __name__ == "__main__":
    main()
