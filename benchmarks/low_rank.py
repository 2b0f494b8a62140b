"""What does whitening keep? ResNet-20 on Fashion-MNIST in factors of the same number of parameters, without training.

    .venv/bin/python benchmarks/low_rank.py run [--parameters 0.8 0.6] [--seeds 0 1 2]
    .venv/bin/python benchmarks/low_rank.py table

Ranks are chosen by one budget of parameters and factors computed as by the stage `factorize`, in three ways:
`whitened` both by the error of outputs, `plain` both by that of weights, `plain factors` with the ranks of `whitened`.
Ranks are multiples of 4. Accuracy is that of the torch network on the 5,000 validation images, after batch norms have
taken their statistics again from the training images that whitening looked at. Errors are those of outputs on
validation images, which nothing was chosen by, each layer with the inputs of the network as it was. One line of JSON
for each cell is appended to results/low_rank.jsonl as soon as it is there; cells that are there are left out.

`table` writes low_rank.md.
"""

from __future__ import annotations

import argparse
import json
from copy import deepcopy
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any

import torch
from low_rank_table import page

from pipeline.compress.factorization.budget import LayerChoice, cheapest_loss, counted_price
from pipeline.compress.factorization.legs import layer_matrix
from pipeline.compress.factorization.matrices import relative_error
from pipeline.compress.factorization.merging import merge_back
from pipeline.compress.factorization.moments import input_moments
from pipeline.compress.factorization.options import RankRule, layer_options
from pipeline.compress.factorization.replacing import factor_layers
from pipeline.compress.factorization.sites import find_sites
from pipeline.compress.pruning.cost import count_cost
from pipeline.compress.pruning.samples import Samples
from pipeline.compress.training.batchnorm import recalibrate_batchnorm
from pipeline.data.arrays import image_classifier
from pipeline.data.fashion_mnist import load
from pipeline.network.stored import load_other

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from torch import Tensor, nn

    from pipeline.compress.factorization.options import Option

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "low_rank.jsonl"
PAGE = ROOT / "benchmarks" / "low_rank.md"
MODEL = ROOT / "models" / "resnet_cifar"
ARGUMENTS = {"classes": 10, "channels": 1, "depth": 20}
EXAMPLE = (torch.zeros(2, 1, 28, 28),)
SHARES = (0.9, 0.8, 0.7, 0.6, 0.5)
#: Training images for second moments and batch norms, and validation images for errors and accuracy.
IMAGES, JUDGED, BATCH = 500, 5000, 100
RULE = RankRule(align=4, least=4)


def cells(shares: Sequence[float], seeds: Sequence[int]) -> Iterator[dict[str, Any]]:
    """Yield the record of every cell (seed, share, way) of which none is stored."""
    torch.set_num_threads(1)
    done = {(each["way"], each["share"], each["seed"]) for each in stored()}
    model, _ = load_other(MODEL / "model.py", MODEL / "weights.safetensors", ARGUMENTS)
    sites, _ = find_sites(model, EXAMPLE)
    whole = count_cost(model, EXAMPLE).parameters
    task = image_classifier(load(None, JUDGED, 0))
    judge = Samples(lambda: task, JUDGED, BATCH, 0)
    layers = {site.name: site.layer for site in sites}
    held_out = input_moments(model, layers, (inputs for inputs, _ in judge.validation()), JUDGED, 0)
    original = judge.score(model, renew=False)
    for seed in seeds:
        samples = Samples(lambda: task, IMAGES, BATCH, seed)
        grams = input_moments(model, layers, (inputs for inputs, _ in samples.training()), IMAGES, seed)
        for share in shares:
            budget = share * whole - (whole - sum(site.cost.parameters for site in sites))
            by_outputs, by_weights = (_ranks(sites, each, budget) for each in (grams, {}))
            ways = {
                "whitened": (by_outputs, grams),
                "plain": (by_weights, {}),
                "plain factors": (by_outputs, {}),
            }
            for way, (chosen, used) in ways.items():
                if (way, share, seed) in done:
                    continue
                other = _factorised(model, chosen, used)
                errors = _errors(model, other, chosen, held_out)
                recalibrate_batchnorm(other, (inputs for inputs, _ in samples.training()))
                yield {
                    "way": way,
                    "share": share,
                    "seed": seed,
                    "left": count_cost(other, EXAMPLE).parameters / whole,
                    "layers": len(chosen),
                    "error": mean(errors.values()),
                    "largest_error": max(errors.values()),
                    "accuracy": judge.score(other, renew=False),
                    "original": original,
                    "torch": torch.__version__,
                }


def _ranks(sites: Sequence[Any], grams: Mapping[str, Tensor], budget: float) -> dict[str, Option]:
    """Return what each layer becomes, so that all sites together have at most so many parameters."""
    options = {site.name: layer_options(site, site.kinds, grams.get(site.name), RULE) for site in sites}
    choices = {
        site.name: LayerChoice(site.cost.macs, site.cost.parameters, options[site.name])
        for site in sites
        if options[site.name]
    }
    fixed = sum(site.cost.parameters for site in sites if site.name not in choices)
    return cheapest_loss(choices, counted_price(choices, "parameters"), budget - fixed)


def _factorised(model: nn.Module, chosen: Mapping[str, Option], grams: Mapping[str, Tensor]) -> nn.Module:
    other = deepcopy(model)
    factor_layers(other, {name: option.factor for name, option in chosen.items()}, grams)
    return other


def _errors(
    model: nn.Module, other: nn.Module, names: Mapping[str, Any], grams: Mapping[str, Tensor]
) -> dict[str, float]:
    """Return each layer's share of its output's energy that the factors lose, on inputs of these second moments."""
    return {
        name: relative_error(
            layer_matrix(model.get_submodule(name)).flatten(1),
            layer_matrix(merge_back(other.get_submodule(name))).flatten(1),  # type: ignore[arg-type]
            grams[name],
        )
        for name in names
    }


def stored() -> list[dict[str, Any]]:
    """Return the records that are there."""
    return [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []


def main() -> None:
    """Run the cells that are missing, or write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("run", "table"))
    parser.add_argument("--parameters", nargs="+", type=float, choices=SHARES, default=SHARES)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    given = parser.parse_args()
    if given.what == "run":
        for record in cells(given.parameters, given.seeds):
            with RESULTS.open("a") as lines:
                lines.write(json.dumps(record, allow_nan=False) + "\n")
            told = f"error {record['error']:.4f}, accuracy {record['accuracy']:.4f}"
            print(f"{record['way']} {record['share']} {record['seed']}: {told}", flush=True)
    PAGE.write_text(page(stored()))


if __name__ == "__main__":
    main()
