"""Nodes of an int8 file that go back to float: families where integers cost time, single layers for the accuracy.

Trials are calibrated on few images: a file's speed does not depend on its scales, and noise is compared between files
that were calibrated alike. What may ship is made anew with all images.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

from pipeline.analysis.noise import own_layer_sqnr
from pipeline.core.feeds import take_samples
from pipeline.precision.candidates import decibels_of
from pipeline.precision.problem import file_of, speed_of
from pipeline.results.precision import LayerChoice

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from onnx import ModelProto, NodeProto

    from pipeline.precision.candidates import Candidates
    from pipeline.precision.problem import SearchCandidate
    from pipeline.precision.variant import Variant
    from pipeline.results.run import Interval

#: Calibration images of a trial, and images on which layers are ordered by their noise.
TRIAL_IMAGES, NOISE_IMAGES = 8, 16
#: Layers that are tried in float, those with most noise of their own first.
MOST_LAYERS = 8
#: A layer costs at least this share of the time, so that gains for nothing can be compared.
_LEAST_COST = 1e-3
#: What is said of a layer that could help, until it is known whether it did.
_HELPS = "reduces noise"


def families_in_float(candidates: Candidates, best: SearchCandidate, shares: tuple[float, float]) -> None:
    """Time each family in float against the given int8 file, then those that gained, alone and together.

    `shares` of the budget are for the first and for the second. The fastest is made with all images and listed.
    """
    variant = best.variant
    groups = families(candidates.model, best.on_integers)
    if variant is None or not groups:
        return
    trials = {name: candidates.make(variant.keeping(nodes), images=TRIAL_IMAGES) for name, nodes in groups.items()}
    alive = {name: each for name, each in trials.items() if each.alive}
    gains = dict(zip(alive, candidates.against(best, list(alive.values()), shares[0]), strict=True))
    for name, nodes in groups.items():
        candidates.layers.append(_family(name, nodes, gains.get(name), trials[name].dropped))
    gained = [name for name, gain in gains.items() if gain is not None and gain.low > 1]
    if not gained:
        return
    rivals: dict[tuple[str, ...], SearchCandidate] = {(name,): trials[name] for name in gained}
    if len(gained) > 1:
        everything = [node for name in gained for node in groups[name]]
        rivals[tuple(gained)] = candidates.make(variant.keeping(everything), images=TRIAL_IMAGES)
    _take_fastest(candidates, best, variant, rivals, shares[1])


def _take_fastest(
    candidates: Candidates,
    best: SearchCandidate,
    variant: Variant,
    rivals: Mapping[tuple[str, ...], SearchCandidate],
    share: float,
) -> None:
    """Time trials beside the file that they are made of, and make the fastest of them for good."""
    candidates.time([candidates.original, best, *(each for each in rivals.values() if each.alive)], share)
    names, trial = max(rivals.items(), key=lambda pair: (pair[1].alive, speed_of(pair[1])))
    if not trial.alive:
        return
    label = f"{best.label}, in float: {' and '.join(names)}"
    mixed = candidates.add(variant.keeping(trial.in_float), label)
    mixed.timed = trial.timed  # the same graph with other numbers in it; what ships is timed again


def _family(name: str, nodes: tuple[str, ...], gain: Interval | None, dropped: str) -> LayerChoice:
    if gain is None:
        reason = dropped or "not timed"
    elif gain.low > 1:
        reason = "faster in float"
    else:
        reason = "slower in float" if gain.high < 1 else "no difference shown"
    return LayerChoice(name=name, nodes=nodes, speedup=gain, left_in_float=False, reason=reason)


def layers_in_float(
    candidates: Candidates, plain: SearchCandidate, nearest: SearchCandidate, shares: tuple[float, float]
) -> None:
    """Leave single layers in float until the accuracy is there: most noise taken away for a millisecond first.

    `plain` is a file as quantized, `nearest` the one whose accuracy is to be brought back. `shares` of the budget are
    for what layers cost, and for the file that is right.
    """
    variant = nearest.variant
    if variant is None:
        return
    worth = _worth(candidates, plain, variant.recovered(()), shares[0])
    chosen: list[str] = []
    for name in sorted((name for name in worth if worth[name] > 0), key=lambda name: -worth[name]):
        chosen.append(name)
        label = f"{nearest.label}, in float: {', '.join(chosen)}"
        tried = candidates.add(variant.keeping(chosen), label)
        if tried.alive and candidates.is_right(tried):
            candidates.time([candidates.original, tried], shares[1])
            return


def _worth(candidates: Candidates, plain: SearchCandidate, variant: Variant, share: float) -> dict[str, float]:
    """Return decibels for a share of the time, by layer, of those that are noisiest alone."""
    images = take_samples(candidates.evaluation.held_out, slice(NOISE_IMAGES))
    own = own_layer_sqnr(candidates.question.given, file_of(plain), images)
    noisy = sorted((name for name in own if name in plain.on_integers), key=lambda name: own[name])[:MOST_LAYERS]
    base = candidates.make(variant, images=TRIAL_IMAGES)
    trials = {name: candidates.make(variant.keeping((name,)), images=TRIAL_IMAGES) for name in noisy}
    alive = {name: each for name, each in trials.items() if each.alive and base.alive}
    costs = dict(zip(alive, candidates.against(base, list(alive.values()), share), strict=True)) if alive else {}
    worth: dict[str, float] = {}
    for name, each in trials.items():
        cost, gained = costs.get(name), None
        reason = base.dropped or each.dropped or "not timed"
        if cost is not None:
            gained = decibels_of(each) - decibels_of(base)
            worth[name] = gained / max(1 / cost.value - 1, _LEAST_COST)
            reason = _HELPS if gained > 0 else "does not reduce noise"
        candidates.layers.append(
            LayerChoice(
                name=name, nodes=(name,), decibels_gained=gained, speedup=cost, left_in_float=False, reason=reason
            )
        )
    return worth


def settled(layers: list[LayerChoice], chosen: SearchCandidate) -> tuple[LayerChoice, ...]:
    """Return the layers that were tried with what the chosen file has of them in float."""
    return tuple(_settled(each, {*each.nodes} <= {*chosen.in_float}) for each in layers)


def _settled(choice: LayerChoice, left: bool) -> LayerChoice:  # noqa: FBT001 - a fact, not a switch
    helped = left and choice.reason == _HELPS
    return choice.model_copy(
        update={"left_in_float": left, "reason": "brought accuracy back" if helped else choice.reason}
    )


PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_EVERYTHING_ELSE = "all but products"
#: Sums of fewer products than this per output are a small convolution.
_SMALL = 64


def families(model: ModelProto, on_integers: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Return nodes that work on integers by family, in the order of the graph; a node can be in several.

    `model` is the float graph. Families: depthwise, grouped, small and first convolutions, each other operator, and
    all that are no products. Of families with the same nodes the first is returned, and none that leaves no node on
    integers.
    """
    names = frozenset(on_integers)
    shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    found: dict[str, list[str]] = {}
    first = True
    for node in model.graph.node:
        kinds = _kinds(node, shapes, first=first)
        first = first and node.op_type not in PRODUCTS
        for kind in kinds if node.name in names else ():
            found.setdefault(kind, []).append(node.name)
    distinct: dict[tuple[str, ...], str] = {}
    for kind, nodes in found.items():
        if len(nodes) < len(names):
            distinct.setdefault(tuple(nodes), kind)
    return {kind: nodes for nodes, kind in distinct.items()}


def _kinds(node: NodeProto, shapes: dict[str, tuple[int, ...]], *, first: bool) -> list[str]:
    if node.op_type not in PRODUCTS:
        return [f"every {node.op_type}", _EVERYTHING_ELSE]
    shape = shapes.get(node.input[1], ())
    kinds = [f"first {node.op_type}"] if first else []
    if node.op_type == "Conv" and len(shape) > 2:  # noqa: PLR2004 - a kernel
        groups = next((each.i for each in node.attribute if each.name == "group"), 1)
        sums = prod(shape[1:])
        if groups > 1:
            kinds.append("depthwise Conv" if shape[1] == 1 else "grouped Conv")
        elif sums < _SMALL:
            kinds.append("small Conv")
    elif node.op_type != "Conv":
        kinds.append(f"every {node.op_type}")
    return kinds
