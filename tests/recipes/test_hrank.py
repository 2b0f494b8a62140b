"""The HRank recipes give a layer the rate that its authors published, where the layer's channels can leave alone."""

from __future__ import annotations

import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn

from pipeline.compress.pruning.allocation.constraints import Constraints
from pipeline.compress.pruning.allocation.rates import by_pattern, explicit_rates
from pipeline.compress.pruning.cost import count_cost
from pipeline.compress.pruning.graph import trace_channels
from pipeline.compress.pruning.graph.capture import capture_graph
from pipeline.compress.pruning.surgery import apply_plan, plan_for
from pipeline.network.definition import build_network
from pipeline.recipe import load_recipe
from pipeline.recipe.yaml import read_file

if TYPE_CHECKING:
    from collections.abc import Callable

RECIPES = Path(__file__).parents[2] / "recipes"


def branches(name: str) -> bool:
    """Return whether a convolution is one that the authors prune: not one that narrows the input of a branch."""
    return not name.endswith(("branch3x3.0", "branch5x5.0"))


#: Rates as published, one for each convolution in the network's order, and which of them can leave alone.
PUBLISHED: dict[str, tuple[list[float], Callable[[str], bool]]] = {
    "vgg16-fashion-hrank": ([0.95] + [0.5] * 6 + [0.9] * 4 + [0.8] * 2, lambda _: True),
    "resnet56-fashion-hrank": (
        [0.1] + [0.6] * 35 + [0.0] * 2 + [0.6] * 6 + [0.4] * 3 + [0.1, 0.4] * 4,
        lambda name: name.endswith("conv1"),
    ),
    "resnet110-fashion-hrank": ([0.1] + [0.4] * 108, lambda name: name.endswith("conv1")),
    "resnet50-fashion-hrank": (
        [0.2] + [0.8] * 10 + [0.8] * 13 + [0.55] * 19 + [0.45] * 10,
        lambda name: name.endswith(("conv1", "conv2")),
    ),
    "googlenet-fashion-hrank": (
        [0.1] + [rate for rate in [0.8] * 5 + [0.85] + [0.8] * 3 for _ in range(7)],  # seven convolutions in a module
        branches,
    ),
    "densenet40-fashion-hrank": (
        [0.0] + ([0.1] * 6 + [0.7] * 6 + [0.0]) * 2 + [0.1] * 6 + [0.7] * 5 + [0.0],
        lambda _: True,
    ),
}


def prune_stage(recipe: dict[str, Any]) -> dict[str, Any]:
    """Return the recipe's one prune stage."""
    (stage,) = (stage for stage in recipe["stages"] if stage["kind"] == "prune")
    return dict(stage)


def test_every_hrank_recipe_is_covered() -> None:
    """A new recipe needs a row above."""
    assert {path.stem for path in RECIPES.glob("*-hrank.yaml")} == set(PUBLISHED)


@pytest.mark.parametrize("name", PUBLISHED)
def test_rates_are_the_published_ones(name: str) -> None:
    """Every convolution whose channels leave alone has its rate from one pattern; all others have none."""
    recipe = read_file(RECIPES / f"{name}.yaml", name).data
    rates = prune_stage(recipe)["rates"]
    with torch.device("meta"):
        model = build_network(RECIPES / recipe["model"]["definition"], recipe["model"]["arguments"])
    layers = [layer for layer, module in model.named_modules() if isinstance(module, nn.Conv2d)]
    published, alone = PUBLISHED[name]
    shortcuts = [layer for layer in layers if ".shortcut." in layer]
    convolutions = [layer for layer in layers if layer not in shortcuts]
    assert len(convolutions) == len(published)
    for layer, rate in zip(convolutions, published, strict=True):
        given = [value for pattern, value in rates.items() if fnmatch.fnmatchcase(layer, pattern)]
        assert given == ([rate] if rate and alone(layer) else []), layer
    others = [layer for layer, module in model.named_modules() if not isinstance(module, nn.Conv2d)]
    assert not [layer for layer in [*others, *shortcuts] for pattern in rates if fnmatch.fnmatchcase(layer, pattern)]


@pytest.mark.parametrize("name", ["vgg16-fashion-hrank", "resnet56-fashion-hrank"])
def test_reductions_are_those_of_the_comment(name: str) -> None:
    """Channels of these rates, removed from the network at 32x32x3, give the percentages at the top of the recipe."""
    recipe = read_file(RECIPES / f"{name}.yaml", name).data
    definition = RECIPES / recipe["model"]["definition"]
    model = build_network(definition, {**recipe["model"]["arguments"], "channels": 3})
    images = torch.zeros(2, 3, 32, 32)
    before = count_cost(model, images)
    stage, graph = prune_stage(recipe), trace_channels(capture_graph(model, (images,)))
    scores = {group.name: torch.arange(group.width, dtype=torch.float64) for group in graph.groups}
    rates = by_pattern(graph.groups, stage["rates"])
    apply_plan(model, plan_for(graph, explicit_rates(scores, rates, Constraints(stage["floor"], stage["align"]))))
    after = count_cost(model, images)
    text = (RECIPES / f"{name}.yaml").read_text()
    assert f"{100 * (1 - after.macs / before.macs):.1f} %" in text
    assert f"{100 * (1 - after.parameters / before.parameters):.1f} %" in text


@pytest.mark.parametrize("name", PUBLISHED)
def test_recipe_is_valid_here_and_with_cifar(name: str, tmp_path: Path) -> None:
    """It needs no weights, trains before it prunes in one step, and the options in its comment for CIFAR-10 fit it."""
    path = RECIPES / f"{name}.yaml"
    assert load_recipe(path).recipe.model.weights is None
    (line,) = (line for line in path.read_text().splitlines() if line.startswith("# CIFAR:"))
    assert "'data={source: cifar10, root: /data/cifar-10-batches-bin}'" in line
    assert "model.arguments.channels=3" in line
    cifar = load_recipe(path, [f"data={{source: cifar10, root: {tmp_path}}}", "model.arguments.channels=3"])
    assert cifar.recipe.model.arguments["channels"] == 3
    assert [stage.kind for stage in cifar.recipe.stages[:3]] == ["finetune", "prune", "finetune"]
