"""Which method keeps most accuracy at a density? ResNet-20 on Fashion-MNIST, with the same retraining for all.

    .venv/bin/python benchmarks/sparsity.py run [--only magnitude obs] [--densities 0.05] [--seeds 0] [--epochs 4]
    .venv/bin/python benchmarks/sparsity.py table

Each cell is one recipe: weights to zero by one method, retraining, export; methods that train while weights become zero
have the epochs of the retraining for it, and nothing after it. The training set has its first 15,000 images
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
    from collections.abc import Iterable, Iterator

RESULTS = ROOT / "benchmarks" / "results" / "sparsity.jsonl"
PAGE = ROOT / "benchmarks" / "sparsity.md"
#: The densities with the seeds that each is run with.
SEEDS: dict[float, tuple[int, ...]] = {0.2: (0,), 0.1: (0,), 0.05: (0, 1, 2)}
#: Steps between two moves of masks; four epochs have 468.
UPDATE = 20
#: By name: the keys of `sparsify`; a schedule has those of the retraining as well.
METHODS: dict[str, dict[str, Any]] = {
    "magnitude": {},
    "magnitude, global": {"scope": "global"},
    "obd, global": {"method": "obd", "scope": "global"},
    "obs": {"method": "obs"},
    "obs, global": {"method": "obs", "scope": "global"},
    "block_fisher, global": {"method": "block_fisher", "scope": "global"},
    "random": {"method": "random"},
    "gradual magnitude (AGP)": {"scope": "global", "schedule": {"update": UPDATE}},
    "dns": {"method": "dns", "schedule": {}},
    "rigl, erk": {"method": "rigl", "scope": "erk", "schedule": {"update": UPDATE}},
}
IMAGES = 512
TRAINING = RETRAINING["fashion-mnist"]


def cell_recipe(method: str, density: float, epochs: int) -> dict[str, Any]:
    """Return the recipe of a cell. Without epochs nothing is trained, which methods with a schedule cannot do."""
    training = {**TRAINING, "epochs": epochs}
    stage: dict[str, Any] = {"kind": "sparsify", "density": density, "images": IMAGES, **METHODS[method]}
    stages = [stage]
    if "schedule" in stage:
        stage["schedule"] = {**training, **stage["schedule"]}
    elif epochs:
        stages.append({"kind": "finetune", **training})
    return recipe("resnet20", "onnxruntime", stages, "fp32") | {"data": FEWER}


def cells(wanted: Iterable[tuple[int, float, str]], epochs: int, work: Path) -> Iterator[dict[str, Any]]:
    """Yield the record of every cell (seed, density, method) that has none yet."""
    done = {cell_of(each) for each in stored(RESULTS)}
    for seed, density, method in wanted:
        if (method, density, seed, epochs) in done:
            continue
        began = time.monotonic()
        folder = work / f"{method.replace(', ', '-').replace(' ', '-')}-{density}-{seed}-{epochs}"
        report = run(cell_recipe(method, density, epochs), folder, seed)
        rows = report["rows"]
        sparse = next(each for each in rows if each.get("kind") == "sparsify")
        yield {
            "method": method,
            "density": density,
            "seed": seed,
            "epochs": epochs,
            "original": rows[0]["validation"]["accuracy"],
            **({} if "schedule" in METHODS[method] else {"at_once": sparse["validation"]["accuracy"]}),
            "accuracy": rows[-1]["validation"]["accuracy"],
            "left": sparse["changed"]["density"]["after"],
            "seconds": time.monotonic() - began,
            "machine": {k: report["machine"].get(k) for k in ("cpu_model", "isa")},
            "versions": {k: report["versions"][k] for k in ("torch", "onnxruntime")},
        }


def cell_of(record: dict[str, Any]) -> tuple[str, float, int, int]:
    """Return which cell a record is of."""
    return record["method"], record["density"], record["seed"], record["epochs"]


def wanted_cells(given: argparse.Namespace) -> Iterator[tuple[int, float, str]]:
    """Yield seed, density and method of the cells asked for: all methods come before the next seed."""
    for seed, density, method in product(given.seeds, given.densities, given.only):
        if seed in SEEDS[density] and (given.epochs or "schedule" not in METHODS[method]):
            yield seed, density, method


def main() -> None:
    """Run the cells that are missing, or write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("run", "table"))
    parser.add_argument("--only", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--densities", nargs="+", type=float, choices=list(SEEDS), default=list(SEEDS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=TRAINING["epochs"])
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "sparsity")
    given = parser.parse_args()
    if given.what == "run":
        for record in cells(wanted_cells(given), given.epochs, given.work.resolve()):
            with RESULTS.open("a") as lines:
                lines.write(json.dumps(record, allow_nan=False) + "\n")
            print(f"{record['method']} {record['density']} {record['seed']}: {record['accuracy']:.4f}", flush=True)
    PAGE.write_text(page(stored(RESULTS)))


if __name__ == "__main__":
    main()
