"""All criteria by name: what each needs, what it costs, which normalisation it calls for. `score` runs one.

To add a criterion: one file with a pure function, its name in names.py, and one row in the table at the end.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from pipeline.compress.pruning.importance.apoz import apoz
from pipeline.compress.pruning.importance.bn_scale import bn_scale
from pipeline.compress.pruning.importance.chip import chip
from pipeline.compress.pruning.importance.fpgm import fpgm
from pipeline.compress.pruning.importance.group_fisher import group_fisher
from pipeline.compress.pruning.importance.group_l2 import group_l2
from pipeline.compress.pruning.importance.hrank import hrank
from pipeline.compress.pruning.importance.l1 import l1
from pipeline.compress.pruning.importance.l2 import l2
from pipeline.compress.pruning.importance.mean_activation import mean_activation
from pipeline.compress.pruning.importance.obd import obd
from pipeline.compress.pruning.importance.random import random
from pipeline.compress.pruning.importance.reconstruction import consumer_products
from pipeline.compress.pruning.importance.request import ScoreRequest, Scoring, input_tuple
from pipeline.compress.pruning.importance.taylor import taylor
from pipeline.compress.pruning.importance.taylor_gates import taylor_gates
from pipeline.compress.pruning.importance.thinet import thinet

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from pipeline.compress.pruning.importance.names import CriterionName, Normalisation
    from pipeline.compress.pruning.importance.request import Batch


@dataclass(frozen=True)
class Criterion:
    """One row: how a criterion is run and what is said about it.

    Attributes:
        run: from the request to the scores.
        needs: `weights` alone, `data` for activations, `gradients` of a loss on data, or `random` numbers.
        normalisation: what makes its scores comparable between groups, by its paper or its unit.
        cost: in one line.
    """

    run: Callable[[ScoreRequest], Scoring]
    needs: Literal["weights", "data", "gradients", "random"]
    normalisation: Normalisation
    cost: str


def score_channels(name: CriterionName, request: ScoreRequest) -> Scoring:
    """Score all channels of the request's groups with one criterion.

    Raises:
        InputError: data or a loss is missing, or the criterion does not apply to some groups, which it names.
        StageError: the samples of a batch cannot be told apart in a feature map.
    """
    if not request.graph.groups:
        return Scoring({})
    samples = 0

    def counted() -> Iterator[Batch]:
        nonlocal samples
        for batch in request.stream():
            samples += len(input_tuple(batch[0])[0])
            yield batch

    criterion = CRITERIA[name]
    scoring = criterion.run(replace(request, batches=counted))
    return replace(scoring, details={"samples": samples, **scoring.details} if samples else scoring.details)


def _hrank(request: ScoreRequest) -> Scoring:
    found = hrank(request.captured, request.graph, request.stream())
    means = {name: float(ranks.mean()) for name, ranks in found.mean_rank.items()}
    return Scoring(found.scores, {"tie_share": found.tie_share, "mean_rank": means})


def _thinet(request: ScoreRequest) -> Scoring:
    products = consumer_products(request.captured, request.graph, request.stream(), seed=request.seed)
    return Scoring(thinet(products), products=products)


def _group_fisher(r: ScoreRequest) -> Scoring:
    return Scoring(
        group_fisher(r.captured, r.graph, r.stream(), r.mean_loss(), channel_cost=r.channel_cost),
        {"divisor": "activation memory" if r.channel_cost is None else "cost per channel"},
    )


_ONE_READ = "one pass over the weights"
_FORWARD = "one forward pass"
_BACKWARD = "one forward and backward pass"

CRITERIA: Mapping[str, Criterion] = {
    "l1": Criterion(lambda r: Scoring(l1(r.graph, r.tensors)), "weights", "mean", _ONE_READ),
    "l2": Criterion(lambda r: Scoring(l2(r.graph, r.tensors)), "weights", "mean", _ONE_READ),
    "group_l2": Criterion(lambda r: Scoring(group_l2(r.graph, r.tensors)), "weights", "mean", _ONE_READ),
    "fpgm": Criterion(lambda r: Scoring(fpgm(r.graph, r.tensors)), "weights", "mean", "width^2 distances per layer"),
    "bn_scale": Criterion(lambda r: Scoring(bn_scale(r.captured, r.graph)), "weights", "none", _ONE_READ),
    "taylor": Criterion(
        lambda r: Scoring(taylor(r.captured, r.graph, r.stream(), r.mean_loss())),
        "gradients",
        "none",
        f"{_BACKWARD} per batch",
    ),
    "taylor_gates": Criterion(
        lambda r: Scoring(taylor_gates(r.captured, r.graph, r.stream(), r.mean_loss())),
        "gradients",
        "none",
        f"{_BACKWARD} per batch",
    ),
    "obd": Criterion(
        lambda r: Scoring(obd(r.captured, r.graph, r.stream(), r.mean_loss())),
        "gradients",
        "none",
        f"{_BACKWARD} on two copies of each sample",
    ),
    "group_fisher": Criterion(_group_fisher, "gradients", "none", f"{_BACKWARD} per batch"),
    "hrank": Criterion(_hrank, "data", "max", f"{_FORWARD} per batch, one SVD per channel and image"),
    "chip": Criterion(
        lambda r: Scoring(chip(r.captured, r.graph, r.stream())),
        "data",
        "mean",
        f"{_FORWARD} per batch, one decomposition per map and image",
    ),
    "thinet": Criterion(_thinet, "data", "none", f"{_FORWARD} per batch, ten of each consuming layer"),
    "apoz": Criterion(
        lambda r: Scoring(apoz(r.captured, r.graph, r.stream())), "data", "none", f"{_FORWARD} per batch"
    ),
    "mean_activation": Criterion(
        lambda r: Scoring(mean_activation(r.captured, r.graph, r.stream())), "data", "mean", f"{_FORWARD} per batch"
    ),
    "random": Criterion(lambda r: Scoring(random(r.graph, r.seed)), "random", "none", "none"),
}
