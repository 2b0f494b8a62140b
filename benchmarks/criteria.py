"""Which criterion? ResNet-20 on Fashion-MNIST at 2x, 4x and 8x fewer operations, the same retraining for all.

    .venv/bin/python benchmarks/criteria.py run [--shard 1/2] [--images 15000] [--epochs 1] [--only hrank l2]
    .venv/bin/python benchmarks/criteria.py table

`run` appends one line of JSON per row, seed and factor to results/criteria.jsonl and leaves out what is there for the
same budget, so that it goes on where it was stopped. `table` writes criteria.md.
"""

from __future__ import annotations

import argparse
import json
import time
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from criteria_table import page

from pipeline.compress.pruning.allocation import Constraints, global_allocation, uniform_allocation
from pipeline.compress.pruning.cost import count_cost, macs_model
from pipeline.compress.pruning.graph import trace_channels
from pipeline.compress.pruning.graph.capture import capture_graph
from pipeline.compress.pruning.importance.criteria import CRITERIA, score_channels
from pipeline.compress.pruning.importance.normalise import normalised_scores
from pipeline.compress.pruning.importance.reconstruction import rescale_consumers
from pipeline.compress.pruning.importance.request import ScoreRequest
from pipeline.compress.pruning.prune import prune_channels
from pipeline.compress.pruning.samples import Samples
from pipeline.compress.pruning.surgery import apply_plan
from pipeline.compress.training.augmentation import Augmentation
from pipeline.compress.training.learner import ImageClassifier
from pipeline.compress.training.training import Hyperparameters, TrainingRun
from pipeline.core.dataset import Dataset, Split
from pipeline.data.arrays import image_classifier
from pipeline.data.fashion_mnist import load
from pipeline.network.definition import build_network
from pipeline.network.training_config import Augment
from pipeline.network.weights import load_weights, read_weights

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import nn

    from pipeline.compress.pruning.graph import ChannelGraph
    from pipeline.compress.pruning.graph.capture import CapturedGraph
    from pipeline.compress.pruning.importance.names import CriterionName
    from pipeline.compress.pruning.importance.request import Scoring

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "criteria.jsonl"
PAGE = ROOT / "benchmarks" / "criteria.md"
MODEL = ROOT / "models" / "resnet_cifar"
ARGUMENTS = {"classes": 10, "channels": 1, "depth": 20}

#: Rows that are no criterion: the same share of every group leaves, by group norm; and that network from new weights.
UNIFORM, SCRATCH = "uniform", "scratch"
ROWS = (*CRITERIA, UNIFORM, SCRATCH)
FACTORS = (2, 4, 8)
SEEDS = (0, 1, 2)
#: A group keeps at least this share of its channels; widths are not rounded, so that targets are met.
CONSTRAINTS = Constraints(floor=0.1, align=1)
VALIDATION_IMAGES = 5000
BATCH = 128
AUGMENTATION = Augmentation(**Augment(flip_horizontal=True, shift=2).model_dump())


@dataclass(frozen=True)
class Budget:
    """What every network gets: images of one epoch, epochs, and images for criteria that look at data."""

    images: int
    epochs: int
    calibration: int
    learning_rate: float


@dataclass(frozen=True)
class Start:
    """The trained network with its channels, and the data."""

    model: nn.Module
    captured: CapturedGraph
    graph: ChannelGraph
    dataset: Dataset


def run(budget: Budget, rows: list[str], seeds: list[int], factors: list[int], shard: tuple[int, int]) -> None:
    """Run one shard of what has no record yet."""
    torch.set_num_threads(1)
    done = {key(record) for record in stored()}
    items = [(row, seed) for seed in seeds for row in rows][shard[0] - 1 :: shard[1]]
    start = begin()
    for row, seed in items:
        missing = [factor for factor in factors if (row, seed, factor, *vars(budget).values()) not in done]
        for record in judged(start, row, seed, missing, budget) if missing else ():
            with RESULTS.open("a") as file:
                file.write(json.dumps(record) + "\n")
            print(f"{row} seed {seed} {record['factor']}x: test {record['test']:.4f}", flush=True)


