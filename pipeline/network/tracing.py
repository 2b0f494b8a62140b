"""What the pruning engine gets of an artifact and of a run: example inputs of its shapes, and images of the data."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from pipeline.compress.pruning.samples import Samples
from pipeline.core.errors import InputError

if TYPE_CHECKING:
    from pipeline.compress.pruning.graph.capture import CapturedGraph
    from pipeline.compress.pruning.graph.exported import Example
    from pipeline.core.artifact import Artifact, TensorSpec
    from pipeline.core.stage import Context


def example_of(given: Artifact, context: Context | None = None) -> Example:
    """Return a batch of two for each input. Of numbers only the shapes matter.

    Integers, such as tokens and masks, are those of two training samples where a context is given, else zero: not every
    network computes anything from zeros alone.

    Raises InputError when a size beside the batch is not fixed.
    """
    if any(min(spec.shape[1:], default=0) < 1 for spec in given.inputs):
        found = ", ".join(f"{spec.name} {spec.shape}" for spec in given.inputs)
        raise InputError(
            f"Channels can be followed only if inputs have fixed sizes apart from the batch; found {found}"
        )
    generator = torch.Generator().manual_seed(0)
    made = {spec.name: _example(spec, generator) for spec in given.inputs}
    whole = [spec.name for spec in given.inputs if not getattr(torch, spec.dtype).is_floating_point]
    if whole and context is not None:
        feeds = context.task().feeds("train", range(2))
        made |= {name: torch.from_numpy(feeds[name]) for name in whole}
    return tuple(made.values())


def samples_of(captured: CapturedGraph, context: Context, images: int, batch: int) -> Samples:
    """Return samples of the run's task, drawn with its seed, in batches that the network takes."""
    fixed = len(captured.example[0])
    size = batch if captured.dynamic else fixed
    names = tuple(output.name for output in context.original.outputs) or ("logits",)
    return Samples(context.task, images, size, context.seed, drop_last=not captured.dynamic, output_names=names)


def _example(spec: TensorSpec, generator: torch.Generator) -> torch.Tensor:
    """Return normal numbers, or zeros where the input has integers: zero is a valid index."""
    shape, dtype = (2, *spec.shape[1:]), getattr(torch, spec.dtype)
    return (
        torch.randn(shape, generator=generator, dtype=dtype)
        if dtype.is_floating_point
        else torch.zeros(shape, dtype=dtype)
    )
