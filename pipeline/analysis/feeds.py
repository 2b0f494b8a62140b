"""What a file is run on while it is looked at: given samples, or random numbers where there are none."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.core.errors import InputError
from pipeline.core.feeds import feed_slices

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from pipeline.core.artifact import TensorSpec
    from pipeline.core.feeds import Feeds

    Feed = dict[str, NDArray[Any]]


def sample_feeds(inputs: Sequence[TensorSpec], samples: Feeds, label: str) -> list[Feed]:
    """Return one call after the other that shows the samples to a file, at its own batch; a dynamic batch is one.

    Raises:
        InputError: the file does not take inputs of the samples' names and shapes.
    """
    shapes = {name: values.shape[1:] for name, values in samples.items()}
    if shapes.keys() != {spec.name for spec in inputs} or not all(_fits(s.shape[1:], shapes[s.name]) for s in inputs):
        found = ", ".join(f"{spec.name} {list(spec.shape)}" for spec in inputs)
        given = ", ".join(f"{name} of shape {list(shape)}" for name, shape in shapes.items())
        raise InputError(f"{label} takes {found}; {given} do not fit. Name its recipe")
    cast = {spec.name: samples[spec.name].astype(spec.dtype, copy=False) for spec in inputs}
    return list(feed_slices(cast, max(inputs[0].shape[0], 1)))


def random_feeds(inputs: Sequence[TensorSpec], count: int, seed: int) -> list[Feed]:
    """Return calls with random inputs: numbers of a normal distribution; whole numbers and truth values are zero.

    Shapes must be fixed except for the batch. `count` is rounded up to a multiple of the file's batch.
    """
    generator = np.random.default_rng(seed)
    batch = max(inputs[0].shape[0], 1)
    return [{spec.name: _random(spec, batch, generator) for spec in inputs} for _ in range(0, count, batch)]


def fixed_inputs(inputs: Sequence[TensorSpec], shapes: Sequence[tuple[int, ...]], label: str) -> tuple[TensorSpec, ...]:
    """Return the inputs with every size that the file leaves open, the batch aside, taken from `shapes` [batch, ...].

    Raises:
        InputError: a size is open and not given, or what is given does not fit.
    """
    if shapes and len(shapes) != len(inputs):
        raise InputError(f"{label} has {len(inputs)} inputs, found {len(shapes)} --input: give one for each, or none")
    found = []
    for index, spec in enumerate(inputs):
        given = shapes[index][1:] if shapes else spec.shape[1:]
        if any(size < 1 for size in given) or not all(spec.shape[:1]) or not _fits(spec.shape[1:], given):
            asked = f", found {list(given)}" if shapes else ""
            raise InputError(
                f"{label}: input {spec.name} has shape {list(spec.shape)}{asked}. Give the open sizes, without the "
                "batch: --input 3,224,224"
            )
        found.append(spec.model_copy(update={"shape": (spec.shape[0] if spec.shape else 1, *given)}))
    return tuple(found)


def _fits(declared: Sequence[int], given: Sequence[int]) -> bool:
    return len(declared) == len(given) and all(a in {-1, b} for a, b in zip(declared, given, strict=True))


def _random(spec: TensorSpec, batch: int, generator: np.random.Generator) -> NDArray[Any]:
    shape = (batch if spec.shape[:1] == (-1,) else spec.shape[0], *spec.shape[1:]) if spec.shape else ()
    if np.issubdtype(np.dtype(spec.dtype), np.floating):
        return generator.standard_normal(shape).astype(spec.dtype)
    return np.zeros(shape, spec.dtype)