def stored() -> list[dict[str, Any]]:
    """Return all records."""
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    return [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []


def key(record: Mapping[str, Any]) -> tuple[object, ...]:
    """Return what tells records apart."""
    return record["row"], record["seed"], record["factor"], *record["budget"].values()


def begin() -> Start:
    """Load the trained network and the data, and find the channels."""
    model = build_network(MODEL / "model.py", ARGUMENTS)
    weights = MODEL / "weights.safetensors"
    load_weights(model, read_weights(weights), str(weights))
    captured = capture_graph(model, (torch.randn(2, 1, 28, 28),))
    return Start(model, captured, trace_channels(captured), load(None, VALIDATION_IMAGES, split_seed=0))


def judged(start: Start, row: str, seed: int, factors: list[int], budget: Budget) -> Iterator[dict[str, Any]]:
    """Prune by one row to each factor, retrain, and yield what came out; the test split is looked at last."""
    dataset = replace(start.dataset, train=drawn(start.dataset.train, budget.images, seed))
    task = image_classifier(dataset)
    samples = Samples(lambda: task, budget.calibration, 64, seed)
    begun = time.process_time()
    scoring = scored(start, row, samples, seed)
    seconds = time.process_time() - begun
    model = macs_model(start.graph)
    for factor in factors:
        normal = normalised_scores(scoring.scores, CRITERIA[criterion(row)].normalisation)
        spread = uniform_allocation if row in (UNIFORM, SCRATCH) else global_allocation
        reached = spread(normal, CONSTRAINTS).at_cost(model, model.cost({}) / factor)
        pruned = removed(start, row, seed, scoring, reached.kept)
        untrained = samples.score(deepcopy(pruned), renew=True)
        begun = time.process_time()
        trained, validation = retrained(pruned, dataset, seed, budget)
        cost = count_cost(trained, torch.zeros(1, 1, 28, 28))
        yield {
            "row": row,
            "seed": seed,
            "factor": factor,
            "budget": vars(budget),
            "macs": cost.macs,
            "miss": reached.error,
            "parameters": cost.parameters,
            "scoring_seconds": round(seconds, 3),
            "scoring_images": scoring.details.get("samples", 0),
            "untrained_validation": untrained,
            "validation": validation,
            "test": accuracy(trained, dataset, dataset.test),
            "training_seconds": round(time.process_time() - begun, 1),
        }


def criterion(row: str) -> CriterionName:
    """Return the criterion that scores the channels of a row."""
    return cast("CriterionName", row) if row in CRITERIA else "group_l2"


def scored(start: Start, row: str, samples: Samples, seed: int) -> Scoring:
    """Score all channels on as many training images as the budget has."""
    request = ScoreRequest(start.captured, start.graph, samples.training, samples.loss, seed)
    return score_channels(criterion(row), request)


def removed(start: Start, row: str, seed: int, scoring: Scoring, kept: Mapping[str, tuple[int, ...]]) -> nn.Module:
    """Return the smaller network, certified; ThiNet's with rescaled channels, `scratch` with new weights."""
    trained = deepcopy(start.model.state_dict())
    if scoring.products is not None:
        rescale_consumers(start.graph, dict(start.model.named_parameters()), scoring.products, kept)
    found = prune_channels(start.captured, start.graph, start.model, kept)
    start.model.load_state_dict(trained)
    if row != SCRATCH:
        return found.model
    torch.manual_seed(seed)
    new = build_network(MODEL / "model.py", ARGUMENTS)
    apply_plan(new, found.plan)
    return new


def drawn(split: Split, images: int, seed: int) -> Split:
    """Return a random part of a split, in another order for every seed."""
    chosen = np.random.default_rng(seed).permutation(len(split))[:images]
    return Split(split.images[chosen], split.labels[chosen])


def retrained(model: nn.Module, dataset: Dataset, seed: int, budget: Budget) -> tuple[nn.Module, float]:
    """Train on labels alone and return the network of the best epoch with its accuracy on validation."""
    settings = Hyperparameters(
        epochs=budget.epochs,
        batch=BATCH,
        optimizer="sgd",
        learning_rate=budget.learning_rate,
        weight_decay=5e-4,
        momentum=0.9,
        warmup=0.1,
        ema=0,
        recalibration_images=0,
        schedule="cosine",
        from_fraction=0,
    )
    learner = ImageClassifier(dataset, BATCH, label_smoothing=0, augmentation=AUGMENTATION)
    training = TrainingRun(model, learner, settings, distillation=None, seed=seed)
    while not training.done:
        training.run_epoch(lambda _step, _loss: None)
    return training.finish(), max(result.score for result in training.history)


@torch.no_grad()
def accuracy(model: nn.Module, dataset: Dataset, split: Split) -> float:
    """Return the share of images whose class is found."""
    right = sum(
        int((model(torch.from_numpy(images)).argmax(1).numpy() == labels).sum())
        for images, labels in dataset.batches(split, 256)
    )
    return right / len(split)


def main() -> None:
    """Run, or write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    running = commands.add_parser("run", help="prune and retrain")
    running.add_argument("--shard", default="1/1", help="this part of the work: 1/2 and 2/2 side by side on two cores")
    running.add_argument("--images", type=int, default=15_000, help="training images of an epoch")
    running.add_argument("--epochs", type=int, default=1)
    running.add_argument("--calibration", type=int, default=256, help="images for criteria that look at data")
    running.add_argument("--learning-rate", type=float, default=0.02)
    running.add_argument("--only", nargs="+", default=ROWS, choices=ROWS, metavar="ROW")
    running.add_argument("--seeds", nargs="+", type=int, default=SEEDS)
    running.add_argument("--factors", nargs="+", type=int, default=FACTORS)
    commands.add_parser("table", help="write criteria.md")
    chosen = parser.parse_args()
    if chosen.command == "run":
        budget = Budget(chosen.images, chosen.epochs, chosen.calibration, chosen.learning_rate)
        part, parts = map(int, chosen.shard.split("/"))
        run(budget, chosen.only, chosen.seeds, chosen.factors, (part, parts))
    else:
        PAGE.write_text(page(stored(), ROWS))
        print(PAGE)


if __name__ == "__main__":
    main()
