"""Quantization on real data: what `engine: auto` ships, beside FP32 and the defaults of three libraries.

    quantization.py auto    every network, runtime and seed: search as a recipe does, then all five files paired
    quantization.py aware   quantization-aware fine-tuning: accuracy on the validation split
    quantization.py arm     the same class on x86 and on an emulated ARM for 200 test images
    quantization.py table   benchmarks/quantization.md from what has been run

Each part goes on where it was stopped. Accuracy is that of the exported file in the runtime, on the validation split.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from quantization_peers import make_peers
from quantization_table import write_table

from pipeline.core.artifact import Artifact
from pipeline.core.dataset import INPUT
from pipeline.core.stage import SilentProgress, Target
from pipeline.data import load_data
from pipeline.data.arrays import image_classifier
from pipeline.measure.devices import open_device
from pipeline.network.stored import load_network
from pipeline.precision.evaluation import Evaluation
from pipeline.precision.same_bits import on_device
from pipeline.recipe import load_recipe

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "quantization"
RUNS = ROOT / "runs" / "quantization"
ELPV = {"source": "elpv"}
NETWORKS: dict[str, dict[str, Any]] = {
    "resnet20-fashion": {
        "model": ("resnet_cifar", {"classes": 10, "channels": 1, "depth": 20}),
        "data": {"source": "fashion-mnist"},
        "aware": {"epochs": 1, "batch": 128, "optimizer": "sgd", "learning_rate": 1e-3, "weight_decay": 1e-4},
    },
    "mobilenet-v2-fashion": {
        "model": ("mobilenet_v2", {"classes": 10, "channels": 1, "width": 0.5, "small_images": True}),
        "data": {"source": "fashion-mnist"},
        "aware": {"epochs": 1, "batch": 128, "optimizer": "sgd", "learning_rate": 1e-3, "weight_decay": 1e-4},
    },
    "resnet18-elpv": {
        "model": ("resnet18", {"classes": 2, "channels": 1}),
        "data": {**ELPV, "size": 128, "channels": 1},
        "aware": {"epochs": 2, "batch": 32, "learning_rate": 1e-5},
    },
    "efficientnet-lite0-elpv": {
        "model": ("efficientnet_lite0", {"classes": 2}),
        "data": {**ELPV, "size": 160, "channels": 3},
        "aware": {"epochs": 2, "batch": 32, "learning_rate": 1e-5},
    },
}
RUNTIMES = ("onnxruntime", "openvino")
SEEDS = (0, 1, 2)
SEARCH_S, LAST_S = 24, 8
CALIBRATION = 128
ARM_IMAGES = 200
ARM_NETWORKS = ("resnet20-fashion", "mobilenet-v2-fashion")


def main() -> None:
    """Run one of the parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["auto", "aware", "arm", "table"])
    parser.add_argument("--network", choices=list(NETWORKS), action="append", help="only this one; can be repeated")
    parser.add_argument("--seed", type=int, action="append", help="only this one; can be repeated")
    parser.add_argument("--minutes", type=float, default=60, help="begin nothing new after this long")
    chosen = parser.parse_args()
    RESULTS.mkdir(parents=True, exist_ok=True)
    if chosen.part == "table":
        write_table(RESULTS, ROOT / "benchmarks" / "quantization.md")
        return
    part = {"auto": auto, "aware": aware, "arm": arm}[chosen.part]
    end = time.monotonic() + chosen.minutes * 60
    for seed in chosen.seed or SEEDS:
        for network in chosen.network or NETWORKS:
            for runtime in RUNTIMES if chosen.part == "auto" else RUNTIMES[:1]:
                key = {"network": network, "runtime": runtime, "seed": seed}
                if time.monotonic() < end and key not in [_key(each) for each in records(chosen.part)]:
                    append(chosen.part, key | part(network, runtime, seed))


