"""Does the file that ships take what was asked for? Networks x runtimes x targets, pruned to a latency and checked.

    .venv/bin/python benchmarks/latency_target.py hit [--only resnet20] [--runtime onnxruntime] [--work FOLDER]
    .venv/bin/python benchmarks/latency_target.py again [--work FOLDER]
    .venv/bin/python benchmarks/latency_target.py gain [--only resnet18] [--work FOLDER]
    .venv/bin/python benchmarks/latency_target.py worth [--only resnet20] [--seeds 0 1 2] [--work FOLDER]
    .venv/bin/python benchmarks/latency_target.py table

`hit` runs the recipe of each cell (prune to the target, export, quantize) without any training, then times the file
that it ends with against the file of the same recipe without pruning, interleaved, in a measurement of its own. Where
int8 is not faster than float for the network in that runtime, both are float files. One line of JSON for each cell is
appended to results/latency_target.jsonl; cells that are there are left out, so that it goes on where it was stopped.

`again` times the files of cells once more whose interval is wide, as on a machine that other work shared, where their
runs are still there.

`gain` asks how much of the operations that leave a float file becomes time: half of the time as the target, and beside
it half of the operations, which is the target without prices. Its lines go to results/latency_gain.jsonl.

`worth` asks whether what was chosen is worth more than other networks of the same latency: uniform widths, one ranking
by L2 norm, and random channels, each narrowed by the same closed loop until its file takes the same time, and L2 at
the operations of the chosen network. Widths alone often cannot reach it, so controls first lose as many residual blocks
as were chosen, those that change their input least, or the nearest number from which widths reach it. All get the same
retraining; what is compared is the accuracy of the int8 file on validation images. Its lines go to
results/latency_worth.jsonl.

`table` writes latency_target.md.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latency_target_table import page
from ruamel.yaml import YAML

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "latency_target.jsonl"
GAIN = ROOT / "benchmarks" / "results" / "latency_gain.jsonl"
WORTH = ROOT / "benchmarks" / "results" / "latency_worth.jsonl"
PAGE = ROOT / "benchmarks" / "latency_target.md"
TARGETS = ("0.75x", "0.5x", "0.35x")
RUNTIMES = ("onnxruntime", "openvino")
FASHION, SEARCH = {"source": "fashion-mnist"}, {"images": 256, "criterion": "group_l2"}
#: Where nothing is trained and times alone are compared, few images do.
QUICK = SEARCH | {"images": 64}
#: By name: the model's folder, its arguments, and the data.
NETWORKS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "resnet20": ("resnet_cifar", {"classes": 10, "channels": 1, "depth": 20}, FASHION),
    "mobilenet-v2": ("mobilenet_v2", {"classes": 10, "channels": 1, "width": 0.5, "small_images": True}, FASHION),
    "vit": ("vit", {"classes": 10, "channels": 1, "size": 28}, FASHION),
    "efficientnet-lite0": ("efficientnet_lite0", {"classes": 2}, {"source": "elpv", "size": 160, "channels": 3}),
    "resnet18": ("resnet18", {"classes": 2, "channels": 1}, {"source": "elpv", "size": 128, "channels": 1}),
}
GAIN_NETWORKS: tuple[str, ...] = ("resnet18", "mobilenet-v2", "vit")
GAIN_TARGETS: tuple[dict[str, Any], ...] = ({"latency": "0.5x"}, {"macs": 0.5})
#: What is compared at the same latency: the keys of `prune` that differ. The last one is at the same operations.
CONTROLS: dict[str, dict[str, Any]] = {
    "chosen": {},
    "uniform": {"allocation": "uniform"},
    "l2": {"allocation": "global"},
    "random": {"allocation": "uniform", "criterion": "random"},
    "l2 at equal macs": {"allocation": "global"},
}
WORTH_NETWORKS, WORTH_TARGETS = ("resnet20", "efficientnet-lite0", "resnet18"), ("0.5x", "0.35x")
#: The retraining of a network by its data, shorter than that of the recipes.
_FLIPS = {"flip_horizontal": True, "shift": 2}
_ROTATIONS = {"flip_horizontal": True, "flip_vertical": True, "rotate_90": True, "shift": 8}
RETRAINING: dict[str, dict[str, Any]] = {
    "fashion-mnist": {"epochs": 4, "batch": 128, "optimizer": "sgd", "learning_rate": 0.05, "augment": _FLIPS}
    | {"weight_decay": 5.0e-4, "distill": {"from": "original", "temperature": 4, "alpha": 0.7}},
    "elpv": {"epochs": 4, "batch": 32, "learning_rate": 4.0e-4, "ema": 0.99, "recalibrate": 512, "augment": _ROTATIONS}
    | {"distill": {"from": "original", "temperature": 2, "alpha": 0.8}},
}
FEWER = {"source": "file", "path": str(ROOT / "benchmarks" / "latency_target_data.py")}
#: Time of the paired measurement of each final file, and again where that was too little for an interval this narrow.
BUDGETS, NARROW = ("20s", "60s", "120s"), 0.03


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


def run(cell: dict[str, Any], folder: Path, seed: int = 0, *, test: bool = False) -> dict[str, Any]:
    """Run a recipe, without looking at test images unless asked to, and return its run.json."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "recipe.yaml").open("w") as file:
        YAML().dump(json.loads(json.dumps(cell)), file)  # written out in each place: a recipe has no anchors
    options = () if test else ("--no-test",)
    secateur("run", str(folder / "recipe.yaml"), "--out", str(folder / "run"), "--seed", str(seed), *options)
    found: dict[str, Any] = json.loads((folder / "run" / "run.json").read_text())
    return found


