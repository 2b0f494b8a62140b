"""Which methods go together, and in which order? ResNet-20 on Fashion-MNIST: all pairs both ways, and the whole chain.

    .venv/bin/python benchmarks/combinations.py run [--only prune-share] [--precision ptq qat] [--work FOLDER]
    .venv/bin/python benchmarks/combinations.py table

A cell is one chain of stages with training after each, and int8 at the end: quantized as it is (ptq) or trained further
(qat). Both its ONNX file and its OpenVINO IR are judged: accuracy on the 5,000 validation images (test images are not
looked at), bytes once packed, time against the original float file, interleaved, and how many weights are zero or equal
in the int8 file itself. Every stage of a chain is trained alike, on the first 15,000 training images
(latency_target_data.py). A chain that is refused has the reason as its record.

One line of JSON for each cell is appended to results/combinations.jsonl as soon as it is there; cells that are there
are left out, so that it goes on where it was stopped. `table` writes combinations.md.
"""

from __future__ import annotations

import argparse
import json
import time
from itertools import permutations
from pathlib import Path
from typing import TYPE_CHECKING, Any

from combinations_table import page
from latency_target import FEWER, RETRAINING, ROOT, ratio, recipe, run, secateur, shipped_file, stored

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

RESULTS = ROOT / "benchmarks" / "results" / "combinations.jsonl"
PAGE = ROOT / "benchmarks" / "combinations.md"
RUNTIMES, PRECISIONS = ("onnxruntime", "openvino"), ("ptq", "qat")
#: What each method is in every chain.
METHODS: dict[str, dict[str, Any]] = {
    "prune": {"target": {"macs": 0.7}},
    "factorize": {"target": {"macs": 0.7}},
    "sparsify": {"density": 0.1, "method": "obs"},
    "share": {"clusters": 16},
}
#: One epoch after each method: SGD, distilled from the original.
TRAINING = RETRAINING["fashion-mnist"] | {"epochs": 1}
AWARE = {"kind": "quantize-aware-finetune", "epochs": 1, "batch": 128, "learning_rate": 5.0e-4} | {
    "distill": TRAINING["distill"],
    "augment": TRAINING["augment"],
}
#: The order that the rules of the stages suggest, with more seeds than a pair has.
WHOLE = ("prune", "factorize", "sparsify", "share")
SEEDS = (0, 1, 2)


def chains() -> Iterator[tuple[str, ...]]:
    """Yield nothing at all, each method, all pairs in both orders, and the whole chain."""
    yield ()
    yield from ((each,) for each in METHODS)
    yield from permutations(METHODS, 2)
    yield WHOLE


def name_of(chain: Iterable[str]) -> str:
    """Return the name of a chain."""
    return "-".join(chain) or "int8"


def chain_recipe(chain: Iterable[str], precision: str) -> dict[str, Any]:
    """Return the recipe of a cell: the chain, int8, and the same file for OpenVINO."""
    stages: list[dict[str, Any]] = []
    for name in chain:
        stages += [{"kind": name, **METHODS[name]}, {"kind": "finetune", **TRAINING}]
    cell = recipe("resnet20", "onnxruntime", stages, "int8") | {"data": FEWER}
    if precision == "qat":  # trains and writes the int8 file itself
        cell["stages"][-2:] = [AWARE]
    cell["stages"].append({"kind": "export", "to": "openvino"})
    return cell


def cell_record(chain: tuple[str, ...], precision: str, seed: int, work: Path) -> dict[str, Any]:
    """Run one cell and return its record, or the record of its refusal."""
    began, name = time.monotonic(), f"{name_of(chain)}-{precision}-{seed}"
    record: dict[str, Any] = {"chain": list(chain), "precision": precision, "seed": seed}
    try:
        report = run(chain_recipe(chain, precision), work / name, seed)
    except RuntimeError as error:
        refusal = str(error).strip()
        if not refusal.startswith("error: "):
            raise
        return record | {"refused": refusal.removeprefix("error: ").split(" ", 1)[1]}
    rows = report["rows"]
    files = {runtime: shipped_file(work / name, runtime) for runtime in RUNTIMES}
    originals = base_files(work)
    ships = {row["form"]: row for row in rows if row.get("makes_file")}
    return record | {
        "original": rows[0]["validation"]["accuracy"],
        "accuracy": {
            runtime: ships[form]["validation"]["accuracy"]
            for runtime, form in zip(RUNTIMES, ("onnx", "openvino"), strict=True)
        },
        "ratio": {runtime: ratio(originals[runtime], files[runtime], runtime, ("20s",)) for runtime in RUNTIMES},
        "raw": originals["onnxruntime"].stat().st_size,
        "packed": {runtime: packed_bytes(file, work / f"{name}.packed") for runtime, file in files.items()},
        "macs": [rows[0]["macs"], rows[-1]["macs"]],
        "kept": {key: rows[-1]["changed"].get(key) for key in ("sparsity", "sharing")},
        "seconds": time.monotonic() - began,
        "machine": {k: report["machine"].get(k) for k in ("cpu_model", "isa")},
        "versions": {k: report["versions"][k] for k in ("torch", "onnxruntime", "openvino")},
    }


def base_files(work: Path) -> dict[str, Path]:
    """Return the original float file for each runtime, made when it is not there."""
    folder = work / "original"
    if not (folder / "run" / "run.json").exists():
        cell = recipe("resnet20", "onnxruntime", (), "fp32")
        cell["stages"].append({"kind": "export", "to": "openvino"})
        run(cell | {"data": FEWER}, folder)
    return {runtime: shipped_file(folder, runtime) for runtime in RUNTIMES}


def packed_bytes(file: Path, out: Path) -> int:
    """Return the bytes of a file once packed, graph and names included."""
    found: int = json.loads(secateur("pack", str(file), "-o", str(out), "--json"))["packed"]
    out.unlink()
    return found


def wanted_cells(given: argparse.Namespace) -> Iterator[tuple[tuple[str, ...], str, int]]:
    """Yield chain, precision and seed of the cells asked for: the whole chain has all seeds, others the first."""
    for precision in given.precision:
        for chain in chains():
            if given.only and name_of(chain) not in given.only:
                continue
            for seed in SEEDS if chain == WHOLE else SEEDS[:1]:
                yield chain, precision, seed


def main() -> None:
    """Run the cells that are missing, or write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("run", "table"))
    parser.add_argument("--only", nargs="+", choices=[name_of(each) for each in chains()])
    parser.add_argument("--precision", nargs="+", choices=PRECISIONS, default=list(PRECISIONS))
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "combinations")
    given = parser.parse_args()
    done = {(tuple(each["chain"]), each["precision"], each["seed"]) for each in stored(RESULTS)}
    for chain, precision, seed in wanted_cells(given) if given.what == "run" else ():
        if (chain, precision, seed) in done:
            continue
        record = cell_record(chain, precision, seed, given.work.resolve())
        with RESULTS.open("a") as lines:
            lines.write(json.dumps(record, allow_nan=False) + "\n")
        print(f"{name_of(chain)} {precision} {seed}: {record.get('refused') or record['accuracy']}", flush=True)
    PAGE.write_text(page(stored(RESULTS)))


if __name__ == "__main__":
    main()
