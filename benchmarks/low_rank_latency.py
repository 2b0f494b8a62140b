"""Fewer ranks or fewer channels? Networks brought to the same measured latency in both ways, with the same retraining.

    .venv/bin/python benchmarks/low_rank_latency.py run [--only resnet18] [--targets 0.7x] [--seeds 0 1 2]
    .venv/bin/python benchmarks/low_rank_latency.py table

A cell is one recipe: `factorize` or `prune` (channels alone, or uniform widths as a control) to a share of the time of
the network's own file, retraining, export, and int8 where the cell's precision is that. What is compared is the
accuracy of the file that ships on validation images, test images are not looked at; its time is measured once more,
interleaved with the whole network's. Data and retraining are those of latency_target.py; a network that comes without
weights is trained first. One line of JSON for each cell is appended to results/low_rank_latency.jsonl as soon as it is
there; cells that are there are left out, so that it goes on where it was stopped.

`table` writes low_rank_latency.md.
"""

from __future__ import annotations

import argparse
import json
import time
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latency_target import FASHION, FEWER, NETWORKS, RETRAINING, ROOT, SEARCH, ratio, recipe, run, shipped_file, stored
from low_rank_latency_table import page

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

RESULTS = ROOT / "benchmarks" / "results" / "low_rank_latency.jsonl"
PAGE = ROOT / "benchmarks" / "low_rank_latency.md"
#: What stands before the retraining, but for the latency.
WAYS: dict[str, dict[str, Any]] = {
    "ranks": {"kind": "factorize"},
    "channels": {"kind": "prune", "moves": ["channels"], **SEARCH},
    "uniform channels": {"kind": "prune", "allocation": "uniform", **SEARCH},
}
#: The first training of a network that comes without weights.
FIRST = {"epochs": 8, "batch": 128, "learning_rate": 1.0e-3, "warmup": 1, "weight_decay": 0.05}


def base_recipe(name: str, precision: str, stages: Sequence[dict[str, Any]], work: Path) -> dict[str, Any]:
    """Return a recipe of a network with its weights."""
    data = NETWORKS[name][2]
    cell = recipe(name, "onnxruntime", stages, precision) | ({"data": FEWER} if data == FASHION else {})
    if "weights" in cell["model"]:
        return cell
    folder = work / f"{name}-trained"
    if not (folder / "run" / "run.json").exists():
        first = recipe(name, "onnxruntime", [{"kind": "finetune", **FIRST}], "fp32") | {"data": FEWER}
        run(first, folder)
    weights = next((folder / "run" / "stages").glob("01-*")) / "weights.safetensors"
    return cell | {"model": cell["model"] | {"weights": str(weights.resolve())}}


def cells(given: argparse.Namespace, work: Path) -> Iterator[dict[str, Any]]:
    """Yield the record of every cell that has none yet."""
    done = {cell_of(each) for each in stored(RESULTS)}
    for seed, name, target, way in product(given.seeds, given.only, given.targets, WAYS):
        if (name, given.precision, target, way, seed) in done:
            continue
        began = time.monotonic()
        whole = work / f"{name}-{given.precision}"
        if not (whole / "run" / "run.json").exists():
            run(base_recipe(name, given.precision, [], work), whole)
        stages = [
            {**WAYS[way], "target": {"latency": target}},
            {"kind": "finetune", **RETRAINING[NETWORKS[name][2]["source"]]},
        ]
        folder = work / f"{name}-{given.precision}-{target}-{way.replace(' ', '-')}-{seed}"
        report = run(base_recipe(name, given.precision, stages, work), folder, seed)
        rows = report["rows"]
        files = [shipped_file(each, "onnxruntime") for each in (whole, folder)]
        yield {
            "network": name,
            "precision": given.precision,
            "target": target,
            "way": way,
            "seed": seed,
            "original": rows[0]["validation"]["accuracy"],
            "at_once": rows[1]["validation"]["accuracy"],
            "accuracy": rows[-1]["validation"]["accuracy"],
            "ratio": ratio(*files, "onnxruntime"),
            "macs": [rows[0]["macs"], rows[-1]["macs"]],
            "model": {
                key: rows[1]["changed"]["latency"]["model"][key] for key in ("probes", "median_error", "p90_error")
            },
            "seconds": time.monotonic() - began,
            "machine": {k: report["machine"].get(k) for k in ("cpu_model", "isa")},
            "versions": {k: report["versions"][k] for k in ("torch", "onnxruntime")},
        }


def cell_of(record: dict[str, Any]) -> tuple[str, str, str, str, int]:
    """Return which cell a record is of."""
    return record["network"], record["precision"], record["target"], record["way"], record["seed"]


def main() -> None:
    """Run the cells that are missing, or write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("run", "table"))
    parser.add_argument("--only", nargs="+", choices=NETWORKS, default=["resnet18", "vit"])
    parser.add_argument("--targets", nargs="+", default=["0.7x"])
    parser.add_argument("--precision", choices=("fp32", "int8"), default="int8")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "low_rank_latency")
    given = parser.parse_args()
    for record in cells(given, given.work.resolve()) if given.what == "run" else ():
        with RESULTS.open("a") as lines:
            lines.write(json.dumps(record, allow_nan=False) + "\n")
        told = f"{record['ratio']['value']:.3f}x, {record['accuracy']:.4f}"
        print(f"{record['network']} {record['target']} {record['way']} {record['seed']}: {told}", flush=True)
    PAGE.write_text(page(stored(RESULTS)))


if __name__ == "__main__":
    main()
