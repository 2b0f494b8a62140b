"""Second moments of layers' inputs, as many at once as fit into memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.compress.factorization.moments import input_moments, input_size, moment_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor, nn

    from pipeline.compress.pruning.samples import Samples

#: Bytes of Gram matrices that are held at once, and the inputs of the largest one.
_BYTES, _MOST_INPUTS = 2**30, 8192


class InputMoments:
    """Gives layers' Gram matrices, by one pass over the images for as many as may be held at once."""

    def __init__(self, model: nn.Module, samples: Samples) -> None:
        """Take a network, which must stay as it is, and the images."""
        self.model, self.samples = model, samples
        self.too_large: list[str] = []
        self._held: dict[str, Tensor] = {}

    def of(self, layers: Mapping[str, nn.Module]) -> Iterator[tuple[str, Tensor | None]]:
        """Yield each layer's name and matrix [P, P]; None, and a place in `too_large`, for more than 8192 inputs."""
        large = [name for name, layer in layers.items() if input_size(layer) > _MOST_INPUTS]
        self.too_large = [*dict.fromkeys((*self.too_large, *large))]
        yield from ((name, None) for name in large)
        for part in _parts({name: layer for name, layer in layers.items() if name not in large}):
            if not part.keys() <= self._held.keys():
                self._held = {}  # before the next ones are made
                batches = (inputs for inputs, _ in self.samples.training())
                self._held = input_moments(self.model, part, batches, self.samples.images, self.samples.seed)
            yield from ((name, self._held[name]) for name in part)


def _parts(layers: Mapping[str, nn.Module]) -> Iterator[dict[str, nn.Module]]:
    """Yield the layers in parts whose matrices fit into memory together."""
    part: dict[str, nn.Module] = {}
    taken = 0
    for name, layer in layers.items():
        if part and taken + moment_bytes(layer) > _BYTES:
            yield part
            part, taken = {}, 0
        part[name] = layer
        taken += moment_bytes(layer)
    if part:
        yield part
