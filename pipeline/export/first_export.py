"""Whether the network that a recipe starts from and its first export mean the same, before anything is built on it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from pipeline.core.errors import StageError
from pipeline.core.task import score_of, statistics_of
from pipeline.core.user_code import user_code_errors
from pipeline.export.execution import torch_outputs
from pipeline.export.other_sizes import network_outputs, require_other_sizes
from pipeline.export.parity import FLOAT32_TOLERANCE, relative
from pipeline.onnx_graph.execution import onnx_outputs

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from torch import Tensor, nn

    from pipeline.core.task import Task

#: Samples on which they are compared.
STARTING_SAMPLES = 64
#: The share of a score that rounding may change: an answer that stood on the edge.
_EDGE = 0.02
_UNKNOWN = "its code does something in torch that an exported graph does not, such as a choice by values"


def require_same_start(
    model: nn.Module,
    file: Path,
    task: Task,
    output_names: Sequence[str],
    cause: Callable[[tuple[Tensor, ...]], str] = lambda _: "",
) -> None:
    """Compare a network with its FP32 export on some validation samples: outputs, predictions and the score.

    `cause` says of inputs, each [N, ...], why the network is another one in torch, or nothing.

    Outputs that are not finite in torch are left to the evaluation, which says how many samples have none.

    Raises:
        InputError: the network, or its export, does not take the sizes that its task leaves open.
        StageError: outputs differ by more than rounding explains, with the name of the first that does; or the score
            of their predictions does.
    """
    places = range(min(STARTING_SAMPLES, task.count("validation")))
    feeds = task.feeds("validation", places)
    both = torch_outputs(model, feeds), onnx_outputs(file, feeds)
    if not all(np.isfinite(each).all() for each in both[0]):
        return
    for name, one, other in zip(output_names, *both, strict=True):
        if one.dtype.kind == "f" and (apart := relative(one, other)) > FLOAT32_TOLERANCE:
            why = cause(tuple(map(torch.from_numpy, feeds.values()))) or _UNKNOWN
            raise StageError(
                f"the network and its FP32 export differ in the output {name} by {apart:.1e} of its scale on "
                f"{len(places)} validation samples, allowed is {FLOAT32_TOLERANCE:.0e}: {why}"
            )
    require_other_sizes(task, network_outputs(model), lambda given: onnx_outputs(file, given), FLOAT32_TOLERANCE)
    metric, targets = task.metrics[0], task.targets("validation", places)
    with user_code_errors(f"the metric {metric.name} cannot be computed for the network as it was given"):
        scores = [
            score_of(
                metric, statistics_of(metric, task.predictions(dict(zip(output_names, each, strict=True))), targets)
            )
            for each in both
        ]
    scale = 1.0 if task.judged.is_share else max(map(abs, scores))
    if abs(scores[0] - scores[1]) > _EDGE * scale:
        raise StageError(
            f"the network's {metric.name} on {len(places)} validation samples is {scores[0]:.4g}, that of its FP32 "
            f"export {scores[1]:.4g}, although their outputs agree: decode or the metric depends on more than they give"
        )
