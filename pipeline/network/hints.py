"""The layers at which a network is compared with its teacher, as a recipe says, and the channels that they share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from pipeline.compress.pruning.graph import trace_channels
from pipeline.compress.pruning.graph.capture import capture_graph
from pipeline.compress.pruning.survivors import composed_keep, surviving_channels
from pipeline.compress.training.hints import Hints, last_at_each_size, recorded_maps, usable_maps
from pipeline.compress.training.inference import inference_mode, seeded_random
from pipeline.core.errors import InputError
from pipeline.core.problems import first_names
from pipeline.network.stored import edit_history, load_network
from pipeline.network.tracing import example_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn

    from pipeline.compress.training.distillation import Distillation
    from pipeline.core.artifact import Artifact
    from pipeline.core.stage import Context
    from pipeline.network.training_config import Distill, Layers

    Shapes = Mapping[str, tuple[int, ...]]

NO_MAPS = "once for each sample with maps [N, C, H, W] of more than one position"


@dataclass(frozen=True)
class _Pair:
    """What a student and its teacher have in common: layers with maps, in the teacher's order."""

    student: Shapes
    teacher: Shapes

    def chosen(self, wanted: Layers, key: str) -> tuple[str, ...]:
        """Return the layers that a key names or `auto` chooses. Raises InputError where there are none."""
        both = {name: shape for name, shape in self.teacher.items() if name in self.student}
        if wanted == "auto":
            if not both:
                raise InputError(
                    f"distill.{key}: found auto, but there is no layer that network and teacher both call {NO_MAPS}: "
                    f"remove {key}"
                )
            return last_at_each_size(both)
        for name in wanted:
            if name not in both:
                owner = "the teacher" if name in self.student else "the network that is trained"
                raise InputError(
                    f"distill.{key}: {owner} has no layer {name} that it calls {NO_MAPS} (removed blocks take their "
                    f"layers along); allowed: {first_names([*both]) or f'none, remove {key}'}"
                )
        return wanted


def hints_of(config: Distill, model: nn.Module, teacher: Distillation, given: Artifact, context: Context) -> Hints:
    """Return what a network is compared at with a teacher, which is run once on examples of its inputs.

    Raises InputError where a layer is missing, or its channels cannot be matched.
    """
    inputs = tuple(each.clone() for each in example_of(given, context))
    with seeded_random(), inference_mode(model), inference_mode(teacher.teacher):
        pair = _Pair(
            usable_maps(model, lambda: model(*inputs)),
            usable_maps(teacher.teacher, lambda: teacher.outputs(inputs)),
        )
    attention = pair.chosen(config.attention, "attention") if config.attention else ()
    features = pair.chosen(config.features, "features") if config.features else ()
    kept = _matched(features, pair, given, context) if features else {}
    told = [f"{what} of {', '.join(names)}" for what, names in (("features", kept), ("attention", attention)) if names]
    context.progress.note(f"distillation compares {' and '.join(told)}")
    return Hints(kept, attention, config.feature_weight, config.attention_weight)


def _matched(names: tuple[str, ...], pair: _Pair, given: Artifact, context: Context) -> dict[str, Tensor]:
    """Return for each layer the channels of the original's map that the network has kept."""
    for name in names:
        own, other = pair.student[name][2:], pair.teacher[name][2:]
        if own != other:
            raise InputError(
                f"distill.features: {name} has maps of {own[0]}x{own[1]} positions and the teacher's {other[0]}x"
                f"{other[1]}, because the network gets smaller images: use attention, which is resampled"
            )
    kept = _kept_channels(names, given, context)
    for name in names:
        if name not in kept or len(kept[name]) != pair.student[name][1]:
            raise InputError(
                f"distill.features: the {pair.student[name][1]} channels of {name} cannot be told among the "
                f"{pair.teacher[name][1]} of the original: leave {name} out, or use attention, which needs no match"
            )
    return {name: kept[name] for name in names}


def _kept_channels(names: tuple[str, ...], given: Artifact, context: Context) -> dict[str, Tensor]:
    """Follow the channels of the original's layers through its graph and the plan of the network."""
    original = load_network(context.original)
    captured = capture_graph(original, example_of(context.original, context))
    walked = trace_channels(captured).walk
    assert walked is not None  # noqa: S101 - for the type checker: a graph that was just traced has one
    with torch.no_grad(), recorded_maps(original, names) as maps:
        original(*(each.clone() for each in captured.example))
    shapes = {name: tuple(tensor.shape) for name, tensor in captured.stored.items()}
    return surviving_channels(walked, captured, composed_keep(edit_history(given), shapes), maps)