def secateur(*arguments: str) -> str:
    """Run the command and return what it prints. Raises RuntimeError with its message when it fails."""
    command = [sys.executable, "-m", "pipeline", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)  # noqa: S603 - our own
    answers = {0, 1, 3} if arguments[0] == "compare" else {0}  # a comparison that finds a difference is no failure
    if done.returncode not in answers:
        raise RuntimeError(done.stderr[-2000:])
    return done.stdout


def shipped_file(folder: Path, runtime: str) -> Path:
    """Return the last file of a run for a runtime."""
    name = "model.xml" if runtime == "openvino" else "model.onnx"
    return max((folder / "run" / "stages").glob(f"*/{name}"))


def ratio(base: Path, candidate: Path, runtime: str, budgets: Sequence[str] = BUDGETS) -> dict[str, float]:
    """Return time of candidate / time of base with its interval, measured interleaved by CPU time on one thread."""
    found: dict[str, float] = {}
    for budget in budgets:
        options = ("--runtime", runtime, "--budget", budget, "--tolerance", "any", "--json")
        cpu = json.loads(secateur("compare", str(base), str(candidate), *options))["cpu"]
        found = {key: cpu[key] for key in ("value", "low", "high")}
        if found["high"] - found["low"] <= NARROW * found["value"]:
            break
    return found


def cells(names: Sequence[str], runtimes: Sequence[str], work: Path) -> Iterator[dict[str, Any]]:
    """Yield the record of every cell that has none yet."""
    done = {cell_of(each) for each in stored()}
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
                stage = {"kind": "prune", "target": {"latency": target}, **QUICK}
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


def measure_again(work: Path) -> None:
    """Replace the ratio of each cell whose interval is wide, and whose files are there."""
    for row in stored():
        found, start = row["ratio"], f"{row['network']}-{row['runtime']}"
        files = [work / f"{start}-{row[key]}" for key in ("precision", "target")]
        if found["high"] - found["low"] <= NARROW * found["value"] or not all(
            (each / "run" / "run.json").exists() for each in files
        ):
            continue
        base, candidate = (shipped_file(each, row["runtime"]) for each in files)
        found = ratio(base, candidate, row["runtime"])
        rows = [each | ({"ratio": found} if cell_of(each) == cell_of(row) else {}) for each in stored()]
        RESULTS.write_text("".join(json.dumps(each, allow_nan=False) + "\n" for each in rows))
        print(f"{' '.join(cell_of(row))}: {row['ratio']['value']:.3f}x -> {found['value']:.3f}x", flush=True)


def cell_of(record: dict[str, Any]) -> tuple[str, str, str]:
    """Return which cell a record is of."""
    return record["network"], record["runtime"], record["target"]


def gain_cells(names: Sequence[str], work: Path) -> Iterator[dict[str, Any]]:
    """Yield the record of every float file in onnxruntime that has none yet."""
    done = {(each["network"], each["aim"]) for each in stored(GAIN)}
    for name, target in product(names, GAIN_TARGETS):
        (aim,) = target
        if (name, aim) in done:
            continue
        base, folder = work / f"{name}-onnxruntime-fp32", work / f"gain-{name}-{aim}"
        run(recipe(name, "onnxruntime", (), "fp32"), base)
        report = run(recipe(name, "onnxruntime", ({"kind": "prune", "target": target, **QUICK},), "fp32"), folder)
        row = next(each for each in report["rows"] if each.get("kind") == "prune")
        yield {
            "network": name,
            "aim": aim,
            "ratio": ratio(shipped_file(base, "onnxruntime"), shipped_file(folder, "onnxruntime"), "onnxruntime"),
            "macs": [report["rows"][0]["macs"], row["macs"]],
            "machine": {k: report["machine"].get(k) for k in ("cpu_model", "isa")},
            "versions": {k: report["versions"][k] for k in ("torch", "onnxruntime")},
        }


