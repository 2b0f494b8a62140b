"""Second moments of what layers get: for each the mean of x xᵀ over inputs x, of convolutions over patches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn.functional import pad
from torch.nn.modules.conv import _ConvNd

from pipeline.compress.factorization.legs import layer_matrix, padding_of
from pipeline.compress.training.inference import forward_hooks, inference_mode

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from torch import Tensor

#: Rows of inputs for a Gram matrix: at least so many, and so many for each of its rows, where there are as many.
_ROWS, _PER_INPUT = 16_384, 8


@dataclass
class _Sum:
    total: Tensor
    rows: int = 0


def input_size(layer: nn.Module) -> int:
    """Return P, the inputs of one output: of a convolution the values of a patch."""
    return layer_matrix(layer)[0].numel()


def input_moments(
    model: nn.Module, layers: Mapping[str, nn.Module], batches: Iterable[tuple[Tensor, ...]], images: int, seed: int
) -> dict[str, Tensor]:
    """Return the Gram matrix [P, P], float64, of each of these layers of a network, which is left as it was.

    Of convolutions some patches of each image are taken, drawn with `seed`; of other layers some rows: enough that the
    matrix is known to some percent, spread evenly over all `images`.

    Cost: one pass over the batches, and 2·P² operations for each row.
    """
    sums = {name: _Sum(torch.zeros(input_size(layer), input_size(layer)).double()) for name, layer in layers.items()}
    generator = torch.Generator().manual_seed(seed)

    def hook_of(name: str) -> Any:  # noqa: ANN401 - as torch declares hooks
        def hook(layer: nn.Module, inputs: tuple[Tensor, ...], _: object) -> None:
            kept = sums[name]
            per_image = -(-max(_ROWS, _PER_INPUT * len(kept.total)) // images)
            rows = input_rows(layer, inputs[0], per_image * samples, generator).double()
            kept.total += rows.T @ rows
            kept.rows += len(rows)

        return hook

    with inference_mode(model), forward_hooks(layers.items(), hook_of):
        for batch in batches:
            samples = len(batch[0])
            model(*(each.clone() for each in batch))
    return {name: each.total / max(each.rows, 1) for name, each in sums.items()}


def input_rows(layer: nn.Module, value: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Return about `count` rows [M, P] of what a layer got, or all: vectors, or patches as its kernel sees them."""
    if isinstance(layer, _ConvNd):
        whole = value if value.dim() == len(layer.kernel_size) + 2 else value[None]
        return _patches(layer, whole, -(-count // len(whole)), generator)
    rows = value.detach().reshape(-1, value.shape[-1])
    if len(rows) <= count:
        return rows
    return rows[torch.randperm(len(rows), generator=generator)[:count]]


def _patches(layer: _ConvNd, images: Tensor, each: int, generator: torch.Generator) -> Tensor:
    """Return patches [B·T, C·K..] at `each` places, the same in all images, with the padding that the layer adds."""
    margins = padding_of(layer)
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    sides = [side for pair in reversed(margins) for side in pair]
    padded = pad(images.detach(), sides, mode) if any(sides) else images.detach()
    places = _places(layer, padded.shape[2:], each, generator)
    index: tuple[Any, ...] = (slice(None), slice(None), *places)
    patches = padded[index]  # [B, C, T, K..]
    return patches.movedim(2, 1).flatten(2).flatten(0, 1)


def _places(layer: _ConvNd, sizes: Sequence[int], each: int, generator: torch.Generator) -> list[Tensor]:
    """Return for each axis the indices [T, K..] of the values in T patches."""
    axes = range(len(sizes))
    reach = [layer.dilation[axis] * (layer.kernel_size[axis] - 1) for axis in axes]
    counts = [(sizes[axis] - reach[axis] - 1) // layer.stride[axis] + 1 for axis in axes]
    total = int(torch.tensor(counts).prod())
    chosen = torch.randperm(total, generator=generator)[:each] if total > each else torch.arange(total)
    starts = torch.unravel_index(chosen, tuple(counts))
    found = []
    for axis in axes:
        steps = layer.dilation[axis] * torch.arange(layer.kernel_size[axis])
        shape = [-1 if other == axis else 1 for other in axes]
        found.append(starts[axis].reshape(-1, *(1 for _ in axes)) * layer.stride[axis] + steps.reshape(1, *shape))
    return found


def moment_bytes(layer: nn.Module) -> int:
    """Return the bytes of a layer's Gram matrix."""
    return 8 * input_size(layer) ** 2
