"""Proof that the right channels were removed: the pruned network equals the original with those channels zeroed.

Both run in float64, where the two differ by rounding alone (about 1e-15) if, and only if, every removed slice and every
slice that read from it left together. Right values could hide a misplaced channel (all biases 0, all variances 1), so
both get the same disturbed values first, and batch norms the statistics of a random batch, which keep signals alive.

The reference is the captured graph with zeros in all removed slices. Statistics over channels (layer norm, softmax)
go over the channels that stay there too; where that is not the same as with zeros in the others, the certificate says
so: that network is the original only up to these statistics.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_leaves

from pipeline.compress.inference import first_line, inference, outputs, where
from pipeline.compress.masking import DoubleRun, MaskedRun, disturbed
from pipeline.compress.tensors import sliced, stored_tensors
from pipeline.core.errors import StageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.compress.capture import Captured
    from pipeline.compress.graph_walk import Walk
    from pipeline.compress.surgery import PrunePlan

TOLERANCE = 1e-9


class DifferentError(StageError):
    """The pruned network is not the original without the removed channels."""


@dataclass(frozen=True)
class Certificate:
    """Largest difference over a batch of random inputs, and the largest output, both absolute.

    `statistics`: the operators whose statistics now go over fewer channels, by layer.
    """

    max_error: float
    scale: float
    statistics: tuple[str, ...]

    @property
    def relative_error(self) -> float:
        """The largest difference in units of the largest output."""
        return self.max_error / self.scale


class Reference:
    """What a pruned network has to compute, worked out once on the captured graph.

    Cost: two forward passes in float64. Tensors are widened one at a time.
    """

    def __init__(self, captured: Captured, walk: Walk, plan: PrunePlan, silent: frozenset[str] = frozenset()) -> None:
        """Run the original with zeros in the removed slices, and in the results of the nodes named in `silent`.

        Raises:
            StageError: it does not run in float64, or all outputs are zero or infinite.
        """
        generator = torch.Generator().manual_seed(0)
        calibration, self.batch = (
            tuple(_random_like(tensor, generator) for tensor in captured.example) for _ in range(2)
        )
        self._stored, self._plan = captured.stored, plan
        self._names = {alias: name for name, aliases in captured.aliases.items() for alias in aliases}
        run = MaskedRun(captured, walk, plan, silent)
        try:
            with torch.no_grad():
                run.renew = True
                run.run(*calibration)
                run.renew = False
                run.changed.clear()
                self.outputs = _leaves(run.run(*self.batch))
        except Exception as error:
            raise StageError(
                f"The certificate needs a network that runs in float64; it fails: {first_line(error)}"
            ) from error
        self.statistics, self._renewed = tuple(dict.fromkeys(run.changed)), run.renewed
        self.scale = _largest(self.outputs)
        if not 0 < self.scale < inf:
            raise StageError(f"Random inputs give outputs of scale {self.scale}: nothing can be certified from them.")

    def certify(self, pruned: nn.Module) -> Certificate:
        """Compare a pruned network, which is not changed.

        Raises:
            DifferentError: it does not run, or its outputs have another shape or differ by more than 1e-9 of their
                scale.

        Limits: a channel that is silent for random inputs (a dead ReLU without batch norm) could be misplaced unseen.
        """
        candidate = deepcopy(pruned).double()
        with torch.no_grad():
            for name, tensor in stored_tensors(candidate).items():
                if (known := self._names.get(name, name)) in self._stored:
                    self._load(known, tensor)
        found = self._run(candidate)
        shapes = [[tuple(tensor.shape) for tensor in tensors] for tensors in (self.outputs, found)]
        if shapes[0] != shapes[1]:
            raise DifferentError(f"The pruned network's outputs have shapes {shapes[1]}, expected {shapes[0]}.")
        pairs = zip(self.outputs, found, strict=True)
        error = _largest([left - right for left, right in pairs])
        if not error <= TOLERANCE * self.scale:
            raise DifferentError(
                "The pruned network is not the original without the removed channels: outputs differ by "
                f"{error:.3g} at a scale of {self.scale:.3g}; expected less than {TOLERANCE:g} of the scale."
            )
        return Certificate(error, self.scale, self.statistics)

    def _load(self, name: str, tensor: Tensor) -> None:
        """Give a tensor of the pruned network the values that the reference had."""
        whole = self._renewed[name] if name in self._renewed else disturbed(name, self._stored[name])
        expected = sliced(whole, self._plan.keep.get(name, {}))
        if tensor.shape != expected.shape:
            raise DifferentError(f"Tensor {name!r} has shape {tuple(tensor.shape)}, expected {tuple(expected.shape)}.")
        tensor.copy_(expected)

    def _run(self, candidate: nn.Module) -> list[Tensor]:
        try:
            if isinstance(candidate, fx.GraphModule):
                with inference(candidate):
                    return _leaves(DoubleRun(candidate).run(*self.batch))
            return [tensor.double() for tensor in outputs(candidate, self.batch) if tensor.is_floating_point()]
        except Exception as error:
            raise DifferentError(f"The pruned network does not run: {first_line(error)} at {where(error)}.") from error


def _largest(tensors: Sequence[Tensor]) -> float:
    """Return the largest absolute number of all tensors, NaN where there is one; 0 where there is no number."""
    found = [tensor.abs().max() for tensor in tensors if tensor.numel()]
    return float(torch.stack(found).max()) if found else 0.0


def check_values(captured: Captured, pruned: nn.Module, plan: PrunePlan) -> None:
    """Check that every tensor of `pruned` is what the plan keeps of the original's.

    Raises:
        DifferentError: a tensor has another shape or other values.
    """
    names = {alias: name for name, aliases in captured.aliases.items() for alias in aliases}
    for name, tensor in stored_tensors(pruned).items():
        known = names.get(name, name)
        if known in captured.stored:
            expected = sliced(captured.stored[known], plan.keep.get(known, {}))
            if not torch.equal(tensor, expected):
                raise DifferentError(
                    f"Tensor {name!r} of the pruned network is not what the plan keeps of the original: expected shape "
                    f"{tuple(expected.shape)} and the original's values there."
                )


def _leaves(output: Any) -> list[Tensor]:  # noqa: ANN401 - any structure of tensors
    """Return the outputs that are numbers, in order."""
    return [leaf.double() for leaf in tree_leaves(output) if isinstance(leaf, Tensor) and leaf.is_floating_point()]


def _random_like(example: Tensor, generator: torch.Generator) -> Tensor:
    """Return normal numbers, or for integers values of the example in another order."""
    if example.is_floating_point():
        return torch.randn(example.shape, generator=generator, dtype=torch.float64).to(example.device)
    chosen = torch.randint(example.numel(), example.shape, generator=generator).to(example.device)
    return example.flatten()[chosen]
