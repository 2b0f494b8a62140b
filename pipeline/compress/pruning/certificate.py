"""Proof that the right channels were removed: the pruned network equals the original with those channels zeroed.

Both run in float64, where the two differ by rounding alone (about 1e-15) if, and only if, every removed slice and every
slice that read from it left together. Right values could hide a misplaced channel (all biases 0, all variances 1), so
both get the same disturbed values first, and batch norms the statistics of a random batch, which keep signals alive.

The reference is the captured graph with zeros in all removed slices. Statistics over channels (layer norm, softmax)
go over the channels that stay there too; where that is not the same as with zeros in the others, the certificate says
so: that network is the original only up to these statistics.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from pipeline.compress.pruning.masking import MaskedRun, reference_values
from pipeline.compress.pruning.tensors import copied_network, masked, sliced, stored_tensors
from pipeline.compress.pruning.wide import double_precision, to_float64
from pipeline.compress.training.inference import failing_line, in_training, inference_mode, seeded_random
from pipeline.core.errors import StageError, first_line

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from contextlib import AbstractContextManager

    from pipeline.compress.pruning.graph.capture import CapturedGraph
    from pipeline.compress.pruning.graph.exported import Example
    from pipeline.compress.pruning.graph.walk import Walk
    from pipeline.compress.pruning.surgery import Keep, PrunePlan

TOLERANCE = 1e-9
#: How many random batches are tried until one gives outputs that are not all zero.
_BATCHES = 5


class DifferentError(StageError):
    """The pruned network is not the original without the removed channels."""


@dataclass(frozen=True)
class Certificate:
    """Largest difference over a batch of random inputs, and the largest output, both absolute.

    `statistics`: the operators whose statistics now go over fewer channels, by layer. `modes`: those that it
    covers ("evaluation", "training"). `training`: how that was found out, or what is otherwise there (see trial.py).
    """

    max_error: float
    scale: float
    statistics: tuple[str, ...]
    modes: tuple[str, ...] = ("evaluation",)
    training: str = ""

    @property
    def relative_error(self) -> float:
        """The largest difference in units of the largest output."""
        return self.max_error / self.scale


class Reference:
    """What a pruned network has to compute, worked out once on the captured graph.

    Cost: two forward passes in float64. Tensors are widened one at a time.
    """

    def __init__(
        self, captured: CapturedGraph, walk: Walk, plan: PrunePlan, silent: frozenset[str] = frozenset()
    ) -> None:
        """Run the original with zeros in the removed slices, and in the results of the nodes named in `silent`.

        Raises:
            StageError: it does not run in float64, or all outputs are zero or infinite for each of five batches.
        """
        self._captured, self._walk, self.plan, self._silent = captured, walk, plan, silent
        self._names = {alias: name for name, aliases in captured.aliases.items() for alias in aliases}
        for seed in range(_BATCHES):
            self.outputs = self._evaluate(seed)
            self.scale = _largest(self.outputs)
            if 0 < self.scale < inf:
                break
        else:
            raise StageError(f"Random inputs give outputs of scale {self.scale}: nothing can be certified from them.")

    def _evaluate(self, seed: int) -> list[Tensor]:
        """Return the outputs in evaluation for a batch, with running statistics of another one."""
        generator = torch.Generator().manual_seed(seed)
        calibration, self.batch = (
            tuple(_random_like(tensor, generator) for tensor in self._captured.example) for _ in range(2)
        )
        run = MaskedRun(self._captured, self._walk, self.plan, self._silent)
        try:
            with torch.no_grad(), double_precision():
                run.renew = True
                run.run(*_copies(calibration))
                run.renew = False
                run.changed.clear()
                found = _leaves(run.run(*_copies(self.batch)))
        except Exception as error:
            raise StageError(
                f"The certificate needs a network that runs in float64; it fails: {first_line(error)}"
            ) from error
        self.statistics, self._renewed = tuple(dict.fromkeys(run.changed)), run.renewed
        return found

    def certify(self, pruned: nn.Module) -> Certificate:
        """Compare a pruned network, which is not changed.

        Raises:
            DifferentError: it does not run, or its outputs have another shape or differ by more than 1e-9 of their
                scale.

        Limits: a channel that is silent for random inputs (a dead ReLU without batch norm) could be misplaced unseen.
        """
        error = _compared(self.outputs, self._run(self._filled(pruned, self.plan.keep), inference_mode), "")
        return Certificate(error, self.scale, self.statistics)

    def compare_training(self, model: nn.Module, pruned: nn.Module) -> bool:
        """Compare a pruned network with the original in training, by its own code; say whether that is possible.

        It is not where statistics go over fewer channels, weights are computed, or the original fails in float64.

        Raises:
            DifferentError: as `certify`.

        Cost: a copy of both networks in float64 with a forward pass each.
        """
        if self.statistics or self._silent or self._captured.precise:
            return False
        try:
            original = self._filled(model, {})
            with torch.no_grad():
                for name, tensor in stored_tensors(original).items():
                    tensor.copy_(masked(tensor, self.plan.keep.get(self._names.get(name, name), {})))
            expected = self._run(original, in_training)
        except DifferentError:
            return False
        if not 0 < _largest(expected) < inf:
            return False
        _compared(expected, self._run(self._filled(pruned, self.plan.keep), in_training), " in training")
        return True

    def _filled(self, model: nn.Module, keep: Mapping[str, Keep]) -> nn.Module:
        candidate = _widened(model)
        with torch.no_grad():
            for name, tensor in stored_tensors(candidate).items():
                if (known := self._names.get(name, name)) in self._captured.stored:
                    self._load(known, tensor, keep.get(known, {}))
        return candidate

    def _load(self, name: str, tensor: Tensor, keep: Keep) -> None:
        """Give a tensor of the pruned network the values that the reference had."""
        whole = self._renewed[name] if name in self._renewed else reference_values(self._captured, name)
        expected = sliced(whole, keep)
        if tensor.shape != expected.shape:
            raise DifferentError(f"Tensor {name!r} has shape {tuple(tensor.shape)}, expected {tuple(expected.shape)}.")
        tensor.copy_(expected)

    def _run(self, candidate: nn.Module, mode: Callable[[nn.Module], AbstractContextManager[None]]) -> list[Tensor]:
        try:
            with mode(candidate), torch.no_grad(), double_precision(), seeded_random():
                return _leaves(candidate(*_copies(self.batch)))
        except Exception as error:
            raise DifferentError(
                f"The pruned network does not run: {first_line(error)} at {failing_line(error)}."
            ) from error


def _copies(batch: Example) -> Example:
    """Return the inputs of one run: a forward may write into them."""
    return tuple(each.clone() for each in batch)


def _widened(model: nn.Module) -> nn.Module:
    """Return a copy in double precision, plain attributes included."""
    wide = copied_network(model).double()
    for module in wide.modules():
        for name, value in list(vars(module).items()):
            if isinstance(value, Tensor):
                vars(module)[name] = to_float64(value)
    return wide


def _compared(expected: list[Tensor], found: list[Tensor], mode: str) -> float:
    """Return the largest difference. Raises DifferentError when it is more than the tolerance, or the shapes differ."""
    shapes = [[tuple(tensor.shape) for tensor in tensors] for tensors in (expected, found)]
    if shapes[0] != shapes[1]:
        raise DifferentError(f"The pruned network's outputs{mode} have shapes {shapes[1]}, expected {shapes[0]}.")
    scale = _largest(expected)
    error = _largest([left - right for left, right in zip(expected, found, strict=True)])
    if not error <= TOLERANCE * scale:
        raise DifferentError(
            f"The pruned network is not the original without the removed channels: outputs{mode} differ by "
            f"{error:.3g} at a scale of {scale:.3g}; expected less than {TOLERANCE:g} of the scale."
        )
    return error


def _largest(tensors: Sequence[Tensor]) -> float:
    """Return the largest absolute number of all tensors, NaN where there is one; 0 where there is no number."""
    found = [tensor.abs().max() for tensor in tensors if tensor.numel()]
    return float(torch.stack(found).max()) if found else 0.0


def check_values(captured: CapturedGraph, pruned: nn.Module, plan: PrunePlan) -> None:
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
    """Return the outputs that are numbers, in order; complex ones as pairs."""
    tensors = [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor)]
    real = [torch.view_as_real(each.resolve_conj()) if each.is_complex() else each for each in tensors]
    return [each.double() for each in real if each.is_floating_point()]


def _random_like(example: Tensor, generator: torch.Generator) -> Tensor:
    """Return normal numbers, or for integers values of the example in another order."""
    if example.is_floating_point():
        return torch.randn(example.shape, generator=generator, dtype=torch.float64).to(example.device)
    chosen = torch.randint(example.numel(), example.shape, generator=generator).to(example.device)
    return example.flatten()[chosen]
