"""Which method keeps most accuracy at a density? ResNet-20 on Fashion-MNIST, with the same retraining for all.

    .venv/bin/python benchmarks/sparsity.py run [--only magnitude obs] [--densities 0.05] [--seeds 0] [--work FOLDER]
    .venv/bin/python benchmarks/sparsity.py table

Each cell is one recipe: weights to zero by one method, retraining, export. The training set has its first 15,000 images
(latency_target_data.py), so that many trainings fit into an afternoon; accuracies are those of exported files on the
5,000 validation images, and test images are not looked at. One line of JSON for each cell is appended to
results/sparsity.jsonl as soon as it is there; cells that are there are left out, so that it goes on where it was
stopped.

`table` writes sparsity.md.
"""

from __future__ import annotations

import argparse
import json
import time
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latency_target import FEWER, RETRAINING, ROOT, recipe, run, stored
from sparsity_table import page

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

RESULTS = ROOT / "benchmarks" / "results" / "sparsity.jsonl"
PAGE = ROOT / "benchmarks" / "sparsity.md"
#: The densities with the seeds that each is run with.
SEEDS: dict[float, tuple[int, ...]] = {0.2: (0,), 0.1: (0,), 0.05: (0, 1, 2)}
#: By name: the keys of `sparsify`.
METHODS: dict[str, dict[str, Any]] = {
    "magnitude": {},
    "magnitude, global": {"scope": "global"},
    "obd, global": {"method": "obd", "scope": "global"},
    "obs": {"method": "obs"},
    "obs, global": {"method": "obs", "scope": "global"},
    "block_fisher, global": {"method": "block_fisher", "scope": "global"},
    "random": {"method": "random"},
}
IMAGES = 512


def cell_recipe(method: str, density: float) -> dict[str, Any]:
    """Return the recipe of a cell."""
    stages = [
        {"kind": "sparsify", "density": density, "images": IMAGES, **METHODS[method]},
        {"kind": "finetune", **RETRAINING["fashion-mnist"]},
    ]
    return recipe("resnet20", "onnxruntime", stages, "fp32") | {"data": FEWER}


def cells(
    methods: Sequence[str], densities: Sequence[float], seeds: Sequence[int], work: Path
) -> Iterator[dict[str, Any]]:
    """Yield the record of every cell that has none yet, seed by seed, so that all methods come before the next seed."""
    done = {cell_of(each) for each in stored(RESULTS)}
    for seed, density, method in product(seeds, densities, methods):
        if seed not in SEEDS[density] or (method, density, seed) in done:
            continue
        began = time.monotonic()
        folder = work / f"{method.replace(', ', '-')}-{density}-{seed}"
        report = run(cell_recipe(method, density), folder, seed)
        rows = report["rows"]
        sparse = next(each for each in rows if each.get("kind") == "sparsify")
        yield {
            "method": method,
            "density": density,
            "seed": seed,
            "original": rows[0]["validation"]["accuracy"],
            "at_once": sparse["validation"]["accuracy"],
            "accuracy": rows[-1]["validation"]["accuracy"],
            "left": sparse["changed"]["density"]["after"],
            "seconds": time.monotonic() - began,
            "machine": {k: report["machine"].get(k) for k in ("cpu_model", "isa")},
            "versions": {k: report["versions"][k] for k in ("torch", "onnxruntime")},
        }


def cell_of(record: dict[str, Any]) -> tuple[str, float, int]:
    """Return which cell a record is of."""
    return record["method"], record["density"], record["seed"]


def main() -> None:
    """Run the cells that are missing, or write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("run", "table"))
    parser.add_argument("--only", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--densities", nargs="+", type=float, choices=list(SEEDS), default=list(SEEDS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "sparsity")
    given = parser.parse_args()
    if given.what == "run":
        for record in cells(given.only, given.densities, given.seeds, given.work.resolve()):
            with RESULTS.open("a") as lines:
                lines.write(json.dumps(record, allow_nan=False) + "\n")
            print(f"{record['method']} {record['density']} {record['seed']}: {record['accuracy']:.4f}", flush=True)
    PAGE.write_text(page(stored(RESULTS)))


if __name__ == "__main__":
    main()
