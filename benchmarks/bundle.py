"""Weighs the bundles of finished runs, times their verification here, and asks processors what they compute.

    benchmarks/bundle.py runs/demo runs/other ...

Writes results/bundle/bundles.json and the table of bundle.md.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from recipes import ROOT, put_between_marks

PAGE, RESULTS = ROOT / "benchmarks" / "bundle.md", ROOT / "benchmarks" / "results" / "bundle" / "bundles.json"
PROCESSORS = ("local", "qemu://cortex-a72", "qemu://cortex-a76")
REPEATS = 5
HEAD = """\
| bundle | runtime | folder | archive | verify here, of 5 [least, most] | this processor | Cortex-A72 | Cortex-A76 |
|---|---|---|---|---|---|---|---|"""


def verify(bundle: Path, *options: str) -> tuple[dict[str, Any], float]:
    """Start `secateur verify --json`; return what it says and the seconds that it took."""
    command = [sys.executable, "-m", "pipeline", "verify", str(bundle), "--json", *options]
    begun = time.perf_counter()
    done = subprocess.run(command, check=False, capture_output=True, text=True)  # noqa: S603 (our own command)
    found: dict[str, Any] = json.loads(done.stdout)
    return found, time.perf_counter() - begun


def measured(run: Path) -> dict[str, Any]:
    """Return what is known of a run's bundle."""
    manifest = json.loads((run / "bundle" / "manifest.json").read_text())
    archive = run / "bundle.tar.gz"
    found: dict[str, Any] = {
        "name": manifest["name"],
        "recipe": manifest["recipe"],
        "versions": manifest["versions"],
        "folder_bytes": sum(path.stat().st_size for path in (run / "bundle").rglob("*") if path.is_file()),
        "archive_bytes": archive.stat().st_size,
        "runtimes": {},
    }
    for runtime in sorted(manifest["main"]):
        print(f"{manifest['name']}: {runtime}", file=sys.stderr)
        option = ("--runtime", runtime)
        seconds = [verify(archive, *option)[1] for _ in range(REPEATS)]
        answers = {device: verify(archive, *option, "--device", device)[0] for device in PROCESSORS}
        found["runtimes"][runtime] = {"seconds": seconds, "answers": answers}
    return found


def outcome(answer: dict[str, Any]) -> str:
    """Say what a processor computed."""
    if not answer["outputs"]:
        return f"not loaded: {answer['error'].rstrip(')').rpartition(': ')[2]}"
    rows = answer["samples"].values()
    outputs, same = sum(row["outputs"] for row in rows), sum(row["same_bits"] for row in rows)
    if same == outputs:
        return f"verified, all {outputs} outputs bit by bit"
    verdict = "verified" if answer["verified"] else "refused"
    return f"{verdict}, {same} of {outputs} bit by bit; {answer['max_abs']:.1e}, allowed {answer['allowed']:.1e}"


def line(found: dict[str, Any], runtime: str) -> str:
    """Write a line of the table."""
    told = found["runtimes"][runtime]
    seconds = sorted(told["seconds"])
    cells = [
        found["name"],
        runtime,
        *(f"{found[key] / 1e6:.2f} MB" for key in ("folder_bytes", "archive_bytes")),
        f"{statistics.median(seconds):.1f} s [{seconds[0]:.1f}, {seconds[-1]:.1f}]",
        *(outcome(told["answers"][device]) for device in PROCESSORS),
    ]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Measure the runs that are named and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, help="folders of finished runs that have a bundle")
    results = [measured(run) for run in parser.parse_args().runs]
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n")
    here = results[0]["runtimes"]["onnxruntime"]["answers"]["local"]["machine"]
    versions = ", ".join(f"{name} {results[0]['versions'][name]}" for name in ("onnxruntime", "openvino"))
    where = f"Taken on {here['cpu_model']}; {versions}."
    lines = [line(found, runtime) for found in results for runtime in found["runtimes"]]
    table = "\n".join([HEAD, *lines])
    put_between_marks(PAGE, f"{where}\n\n{table}")


if __name__ == "__main__":
    main()
