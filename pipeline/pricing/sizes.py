"""Smaller images as a move: which sides are looked at, what one of them leaves of a target, and what a report tells."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pydantic import Field
from torch import Tensor, nn

from pipeline.compress.training.inference import inference_mode
from pipeline.core.artifact import FrozenModel
from pipeline.pricing.moves import saved_milliseconds
from pipeline.results.latency_target import (
    CostModelFacts,
    LatencyFloor,
    LatencyMove,
    LatencyTarget,
    LayerTimes,
    TriedSize,
)
from pipeline.results.run import Interval

if TYPE_CHECKING:
    from pipeline.compress.pruning.graph.exported import Example
    from pipeline.core.artifact import Artifact
    from pipeline.core.stage import Target
    from pipeline.pricing.aim import LatencyAim
    from pipeline.pricing.timing import PairedRatio

#: No smaller images are looked at; nor any below half of a side.
LEAST_SIDE = 32
#: Most sides that are looked at beside the given one, and how many there should be to keep to the network's stride.
_MOST, _ENOUGH = 4, 3
#: Sides are multiples of one of these numbers of pixels.
_STEPS = (32, 16, 8)
_IMAGE_DIMENSIONS = 4


class ChosenSize(FrozenModel):
    """Which side was chosen, and what a target counts from.

    Attributes:
        before: the side of the images that the network was given, in pixels.
        after: the one that was chosen; the same where no other one is better.
        ratio: the time of the whole network's file at the chosen side over that at the given one.
        whole: milliseconds of the whole network's file at the given side.
        factor: the target, as a share of that time.
        damage: the loss that smaller images alone cost, before any training.
        layers: milliseconds of each node of the whole file at the given side; none where they are not known.
        tried: all sides that were looked at, the largest first.
    """

    before: int
    after: int
    ratio: Interval
    whole: Interval
    factor: float
    damage: float | None = None
    layers: dict[str, float] = Field(default={})
    tried: tuple[TriedSize, ...] = ()

    @property
    def left(self) -> float:
        """The target as a share of the whole file at the chosen side; from 1 on nothing else has to leave."""
        return self.factor / self.ratio.value


def side_of(artifact: Artifact) -> int:
    """Return the side of the images that a network takes, in pixels."""
    return artifact.inputs[0].shape[-1]


def at_side(artifact: Artifact, side: int) -> Artifact:
    """Return the artifact of the same network with images of another side."""
    (image,) = artifact.inputs
    return artifact.model_copy(update={"inputs": (image.model_copy(update={"shape": (*image.shape[:2], side, side)}),)})


def candidate_sides(side: int, stride: int) -> tuple[int, ...]:
    """Return at most four smaller sides from half of it on, the largest first, at multiples of 8 to 32 pixels.

    The multiple is the largest of these that divides the network's stride, unless that gives fewer than three.

    Args:
        side: of the images that the network takes.
        stride: pixels between two places of its smallest feature map.
    """
    lowest = max(LEAST_SIDE, math.ceil(side / 2))
    steps = [step for step in _STEPS if stride % step == 0] or [_STEPS[-1]]
    grids = [[each for each in range(step, side, step) if each >= lowest] for step in steps]
    found = next((grid for grid in grids if len(grid) >= _ENOUGH), max(grids, key=len))
    places = {round(place * (len(found) - 1) / (_MOST - 1)) for place in range(_MOST)}
    return tuple(found[place] for place in sorted(places, reverse=True)) if found else ()


def image_stride(model: nn.Module, example: Example) -> int:
    """Return how many pixels lie between two places of the smallest feature map that still has places.

    Args:
        model: the network.
        example: its input, images [B, C, S, S].
    """
    seen = [example[0].shape[-1]]

    def look(_module: nn.Module, _given: object, made: object) -> None:
        if isinstance(made, Tensor) and made.ndim == _IMAGE_DIMENSIONS and made.shape[-1] > 1:
            seen.append(made.shape[-1])

    hooks = [module.register_forward_hook(look) for module in model.modules()]
    try:
        with inference_mode(model):
            model(*example)
    finally:
        for hook in hooks:
            hook.remove()
    return 1 << round(math.log2(example[0].shape[-1] / min(seen)))


def size_move(found: ChosenSize, name: str, now_ms: float, bought: PairedRatio | None) -> LatencyMove:
    """Return what a report tells of smaller images.

    Args:
        found: the side that was chosen.
        name: of the input.
        now_ms: milliseconds of the file at the end.
        bought: log(time of the same network with the larger images / time of the file at the end), measured.
    """
    return LatencyMove(
        kind="resolution",
        name=name,
        before=found.before,
        after=found.after,
        predicted_ms=now_ms - now_ms / found.ratio.value,
        measured_ms=saved_milliseconds(bought, now_ms) if bought else None,
        damage=found.damage,
    )


def counted_from_given(told: LatencyTarget, found: ChosenSize, move: LatencyMove) -> LatencyTarget:
    """Return a record whose shares are of the whole file at the given side, with the move of smaller images.

    Args:
        told: the record of the network at the chosen side, with shares of its whole file there.
        found: the side that was chosen.
        move: what smaller images have bought.
    """
    share = found.ratio.value
    nearest = told.nearest and told.nearest.model_copy(
        update={name: side * share for name, side in told.nearest if side is not None}
    )
    corrections = tuple(
        each.model_copy(update={"predicted": each.predicted * share, "measured": each.measured * share})
        for each in told.corrections
    )
    return told.model_copy(
        update={
            "whole_ms": found.whole,
            "ratio": told.ratio.times(share),
            "predicted": told.predicted * share,
            "nearest": nearest,
            "floor": told.floor and told.floor.model_copy(update={"factor": told.floor.factor * share}),
            "layers": _layers_from(told.layers, found),
            "moves": tuple(sorted((*told.moves, move), key=lambda each: -each.saved_ms)),
            "corrections": corrections,
        }
    )


def _layers_from(layers: tuple[LayerTimes, ...], found: ChosenSize) -> tuple[LayerTimes, ...]:
    """Return the layers with their times at the given side before; those that have no such name there are left out."""
    known = [each for each in layers if each.name in found.layers]
    moved = [each.model_copy(update={"before_ms": found.layers[each.name]}) for each in known]
    return tuple(sorted(moved, key=lambda each: -each.before_ms))


def told_alone(found: ChosenSize, name: str, aim: LatencyAim, target: Target) -> LatencyTarget:
    """Return what a report tells where smaller images are enough, so that nothing else leaves."""
    saved = found.whole.times(found.ratio.value).value
    ends = sorted(found.whole.value * (end - 1) for end in (found.ratio.low, found.ratio.high))
    measured = Interval(value=saved - found.whole.value, low=ends[0], high=ends[1], level=found.ratio.level)
    move = size_move(found, name, saved, None).model_copy(update={"measured_ms": measured})
    return LatencyTarget(
        **aim.terms(target),
        whole_ms=found.whole,
        ratio=found.ratio,
        predicted=found.ratio.value,
        met=found.ratio.value <= found.factor,
        floor=LatencyFloor(factor=found.ratio.value, why="the whole network with these images"),
        model=CostModelFacts(probes=0, median_error=0.0, p90_error=0.0, trusted=True, seconds=0.0),
        moves=(move,),
    )
