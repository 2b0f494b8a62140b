"""How often is the verdict right on a busy machine? Known pairs, compared again and again with a hog on every core.

    harness.py calibrate   long paired measurements on the quiet machine: how much slower is each network really?
    harness.py run         comparisons in random order, one line of JSON each; goes on where it was stopped
    harness.py table       benchmarks/harness.md from what has been run

Every paired comparison is followed by what users do without it, in the same wall time: one process for the baseline,
then one for the candidate, compared by the median (benchmark_app, onnxruntime_perf_test -s) or the mean (hyperfine).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from statistics import mean, median
from typing import TYPE_CHECKING, Any

from harness_models import write_network
from harness_table import write_table

from pipeline.latency.compare import ComparisonRequest, compare_files
from pipeline.measure.connection import connect
from pipeline.measure.devices.local import LocalDevice
from pipeline.measure.harness import measure_subjects
from pipeline.measure.model_files import model_files
from pipeline.measure.statistics import log_ratio, round_statistics
from pipeline.measure.subjects import MeasureTerms, Subject
from pipeline.results.measurement import SamplingPlan

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pipeline.core.stage import Runtime

ROOT = Path(__file__).parent
RESULTS = ROOT / "results" / "harness"
#: Channels and further operators of the side branch that make the network slower by about 5 % and 10 %, by runtime.
SLOWER: dict[Runtime, dict[str, tuple[int, int]]] = {
    "onnxruntime": {"A/A": (0, 0), "+5 %": (24, 4), "+10 %": (56, 0)},
    "openvino": {"A/A": (0, 0), "+5 %": (32, 0), "+10 %": (80, 0)},
}
MARGINS: dict[Runtime, float] = {"onnxruntime": 0.03, "openvino": 0.05}
#: A slowdown at the margin has no right verdict but INCONCLUSIVE, which takes the whole budget: fewer will do.
AT_THE_MARGIN, FEW_RUNS = ("openvino", "+5 %"), 30
BUDGET_S = 10.0
CALIBRATION_S = 30.0
HOG = "while True: pass"


def main() -> None:
    """Run one of the parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["calibrate", "run", "table"])
    parser.add_argument("--runs", type=int, default=100, help="comparisons of each kind")
    parser.add_argument("--minutes", type=float, default=60, help="stop after this long; run again to go on")
    parser.add_argument("--runtime", choices=sorted(MARGINS), help="only this one")
    parser.add_argument("--no-priority", action="store_true", help="as a user who may not raise priorities")
    chosen = parser.parse_args()
    RESULTS.mkdir(parents=True, exist_ok=True)
    if chosen.part == "table":
        write_table(RESULTS, ROOT / "harness.md", {"budget_s": BUDGET_S, "margins": MARGINS})
        return
    runtimes = [chosen.runtime] if chosen.runtime else list(MARGINS)
    with tempfile.TemporaryDirectory() as folder:
        if chosen.part == "calibrate":
            calibrate(Path(folder), runtimes)
        else:
            run(Path(folder), runtimes, chosen.runs, chosen.minutes * 60, priority=not chosen.no_priority)


def calibrate(folder: Path, runtimes: list[Runtime]) -> None:
    """Measure each slower network against the baseline for long, without other load, and keep the ratios."""
    for runtime in runtimes:
        for kind in SLOWER[runtime]:
            base, candidate = networks(folder, runtime, kind)
            subjects = [Subject(path.name, runtime, path, path.name) for path in (base, candidate)]
            found = measure_subjects(
                subjects,
                MeasureTerms(threads=1, batch=1),
                SamplingPlan(budget_s=CALIBRATION_S),
                seed=0,
                stop=lambda _: None,
            )
            record: dict[str, Any] = {"runtime": runtime, "kind": kind, "load": os.getloadavg()[0]}
            record["isa"] = found.subjects[0].fingerprint["isa"]
            for clock in ("wall", "cpu"):
                pair = (round_statistics(found.subjects[each], clock) for each in (1, 0))
                ratio = log_ratio(*pair, plan=found.plan, seed=0)
                record[clock] = {"log_ratio": ratio.centre, "error": ratio.error}
            append("calibration.jsonl", record)