def auto(network: str, runtime: str, seed: int) -> dict[str, Any]:
    """Search, make the peers on as many images, and measure all files together."""
    stages = [
        {"kind": "export", "to": "onnx"},
        {"kind": "quantize", "engine": "auto", "images": CALIBRATION, "budget": f"{SEARCH_S}s"},
    ]
    folder, report = run(network, runtime, seed, stages, "auto")
    plan = next(row["changed"]["plan"] for row in report["rows"] if row["kind"] == "quantize")
    original, chosen = (folder / "stages" / name / "model.onnx" for name in ("01-export-onnx", "02-quantize"))
    recipe = load_recipe(folder / "recipe.yaml").recipe
    data = load_data(recipe.data)
    order = np.random.default_rng(seed).permutation(len(data.train))
    samples = data.normalisation(data.train.images[order[:CALIBRATION]])
    entry = json.loads((folder / "stages" / "00-original" / "artifact.json").read_text())
    artifact = Artifact.model_validate({**entry, "folder": folder / "stages" / "00-original"})
    made = RUNS / "peers" / f"{network}-{seed}"
    made.mkdir(parents=True, exist_ok=True)
    peers = make_peers(original, samples, load_network(artifact), made)
    evaluation = Evaluation(
        runtime=runtime,  # type: ignore[arg-type]
        target=Target(runtime=runtime),  # type: ignore[arg-type]
        held_out={INPUT: samples},
        task=image_classifier(data),
        seed=seed,
        progress=SilentProgress(),
    )
    files = {"FP32": original, "ours": chosen, **{name: file for name, file in peers.items() if isinstance(file, Path)}}
    accuracy, failed = {}, {name: why for name, why in peers.items() if isinstance(why, str)}
    for name, file in list(files.items()):
        try:
            accuracy[name] = evaluation.score(file)
        except Exception as error:  # noqa: BLE001 - a runtime may refuse a peer's file
            failed[name] = str(error).splitlines()[0][:200]
            del files[name]
    timed = evaluation.timed(list(files.values()), LAST_S)
    best = [name for name in files if name not in {"FP32", "ours"}]
    against = evaluation.timed([files["ours"], *(files[name] for name in best)], LAST_S)
    return {
        "plan": plan,
        "accuracy": accuracy,
        "speedup": {name: _interval(each.speedup) for name, each in zip(files, timed, strict=True)},
        "over ours": {name: _interval(each.speedup) for name, each in zip(best, against[1:], strict=True)},
        "bytes": {name: file.stat().st_size for name, file in files.items()},
        "failed": failed,
        "machine": {name: report["machine"][name] for name in ("cpu_model", "isa")},
        "versions": report["versions"],
    }


def aware(network: str, runtime: str, seed: int) -> dict[str, Any]:
    """Fine-tune with quantization simulated; accuracy of the exported files before and after."""
    stage = {"kind": "quantize-aware-finetune", "distill": {"from": "original", "temperature": 4, "alpha": 0.7}}
    _, report = run(network, runtime, seed, [{**stage, **NETWORKS[network]["aware"]}], "aware")
    before, after = report["rows"]
    return {
        "before": before["validation"],
        "after": after["validation"],
        "seconds": after["seconds"],
        "changed": {name: after["changed"][name] for name in ("scheme", "best_epoch", "history", "simulation")},
    }


def arm(network: str, runtime: str, seed: int) -> dict[str, Any]:
    """Compare the classes of 200 test images here and on an emulated Cortex-A72; nothing is chosen by them."""
    if network not in ARM_NETWORKS:
        return {"skipped": "too slow to emulate"}
    stages = [{"kind": "export", "to": "onnx"}, {"kind": "quantize", "arm_exact": True, "images": CALIBRATION}]
    folder, report = run(network, runtime, seed, stages, "arm")
    data = load_data(load_recipe(folder / "recipe.yaml").recipe.data)
    images = data.normalisation(data.test.images[:ARM_IMAGES])
    file = folder / "stages" / "02-quantize" / "model.onnx"
    found = {}
    for processor in ("cortex-a72", "cortex-a76"):
        agreement = on_device(file, {INPUT: images}, open_device(f"qemu://{processor}"))
        found[processor] = {name: str(value) if name == "first" else value for name, value in asdict(agreement).items()}
    return {"agreement": found, "scheme": report["rows"][-1]["changed"]["scheme"]}


def run(network: str, runtime: str, seed: int, stages: list[dict[str, Any]], part: str) -> tuple[Path, dict[str, Any]]:
    """Run a recipe as a user does, and return its folder and its run.json."""
    folder = RUNS / part / f"{network}-{runtime}-{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    name, arguments = NETWORKS[network]["model"]
    model = ROOT / "models" / name
    recipe = {
        "format": 1,
        "name": f"{network} {part}",
        "model": {
            "definition": str(model / "model.py"),
            "weights": str(model / "weights.safetensors"),
            "arguments": arguments,
        },
        "data": NETWORKS[network]["data"],
        "target": {"runtime": runtime, "threads": 1},
        "stages": stages,
    }
    file = folder / "recipe.yaml"
    file.write_text(yaml.safe_dump(recipe, sort_keys=False))
    command = [
        sys.executable,
        "-m",
        "pipeline",
        "run",
        str(file),
        "--out",
        str(folder),
        "--seed",
        str(seed),
        "--no-test",
    ]
    subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.DEVNULL)  # noqa: S603 - our own command
    found: dict[str, Any] = json.loads((folder / "run.json").read_text())
    return folder, found


def records(part: str) -> list[dict[str, Any]]:
    """Return what has been run of a part."""
    file = RESULTS / f"{part}.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []


def append(part: str, record: dict[str, Any]) -> None:
    """Keep one record."""
    with (RESULTS / f"{part}.jsonl").open("a") as stream:
        stream.write(json.dumps(record) + "\n")
    print(part, _key(record))


def _key(record: dict[str, Any]) -> dict[str, Any]:
    return {name: record[name] for name in ("network", "runtime", "seed")}


def _interval(interval: Any) -> dict[str, float] | None:  # noqa: ANN401
    return interval.model_dump() if interval else None


if __name__ == "__main__":
    main()
