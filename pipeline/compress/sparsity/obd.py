"""Optimal brain damage: the loss by the diagonal of its second derivatives, h w^2 / 2 for each weight.

Source: LeCun, Denker and Solla, Optimal Brain Damage, NeurIPS 1989, with their Levenberg-Marquardt (Gauss-Newton)
approximation: derivatives of second order only from the loss at the outputs. For one layer of a network of ReLUs and
maxima the outputs are piecewise linear in each weight, so that this is the diagonal of the Hessian itself. Differs:
their pass backwards leaves out products of different units; here it is exact, by one pass for each output.

The diagonal leaves out how weights make up for one another, and first derivatives: use it on a trained network. It does
not help where the network fits the samples so well that few of them have a loss that bends.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pipeline.compress.pruning.importance.gradients import differentiable_weights
from pipeline.compress.sparsity.layer_inputs import unfolded_inputs
from pipeline.core.errors import InputError, StageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from torch import nn

    from pipeline.compress.sparsity.layer_inputs import Layer

#: Passes backwards for each batch at most; networks with more outputs get that many random mixtures of them.
COLUMNS = 16
#: Outputs of one sample, whose second derivatives are held as a square matrix.
MOST_OUTPUTS = 2048
#: Numbers of single samples' gradients that are held at once.
_CHUNK = 2**22


def curvature_diagonal(
    model: nn.Module,
    layers: Mapping[str, Layer],
    batches: Iterable[tuple[tuple[Tensor, ...], Any]],
    loss: Callable[[Any, Any], Tensor],
    *,
    seed: int = 0,
) -> dict[str, Tensor]:
    """Return the diagonal of the Gauss-Newton matrix of the mean loss, float64 of each weight's shape by layer.

    Per sample it is sum over c of (s_c^T dz/dw)^2, with the columns s_c of a root of the loss's Hessian at the outputs
    z. Up to `COLUMNS` outputs that is exact; with more the s_c are random signs times that root, which is right in the
    mean. Where the loss bends down, its Hessian's negative eigenvalues count as zero.

    Args:
        model: in evaluation mode, so that samples do not know of each other; gives one tensor [N, ...].
        layers: see `matrix_layers`; a layer that is called several times counts with the sum of its gradients.
        batches: inputs and targets.
        loss: (outputs, targets) -> the mean over the batch of a loss of each sample, twice differentiable.
        seed: of the random signs.

    Raises:
        InputError: no batch.
        StageError: the network gives several tensors, or more than `MOST_OUTPUTS` numbers for one sample.

    Cost: one forward pass and at most `COLUMNS` backward passes on each batch.
    """
    sums = {name: torch.zeros_like(layer.weight, dtype=torch.float64) for name, layer in layers.items()}
    generator, count = torch.Generator().manual_seed(seed), 0
    for inputs, targets in batches:
        with torch.enable_grad(), differentiable_weights(model.parameters()), _recorded(layers) as calls:
            outputs = _single(model(*inputs))
            for column in _columns(outputs, targets, loss, generator):
                _add_squares(sums, layers, calls, outputs, column)
        count += len(inputs[0])
    if not count:
        raise InputError("Second derivatives need at least one batch of calibration data.")
    return {name: total / count for name, total in sums.items()}


def weight_saliency(weight: Tensor, curvature: Tensor) -> Tensor:
    """Return h w^2 / 2 for each weight, float64: the predicted increase of the loss without it."""
    return curvature.double() * weight.double().square() / 2


def _single(outputs: Any) -> Tensor:  # noqa: ANN401 - what forward returns
    if not isinstance(outputs, Tensor):
        raise StageError("obd needs a network with one output: use block_fisher, which needs a loss alone.")
    if outputs[0].numel() > MOST_OUTPUTS:
        raise StageError(
            f"obd needs at most {MOST_OUTPUTS:,} outputs for a sample, this network has {outputs[0].numel():,}: "
            "use block_fisher."
        )
    return outputs


def _columns(
    outputs: Tensor,
    targets: Any,  # noqa: ANN401 - as the loss has them
    loss: Callable[[Any, Any], Tensor],
    generator: torch.Generator,
) -> Iterator[Tensor]:
    """Yield columns, each of the outputs' shape, whose outer products sum to the loss's Hessian of each sample."""
    z = outputs.detach().clone().requires_grad_()
    (first,) = torch.autograd.grad(loss(z, targets) * len(z), z, create_graph=True)
    flat = first.reshape(len(z), -1)
    rows = [torch.autograd.grad(flat[:, c].sum(), z, retain_graph=True)[0] for c in range(flat.shape[1])]
    hessian = torch.stack([row.reshape(len(z), -1) for row in rows], 1).double()
    values, vectors = torch.linalg.eigh((hessian + hessian.transpose(1, 2)) / 2)
    root = vectors * values.clamp(min=0).sqrt()[:, None]
    if root.shape[2] > COLUMNS:
        signs = torch.randint(0, 2, (len(z), root.shape[2], COLUMNS), generator=generator).double() * 2 - 1
        root = root @ signs.to(root.device) / COLUMNS**0.5
    for column in root.unbind(2):
        yield column.to(outputs.dtype).reshape(outputs.shape)


def _add_squares(
    sums: Mapping[str, Tensor],
    layers: Mapping[str, Layer],
    calls: Mapping[str, list[tuple[Tensor, Tensor]]],
    outputs: Tensor,
    column: Tensor,
) -> None:
    """Add the squares of each sample's gradient of column * outputs."""
    given = [result for each in calls.values() for _, result in each]
    found = iter(torch.autograd.grad(outputs, given, column, retain_graph=True, materialize_grads=True))
    for name, each in calls.items():
        layer, gradients = layers[name], [next(found) for _ in each]
        size = max(1, _CHUNK // layer.weight.numel())
        for start in range(0, len(column), size):
            part = slice(start, start + size)
            single = sum(
                (_sample_gradients(layer, x[part], g[part]) for (x, _), g in zip(each, gradients, strict=True)),
                start=torch.zeros(()),
            )
            sums[name] += single.double().square().sum(0).reshape(layer.weight.shape)


def _sample_gradients(layer: Layer, x: Tensor, gradient: Tensor) -> Tensor:
    """Return the gradient of each sample by a layer's weight, [N, G, O, K], from that by its output."""
    patches = unfolded_inputs(layer, x)
    groups = patches.shape[1]
    if gradient.dim() == x.dim() and layer.weight.dim() == 2:  # noqa: PLR2004 - linear: channels are last
        by_channel = gradient.reshape(len(x), 1, -1, gradient.shape[-1]).transpose(2, 3)
    else:
        by_channel = gradient.reshape(len(x), groups, gradient.shape[1] // groups, -1)
    return by_channel @ patches.transpose(2, 3)


@contextmanager
def _recorded(layers: Mapping[str, Layer]) -> Iterator[dict[str, list[tuple[Tensor, Tensor]]]]:
    """Within the block, collect input and output of each call; later layers that write in place get a copy."""
    calls: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in layers}

    def hook(name: str, given: tuple[Tensor, ...], result: Tensor) -> Tensor:
        calls[name].append((given[0].detach().clone(), result))
        return result.clone()

    hooks = [
        layer.register_forward_hook(lambda _, given, result, name=name: hook(name, given, result))
        for name, layer in layers.items()
    ]
    try:
        yield calls
    finally:
        for each in hooks:
            each.remove()
