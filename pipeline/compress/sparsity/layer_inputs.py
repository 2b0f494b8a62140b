"""What a layer's inputs say about its weights: Hessians of the layer's own output error, and weights as matrices.

A convolution is a linear layer on patches of its input, so it has the matrix [groups, outputs, inputs * kernel] and one
Hessian for each group. A layer that the network calls several times sees the inputs of all calls.
"""

from __future__ import annotations

import math
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional

from pipeline.core.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from torch import Tensor

#: Layers whose weights are a matrix on patches of the input.
MATRIX_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d)
Layer = nn.Linear | nn.Conv1d | nn.Conv2d
#: Float64 numbers of unfolded inputs that are held at once, 32 MiB, where that is more than one sample.
CHUNK = 2**22


def matrix_layers(model: nn.Module, names: Iterable[str]) -> dict[str, Layer]:
    """Return the layers of these names. Raises InputError naming one that has no matrix on its inputs."""
    found: dict[str, Layer] = {}
    for name in names:
        layer = model.get_submodule(name)
        if not isinstance(layer, MATRIX_LAYERS):
            raise InputError(
                f"Layer {name} is a {type(layer).__name__}: second-order methods know Linear, Conv1d and Conv2d. "
                "Leave it dense."
            )
        found[name] = layer
    return found


def weight_matrix(layer: Layer, weight: Tensor | None = None) -> Tensor:
    """Return a layer's weight, or another tensor of its shape, as float64 [G, O, K]: groups, outputs of one, inputs.

    K runs over positions of the kernel within one input channel first, as torch stores weights.
    """
    values = layer.weight.detach() if weight is None else weight
    groups = getattr(layer, "groups", 1)
    return values.double().reshape(groups, len(values) // groups, -1)


def channels_last(layer: Layer) -> Tensor:
    """Return the order of a matrix's columns in which input channels run fastest, int64 [K], for N:M patterns."""
    channels = layer.weight.shape[1]
    return torch.arange(layer.weight[0].numel()).reshape(channels, -1).T.reshape(-1)


def hessian_bytes(layers: Mapping[str, Layer]) -> int:
    """Return the bytes of the Hessians of all layers: 8 * groups * K^2 each (K = 4,608 takes 170 MB)."""
    return sum(8 * getattr(layer, "groups", 1) * layer.weight[0].numel() ** 2 for layer in layers.values())


def input_hessians(
    model: nn.Module, layers: Mapping[str, Layer], batches: Iterable[tuple[Tensor, ...]]
) -> dict[str, Tensor]:
    """Return H = (2 / N) * sum of x x^T over all positions of N samples, float64 [G, K, K] by layer.

    With d the change of a row of weights, d^T H d / 2 is the sum of squared changes of that output over its positions,
    the mean over samples: the loss that all methods of a layer's own outputs minimise.

    Source: Frantar, Singh and Alistarh, Optimal Brain Compression, NeurIPS 2022, section 3, with patches for
    convolutions and one matrix for each group.
    Raises: InputError when there are no samples, and for a layer that never runs.
    Cost: one forward pass in evaluation mode; `hessian_bytes` of memory.
    """
    sums = {name: layer.weight.new_zeros(_gram_shape(layer), dtype=torch.float64) for name, layer in layers.items()}
    seen, count = set[str](), 0

    def add(name: str, layer: Layer, x: Tensor) -> None:
        seen.add(name)
        for part in torch.split(x.detach(), _samples_at_once(layer, x)):
            patches = unfolded_inputs(layer, part).double().transpose(0, 1).transpose(1, 2).flatten(2)  # [G, K, N * L]
            sums[name] += patches @ patches.transpose(1, 2)

    with _watched(layers, add), torch.no_grad():
        for batch in batches:
            model(*batch)
            count += len(batch[0])
    if not count:
        raise InputError("Hessians of layers need at least one batch of calibration data.")
    if missing := [name for name in layers if name not in seen]:
        raise InputError(f"The network's forward never calls layer {missing[0]}: leave it dense.")
    return {name: total * (2 / count) for name, total in sums.items()}


def unfolded_inputs(layer: Layer, x: Tensor) -> Tensor:
    """Return what each position of a layer's output is made of: [N, G, K, L], in the order of `weight_matrix`.

    Args:
        layer: linear on [N, ..., K] (or [K]), or a convolution with any stride, padding, dilation and groups.
        x: its input, with the axis of samples.
    """
    if isinstance(layer, nn.Linear):
        return x.reshape(len(x), 1, -1, x.shape[-1]).transpose(2, 3)
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    padded = functional.pad(x, layer._reversed_padding_repeated_twice, mode=mode)  # noqa: SLF001 - as its forward does
    ones = (1,) * (2 - len(layer.kernel_size))  # a sequence is an image of height 1
    image = padded[:, :, None] if ones else padded
    columns = functional.unfold(
        image, (*ones, *layer.kernel_size), dilation=(*ones, *layer.dilation), stride=(*ones, *layer.stride)
    )
    return columns.reshape(len(x), layer.groups, layer.weight[0].numel(), -1)


def _gram_shape(layer: Layer) -> tuple[int, int, int]:
    width = layer.weight[0].numel()
    return getattr(layer, "groups", 1), width, width


def _samples_at_once(layer: Layer, x: Tensor) -> int:
    """Return how many samples are unfolded together: `CHUNK` numbers, at least one sample."""
    kernel = 1 if isinstance(layer, nn.Linear) else math.prod(layer.kernel_size)
    return max(1, CHUNK // max(1, x[0].numel() * kernel))


@contextmanager
def _watched(layers: Mapping[str, Layer], add: Callable[[str, Layer, Tensor], None]) -> Iterator[None]:
    """Within the block `add` gets the input of each call of a layer."""
    hooks = [
        layer.register_forward_pre_hook(lambda _, given, name=name, layer=layer: add(name, layer, given[0]))
        for name, layer in layers.items()
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
