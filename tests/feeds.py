"""What networks of one input are given in tests: `input`, unless another name is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipeline.core.artifact import TensorSpec

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from pipeline.core.feeds import Feeds


def image_input(shape: Sequence[int]) -> tuple[TensorSpec, ...]:
    """Return the one input [N, ...] of a network that takes images."""
    return (TensorSpec(name="input", shape=tuple(shape)),)


def fed(values: NDArray[Any], name: str = "input") -> Feeds:
    """Return samples [N, ...] as the one input of a network."""
    return {name: values}