def worth_cells(names: Sequence[str], seeds: Sequence[int], work: Path) -> Iterator[dict[str, Any]]:
    """Yield the record of every training that has none yet; the chosen network comes before its controls."""
    done = {(each["network"], each["target"], each["seed"], each["control"]): each for each in stored(WORTH)}
    for name, target, seed in product(names, WORTH_TARGETS, seeds):
        base = work / f"worth-{name}"
        if not (base / "run" / "run.json").exists():
            run(worth_recipe(name, []), base)
        for control in CONTROLS:
            if (name, target, seed, control) in done:
                continue
            folder = work / f"worth-{name}-{target}-{control.replace(' ', '-')}-{seed}"
            if control == "chosen":
                report = run(worth_recipe(name, [pruning(control, {"latency": target})]), folder, seed)
            else:
                report = run_control(name, control, done[name, target, seed, "chosen"], folder)
            pruned = [each for each in report["rows"] if each.get("kind") == "prune"]
            changed = pruned[-1]["changed"]
            record = {
                "network": name,
                "target": target,
                "seed": seed,
                "control": control,
                "original": report["rows"][0]["validation"]["accuracy"],
                "accuracy": report["rows"][-1]["validation"]["accuracy"],
                "ratio": ratio(
                    shipped_file(base, "onnxruntime"), shipped_file(folder, "onnxruntime"), "onnxruntime", BUDGETS[:2]
                ),
                "macs": [report["rows"][0]["macs"], pruned[-1]["macs"]],
                "removed": [block for each in pruned for block in each["changed"].get("removed", [])],
                "blocks": pruned[0]["changed"].get("blocks"),
                "widths": changed.get("widths"),
                "machine": {k: report["machine"].get(k) for k in ("cpu_model", "isa")},
            }
            done[name, target, seed, control] = record
            yield record


def run_control(name: str, control: str, chosen: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Run the training of a control, with as many blocks removed as were chosen, or the nearest number that serves."""
    seed, number = chosen["seed"], len(chosen["removed"])
    of = chosen["blocks"]["before"] if number else 0
    if control == "l2 at equal macs":
        before, after = chosen["macs"]
        return run(worth_recipe(name, [pruning(control, {"macs": round(after / before, 4)})]), folder, seed)
    # The most blocks, up to those that were chosen, without which it is still slower; then more, if widths fall short.
    wanted = float(chosen["target"][:-1])
    blocks, left = without_blocks(name, number, of, folder.parent, seed)
    while left <= wanted:
        number -= 1
        blocks, left = without_blocks(name, number, of, folder.parent, seed)
    while True:
        try:
            return run(
                worth_recipe(name, [*blocks, pruning(control, {"latency": f"{wanted / left:.4g}x"})]), folder, seed
            )
        except RuntimeError as error:
            number += 1
            if "cannot be reached" not in str(error) or number > of:  # nothing to add to what it says
                raise
            blocks, left = without_blocks(name, number, of, folder.parent, seed)
            if left <= wanted:
                raise


def without_blocks(name: str, number: int, of: int, work: Path, seed: int) -> tuple[list[dict[str, Any]], float]:
    """Return the stage that removes so many blocks, and the time of its file over that of the whole one."""
    if not number:
        return [], 1.0
    stage = {"kind": "prune", "granularity": "blocks", "ratio": round(number / of, 4)}
    folder, base = work / f"worth-{name}-without-{number}-{seed}", work / f"worth-{name}"
    run(
        recipe(name, "onnxruntime", [stage], "int8") | ({"data": FEWER} if NETWORKS[name][2] == FASHION else {}),
        folder,
        seed,
    )
    before, after = (shipped_file(each, "onnxruntime") for each in (base, folder))
    return [stage], ratio(before, after, "onnxruntime", BUDGETS[:1])["value"]


def pruning(control: str, aim: dict[str, Any]) -> dict[str, Any]:
    """Return the stage that prunes to an aim as a control does it."""
    return {"kind": "prune", "target": aim, **SEARCH, **CONTROLS[control]}


def worth_recipe(name: str, pruned: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the recipe of one training; without pruning that of the unpruned int8 file."""
    data = NETWORKS[name][2]
    training = [{"kind": "finetune", **RETRAINING[data["source"]]}] if pruned else []
    cell = recipe(name, "onnxruntime", [*pruned, *training], "int8")
    return cell | ({"data": FEWER} if data == FASHION else {})


def stored(file: Path = RESULTS) -> list[dict[str, Any]]:
    """Return all records."""
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def keep_records(records: Iterable[dict[str, Any]], file: Path) -> None:
    """Append each record as it comes."""
    for record in records:
        with file.open("a") as lines:
            lines.write(json.dumps(record) + "\n")
        what = " ".join(
            str(record[key]) for key in ("network", "runtime", "aim", "target", "control", "seed") if key in record
        )
        print(f"{what}: {record['ratio']['value']:.3f}x {record.get('accuracy', '')}", flush=True)


def main() -> None:
    """Run the cells that are missing, or write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("hit", "again", "gain", "worth", "table"))
    parser.add_argument("--only", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--runtime", nargs="+", choices=RUNTIMES, default=list(RUNTIMES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "latency_target")
    given = parser.parse_args()
    work = given.work.resolve()
    if given.what == "hit":
        keep_records(cells(given.only, given.runtime, work), RESULTS)
    elif given.what == "again":
        measure_again(work)
    elif given.what == "gain":
        keep_records(gain_cells([name for name in given.only if name in GAIN_NETWORKS], work), GAIN)
    elif given.what == "worth":
        names = [name for name in given.only if name in WORTH_NETWORKS]
        keep_records(worth_cells(names, given.seeds, work), WORTH)
    PAGE.write_text(page(stored(), stored(GAIN), stored(WORTH)))


if __name__ == "__main__":
    main()
