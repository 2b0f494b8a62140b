"""Proof that the right channels were removed: the pruned network equals the original with those channels zeroed.

Both run in float64, where the two differ by rounding alone (about 1e-15) if, and only if, every removed slice and every
slice that read from it left together. Right values could hide a misplaced channel (all biases 0, all variances 1), so
both get the same disturbed values first, and batch norms the statistics of a random batch, which keep signals alive.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING

import torch
from torch import nn

from pipeline.compress.batchnorm import recalibrate
from pipeline.compress.inference import first_line, outputs, where
from pipeline.compress.tensors import masked, sliced, stored_tensors
from pipeline.core.errors import StageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from pipeline.compress.surgery import PrunePlan

TOLERANCE = 1e-9
BATCHES = 2

_ADVICE = (
    "Likely its forward holds a literal number of channels, such as x.view(-1, 800) or x[:, :32]. Take it from the "
    "tensor instead (x.flatten(1), x.shape[1]), or name the layers that come before it in `keep`."
)


@dataclass(frozen=True)
class Certificate:
    """Largest difference over `batches` random batches, and the largest output, both absolute."""

    max_error: float
    scale: float
    batches: int

    @property
    def relative_error(self) -> float:
        """The largest difference in units of the largest output."""
        return self.max_error / self.scale


def certify(original: nn.Module, pruned: nn.Module, plan: PrunePlan, example: Tensor) -> Certificate:
    """Check that `pruned` is `original` without what `plan` removes; neither is changed.

    `example` gives the shape [batch, ...] of the input, its values are not used.

    Raises:
        StageError: a tensor is not the slice that the plan states; the pruned network does not run, or its outputs
            have another shape or differ by more than 1e-9 of their scale; or all outputs are zero or infinite.

    Cost: copies of both networks in float64 and five forward passes.
    Limits: a channel that is silent for random inputs (a dead ReLU without batch norm) could be misplaced unseen.
    """
    _check_values(stored_tensors(original), stored_tensors(pruned), plan)
    generator = torch.Generator().manual_seed(0)
    batches = [torch.randn(max(2, len(example)), *example.shape[1:], generator=generator) for _ in range(1 + BATCHES)]
    statistics, *batches = (batch.to(example.device, torch.float64) for batch in batches)
    reference, candidate = deepcopy(original).double(), deepcopy(pruned).double()
    _disturb(reference, generator)
    tensors = stored_tensors(reference)
    _load(reference, {name: masked(tensors[name], keep) for name, keep in plan.keep.items()})
    try:
        recalibrate(reference, [statistics])
    except Exception as error:
        raise StageError(
            f"The certificate needs a network that runs in float64; it fails at {where(error)}: {first_line(error)}"
        ) from error
    _load(candidate, {name: sliced(tensor, plan.keep.get(name, {})) for name, tensor in tensors.items()})
    errors, scales = zip(*(_compare(reference, candidate, batch) for batch in batches), strict=True)
    certificate = Certificate(max(errors), max(scales), BATCHES)
    if not 0 < certificate.scale < inf:
        raise StageError(
            f"Random inputs give outputs of scale {certificate.scale}: nothing can be certified from them."
        )
    if not certificate.max_error <= TOLERANCE * certificate.scale:
        raise StageError(
            "The pruned network is not the original without the removed channels: outputs differ by "
            f"{certificate.max_error:.3g} at a scale of {certificate.scale:.3g}; expected less than {TOLERANCE:g} "
            f"of the scale. {_ADVICE}"
        )
    return certificate


def _check_values(original: Mapping[str, Tensor], pruned: Mapping[str, Tensor], plan: PrunePlan) -> None:
    for name, tensor in original.items():
        expected = sliced(tensor, plan.keep.get(name, {}))
        if name not in pruned or not torch.equal(pruned[name], expected):
            raise StageError(
                f"Tensor {name!r} of the pruned network is not what the plan keeps of the original: expected shape "
                f"{tuple(expected.shape)} and the original's values there."
            )


def _disturb(model: nn.Module, generator: torch.Generator) -> None:
    """Give every position of every tensor its own value; what is not negative (variances) stays so."""
    tensors = {id(tensor): tensor for tensor in stored_tensors(model).values() if tensor.is_floating_point()}
    with torch.no_grad():
        for tensor in tensors.values():
            vector = tensor.numel() == max(tensor.shape, default=1)
            size = max(tensor.square().mean().sqrt().item(), 1.0 if vector else 0.0) or 1.0
            factor, offset = torch.rand(2, *tensor.shape, generator=generator, dtype=torch.float64).to(tensor.device)
            signed = isinstance(tensor, nn.Parameter)
            tensor.mul_(0.75 + factor / 2).add_(offset - 0.5 if signed else offset, alpha=0.1 * size)


def _load(model: nn.Module, values: Mapping[str, Tensor]) -> None:
    tensors = stored_tensors(model)
    with torch.no_grad():
        for name, value in values.items():
            tensors[name].copy_(value)


def _compare(reference: nn.Module, candidate: nn.Module, batch: Tensor) -> tuple[float, float]:
    """Return the largest difference and the largest value of the outputs for one batch."""
    expected = outputs(reference, batch)
    try:
        found = outputs(candidate, batch)
    except Exception as error:
        raise StageError(
            f"The pruned network does not run: {first_line(error)} at {where(error)}. {_ADVICE}"
        ) from error
    shapes = [[tuple(tensor.shape) for tensor in tensors] for tensors in (expected, found)]
    if shapes[0] != shapes[1]:
        raise StageError(f"The pruned network's outputs have shapes {shapes[1]}, expected {shapes[0]}. {_ADVICE}")
    apart = max(float((left - right).abs().max()) for left, right in zip(expected, found, strict=True))
    return apart, max(float(tensor.abs().max()) for tensor in expected)