def run(folder: Path, runtimes: list[Runtime], runs: int, limit_s: float, *, priority: bool) -> None:
    """Compare until every kind has `runs` comparisons or the time is over."""
    name = "paired.jsonl" if priority else "paired-no-priority.jsonl"
    begun = time.monotonic()
    done = [json.loads(line) for line in lines(name)]
    with hogs():
        while time.monotonic() - begun < limit_s:
            counts = {
                (runtime, kind): sum(each["runtime"] == runtime and each["kind"] == kind for each in done)
                for runtime in runtimes
                for kind in SLOWER[runtime]
            }
            wanted = {key: min(runs, FEW_RUNS) if key == AT_THE_MARGIN else runs for key in counts}
            left = [key for key, count in counts.items() if count < wanted[key]]
            if not left:
                return
            least = min(counts[key] / wanted[key] for key in left)
            behind = [key for key in left if counts[key] / wanted[key] == least]
            runtime, kind = random.choice(behind)  # noqa: S311 - an order
            record = paired(folder, runtime, kind, seed=len(done), priority=priority)
            done.append(record)
            append(name, record)
            if priority:
                append("sequential.jsonl", sequential(folder, runtime, kind, record["elapsed_s"]))


def paired(folder: Path, runtime: Runtime, kind: str, *, seed: int, priority: bool) -> dict[str, Any]:
    """Compare once as `secateur compare` does."""
    base, candidate = networks(folder, runtime, kind)
    question = ComparisonRequest(
        margin=MARGINS[runtime],
        budget_s=BUDGET_S,
        runtime=runtime,
        terms=MeasureTerms(threads=1, batch=1, priority=priority),
        seed=seed,
    )
    begun = time.monotonic()
    found, _ = compare_files(base, candidate, question)
    return {
        "runtime": runtime,
        "kind": kind,
        "verdict": found.verdict,
        "reasons": [each.code for each in found.reasons],
        "metric": found.metric,
        "ratio": found.ratio.model_dump() if found.ratio else None,
        "wall": found.wall.value if found.wall else None,
        "cpu": found.cpu.value if found.cpu else None,
        "error": found.noise.standard_error,
        "preempted": found.noise.preempted_share,
        "sessions": found.protocol.sessions,
        "seconds": found.protocol.seconds,
        "elapsed_s": time.monotonic() - begun,
        "load": os.getloadavg()[0],
        "in_force": found.protocol.in_force,
        "versions": [found.baseline.runtime_version, found.tool_version],
        "cpu_model": found.baseline.fingerprint["cpu_model"],
        "isa": found.baseline.fingerprint["isa"],
    }


def sequential(folder: Path, runtime: Runtime, kind: str, wall_s: float) -> dict[str, Any]:
    """Time the baseline in one process, then the candidate in another, for half of the wall time each."""
    record: dict[str, Any] = {"runtime": runtime, "kind": kind, "elapsed_s": wall_s}
    for side, path in zip("ab", networks(folder, runtime, kind), strict=True):
        times = alone(path, runtime, wall_s / 2)
        record[side] = {"inferences": len(times), "median": median(times), "mean": mean(times), "min": min(times)}
    return record


def alone(path: Path, runtime: Runtime, wall_s: float) -> list[int]:
    """Return the wall ns of all inferences that a new process manages in this time, its start included."""
    end = time.monotonic() + wall_s
    connection, _ = connect(LocalDevice())
    file = {"path": str(path), "sha256": model_files(path, runtime).sha256, "runtime": runtime}
    times: list[int] = []
    with connection:
        connection.request("create", subject=0, file={**file, "threads": 1, "batch": 1, "shapes": {}}, seed=0)
        while not times or time.monotonic() < end:
            times += connection.request("block", subject=0, inferences=50)["wall_ns"]
    return times


def networks(folder: Path, runtime: Runtime, kind: str) -> tuple[Path, Path]:
    """Return baseline and candidate, writing them when they are not there."""
    base = folder / "base.onnx"
    extra, steps = SLOWER[runtime][kind]
    candidate = folder / f"candidate-{extra}-{steps}.onnx"
    if not base.is_file():
        write_network(base)
    if not candidate.is_file():
        write_network(candidate, extra, steps)
    return base, candidate


@contextmanager
def hogs() -> Iterator[None]:
    """Keep every core busy for the block."""
    running = [
        subprocess.Popen([sys.executable, "-c", HOG], start_new_session=True)  # noqa: S603 - our own loop
        for _ in range(os.cpu_count() or 1)
    ]
    try:
        yield
    finally:
        for each in running:
            each.kill()
            each.wait()


def lines(name: str) -> list[str]:
    """Return the lines of a results file; none where it is not there yet."""
    path = RESULTS / name
    return path.read_text().splitlines() if path.is_file() else []


def append(name: str, record: dict[str, Any]) -> None:
    """Add a line to a results file, and show it."""
    with (RESULTS / name).open("a") as stream:
        stream.write(json.dumps(record) + "\n")
    print(json.dumps({key: record[key] for key in list(record)[:6]}), flush=True)


if __name__ == "__main__":
    main()
