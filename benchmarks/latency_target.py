"""Does the file that ships take what was asked for? Networks x runtimes x targets, pruned to a latency and checked.

    .venv/bin/python benchmarks/latency_target.py hit [--only resnet20] [--runtime onnxruntime] [--work FOLDER]
    .venv/bin/python benchmarks/latency_target.py table

`hit` runs the recipe of each cell (prune to the target, export, quantize) without any training, then times the file
that it ends with against the file of the same recipe without pruning, interleaved, in a measurement of its own. Where
int8 is not faster than float for the network in that runtime, both are float files. One line of JSON for each cell is
appended to results/latency_target.jsonl; cells that are there are left out, so that it goes on where it was stopped.
`table` writes latency_target.md.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latency_target_table import page
from ruamel.yaml import YAML

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "latency_target.jsonl"
PAGE = ROOT / "benchmarks" / "latency_target.md"
TARGETS = ("0.75x", "0.5x", "0.35x")
RUNTIMES = ("onnxruntime", "openvino")
FASHION, SEARCH = {"source": "fashion-mnist"}, {"images": 256, "criterion": "group_l2"}
#: By name: the model's folder, its arguments, and the data.
NETWORKS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "resnet20": ("resnet_cifar", {"classes": 10, "channels": 1, "depth": 20}, FASHION),
    "mobilenet-v2": ("mobilenet_v2", {"classes": 10, "channels": 1, "width": 0.5, "small_images": True}, FASHION),
    "vit": ("vit", {"classes": 10, "channels": 1, "size": 28}, FASHION),
    "efficientnet-lite0": ("efficientnet_lite0", {"classes": 2}, {"source": "elpv", "size": 160, "channels": 3}),
    "resnet18": ("resnet18", {"classes": 2, "channels": 1}, {"source": "elpv", "size": 128, "channels": 1}),
}
#: Time of the paired measurement of each final file.
BUDGET = "20s"


def recipe(name: str, runtime: str, stages: Sequence[dict[str, Any]], precision: str) -> dict[str, Any]:
    """Return the recipe of a cell."""
    folder, arguments, data = NETWORKS[name]
    weights = ROOT / "models" / folder / "weights.safetensors"
    model = {"definition": str(ROOT / "models" / folder / "model.py"), "arguments": arguments}
    model |= {"weights": str(weights)} if weights.exists() else {}
    quantize = [{"kind": "quantize", "images": 64, "on_far": "keep"}] if precision == "int8" else []
    shipped = [{"kind": "export", "to": "openvino"}] if runtime == "openvino" else []
    return {
        "format": 1,
        "name": f"{name} in {runtime}",
        "model": model,
        "data": data,
        "target": {"runtime": runtime, "threads": 1},
        "stages": [*stages, {"kind": "export", "to": "onnx"}, *quantize, *shipped],
    }


def run(cell: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Run a recipe without looking at test images, and return its run.json."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "recipe.yaml").open("w") as file:
        YAML().dump(cell, file)
    secateur("run", str(folder / "recipe.yaml"), "--out", str(folder / "run"), "--no-test")
    found: dict[str, Any] = json.loads((folder / "run" / "run.json").read_text())
    return found


def secateur(*arguments: str) -> str:
    """Run the command and return what it prints. Raises RuntimeError with its message when it fails."""
    command = [sys.executable, "-m", "pipeline", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)  # noqa: S603 - our own
    if done.returncode not in {0, 1, 3}:  # a comparison that finds a difference is no failure
        raise RuntimeError(done.stderr[-2000:])
    return done.stdout


def shipped_file(folder: Path, runtime: str) -> Path:
    """Return the last file of a run for a runtime."""
    name = "model.xml" if runtime == "openvino" else "model.onnx"
    return max((folder / "run" / "stages").glob(f"*/{name}"))


def ratio(base: Path, candidate: Path, runtime: str) -> dict[str, float]:
    """Return time of candidate / time of base with its interval, measured interleaved by CPU time on one thread."""
    options = ("--runtime", runtime, "--budget", BUDGET, "--tolerance", "any", "--json")
    found = json.loads(secateur("compare", str(base), str(candidate), *options))
    return {key: found["cpu"][key] for key in ("value", "low", "high")}


def cells(names: Sequence[str], runtimes: Sequence[str], work: Path) -> Iterator[dict[str, Any]]:
    """Yield the record of every cell that has none yet."""
    done = {(each["network"], each["runtime"], each["target"]) for each in stored()}
    for name in names:
        for runtime in runtimes:
            missing = [target for target in TARGETS if (name, runtime, target) not in done]
            if not missing:
                continue
            base = {each: work / f"{name}-{runtime}-{each}" for each in ("fp32", "int8")}
            for precision, folder in base.items():
                run(recipe(name, runtime, (), precision), folder)
            files = {precision: shipped_file(folder, runtime) for precision, folder in base.items()}
            int8 = ratio(files["fp32"], files["int8"], runtime)
            precision = "int8" if int8["value"] < 1 else "fp32"
            for target in missing:
                stage = {"kind": "prune", "target": {"latency": target}, **SEARCH}
                folder, began = work / f"{name}-{runtime}-{target}", time.monotonic()
                report = run(recipe(name, runtime, (stage,), precision), folder)
                row = next(each for each in report["rows"] if each.get("kind") == "prune")
                yield {
                    "network": name,
                    "runtime": runtime,
                    "target": target,
                    "precision": precision,
                    "int8": int8,
                    "ratio": ratio(files[precision], shipped_file(folder, runtime), runtime),
                    "seconds": time.monotonic() - began,
                    "macs": [report["rows"][0]["macs"], row["macs"]],
                    "latency": {k: v for k, v in row["changed"]["latency"].items() if k != "layers"},
                    "machine": {k: report["machine"].get(k) for k in ("cpu_model", "isa")},
                    "versions": {k: report["versions"][k] for k in ("torch", "onnxruntime", "openvino")},
                }


def stored() -> list[dict[str, Any]]:
    """Return all records."""
    return [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []


def main() -> None:
    """Run the cells that are missing, or write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("hit", "table"))
    parser.add_argument("--only", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--runtime", nargs="+", choices=RUNTIMES, default=list(RUNTIMES))
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "latency_target")
    given = parser.parse_args()
    if given.what == "table":
        PAGE.write_text(page(stored()))
        return
    for record in cells(given.only, given.runtime, given.work.resolve()):
        with RESULTS.open("a") as file:
            file.write(json.dumps(record) + "\n")
        found = record["ratio"]
        print(f"{record['network']} {record['runtime']} {record['target']}: {found['value']:.3f}", flush=True)


if __name__ == "__main__":
    main()
