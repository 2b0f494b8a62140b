"""Penalties that make channels small while a network trains, so that little is lost when they are removed afterwards.

Each adds the gradient of its penalty to that of the loss before the optimizer's step. A channel is a class of a group:
its weights are all parameters that would leave with it, the input side of the next layers included. Where one class
owns rows and columns of the same matrix, their common weights count twice.

With AdamW the optimizer divides these gradients by their own size, which blurs the strength: SGD follows it exactly.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import defaultdict
from typing import TYPE_CHECKING

import torch
from torch import nn

from pipeline.compress.training.training import Regulariser
from pipeline.core.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from pipeline.compress.pruning.graph import Group

    #: One dimension of one parameter, with the groups that own slices of it and where: positions [width, k].
    Slots = dict[tuple[str, int], list[tuple[str, Tensor]]]

#: A channel counts as near zero when its norm is less than this fraction of the largest in its group.
_NEAR_ZERO = 0.01


def squared_norms(groups: Sequence[Group], parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the sum of squares of the parameters of each class, [width] by group. Buffers do not count."""
    slots = _slots(groups, parameters)
    norms = {group.name: torch.zeros(group.width) for group in groups}
    for (tensor, dim), owners in slots.items():
        weight = parameters[tensor].detach()
        along = weight.square().transpose(0, dim).flatten(1).sum(1) if weight.ndim > 1 else weight.square()
        for name, positions in owners:
            norms[name] = norms[name].to(along) + along[positions].sum(1)
    return norms


def near_zero(groups: Sequence[Group], parameters: Mapping[str, Tensor]) -> int:
    """Return how many channels have a norm of less than 1 % of the largest in their group."""
    norms = squared_norms(groups, parameters).values()
    return sum(int((norm < _NEAR_ZERO**2 * norm.max()).sum()) for norm in norms)


class ClassPenalty(Regulariser, ABC):
    """A penalty whose gradient is a factor for each class times the weights of that class."""

    keep_last = True

    def __init__(self, groups: Sequence[Group]) -> None:
        self.groups = tuple(groups)
        self._found: Slots | None = None

    @abstractmethod
    def factors(self, parameters: Mapping[str, Tensor], step: int) -> Mapping[str, Tensor]:
        """Return the factors, [width] by group; groups that are left out are not penalised."""

    @torch.no_grad()
    def add_gradients(self, model: nn.Module, step: int) -> None:
        """Add factor times weight to the gradients in place; a weight that several classes own gets all of theirs."""
        parameters = dict(model.named_parameters(remove_duplicate=False))
        factors = self.factors(parameters, step)
        if self._found is None:
            self._found = _slots(self.groups, parameters)
        for (tensor, dim), owners in self._found.items():
            weight = parameters[tensor]
            if weight.grad is None:
                continue
            along = weight.new_zeros(weight.shape[dim])
            for name, positions in owners:
                if name in factors:
                    each = factors[name].to(along)[:, None].expand(positions.shape)
                    along.index_add_(0, positions.flatten(), each.flatten())
            weight.grad.addcmul_(weight, along.view([-1 if axis == dim else 1 for axis in range(weight.ndim)]))


class GroupNorm(ClassPenalty):
    """Group lasso, strength * sum of gamma * ||w||, or its square, strength * sum of gamma * ||w||^2, over all classes.

    gamma = 2^(alpha * (s_max - s) / (s_max - s_min)), s a class's squared norm among those of its group: the weaker a
    channel is, the harder it is pushed. It is renewed before each epoch and is constant within; 1 everywhere with
    alpha 0.

    Source: group lasso on channels, Wen et al. (Learning Structured Sparsity, NeurIPS 2016); gamma and the square from
    the sparse training of DepGraph (Fang et al., CVPR 2023), which takes alpha 4.
    Cost: one pass over the weights each step.
    """

    def __init__(self, groups: Sequence[Group], strength: float, *, alpha: float, squared: bool = False) -> None:
        super().__init__(groups)
        self.strength, self.alpha, self.squared = strength, alpha, squared
        self.gamma: dict[str, Tensor] = {}

    def begin_epoch(self, model: nn.Module) -> None:
        """Renew gamma."""
        norms = squared_norms(self.groups, dict(model.named_parameters(remove_duplicate=False)))
        self.gamma = {name: _gamma(norm, self.alpha) for name, norm in norms.items()}

    def value(self, model: nn.Module) -> float:
        """Return the penalty."""
        norms = squared_norms(self.groups, dict(model.named_parameters(remove_duplicate=False)))
        sizes = {name: norm if self.squared else norm.sqrt() for name, norm in norms.items()}
        return self.strength * sum(float((self.gamma[name] * size).sum()) for name, size in sizes.items())

    def factors(self, parameters: Mapping[str, Tensor], step: int) -> Mapping[str, Tensor]:  # noqa: ARG002 - for all steps alike
        """Return 2 * strength * gamma for squares, and strength * gamma / norm for norms; 0 where all weights are."""
        if self.squared:
            return {name: 2 * self.strength * gamma for name, gamma in self.gamma.items()}
        sizes = {name: norm.sqrt() for name, norm in squared_norms(self.groups, parameters).items()}
        return {
            name: torch.where(size > 0, self.strength * self.gamma[name] / size, 0.0) for name, size in sizes.items()
        }


class GrowingL2(ClassPenalty):
    """A weight decay on chosen channels alone that grows until they are gone.

    The decay starts at `increment`, rises by it every `every` steps and stops at `ceiling`. All other channels have
    time to take over what the chosen ones do.

    Source: GReg-1, Wang et al., Neural Pruning via Growing Regularization, ICLR 2021 (increment 1e-4, ceiling 1).
    Differs: acts on everything that leaves with a channel, not on its filter alone.
    """

    def __init__(
        self,
        groups: Sequence[Group],
        kept: Mapping[str, Sequence[int]],
        *,
        increment: float,
        every: int,
        ceiling: float,
    ) -> None:
        """Take the groups and which of their classes are not to be pushed; groups that are not named are left alone."""
        super().__init__([group for group in groups if group.name in kept])
        self.increment, self.every, self.ceiling = increment, every, ceiling
        self.chosen = {group.name: torch.ones(group.width) for group in self.groups}
        for name, chosen in self.chosen.items():
            chosen[list(kept[name])] = 0

    def decay(self, step: int) -> float:
        """Return the decay of the chosen channels at a step, counted from 0."""
        return min(self.ceiling, self.increment * (1 + step // self.every))

    def factors(self, parameters: Mapping[str, Tensor], step: int) -> Mapping[str, Tensor]:  # noqa: ARG002 - of any size
        """Return the decay for the chosen, 0 for the others."""
        return {name: self.decay(step) * chosen for name, chosen in self.chosen.items()}


class BatchNormScale(Regulariser):
    """strength * sum of |gamma| over the scales of batch norms whose channels can be removed.

    Source: network slimming, Liu et al., ICCV 2017 (strength 1e-4 for VGG, 1e-5 for ResNet and DenseNet). The gradient
    at 0 is 0. Goes with the criterion `bn_scale`.
    """

    keep_last = True

    def __init__(self, groups: Sequence[Group], model: nn.Module, strength: float) -> None:
        """Take the groups and the network whose batch norms are meant. Raises InputError when there is none."""
        norms = {
            f"{name}.weight" if name else "weight"
            for name, module in model.named_modules()
            if isinstance(module, nn.modules.batchnorm._BatchNorm)  # noqa: SLF001 (the only common class)
        }
        self.strength = strength
        self.positions = {
            tensor: torch.unique(torch.cat([positions.flatten() for _, positions in owners]))
            for (tensor, _), owners in _slots(groups, dict(model.named_parameters(remove_duplicate=False))).items()
            if tensor in norms
        }
        if not self.positions:
            raise InputError(
                "bn_scale needs batch norms with a scale on channels that can be removed; found none. Use group_lasso."
            )

    @torch.no_grad()
    def add_gradients(self, model: nn.Module, step: int) -> None:  # noqa: ARG002 - for all steps alike
        """Add strength * sign(gamma)."""
        parameters = dict(model.named_parameters(remove_duplicate=False))
        for tensor, positions in self.positions.items():
            weight = parameters[tensor]
            if weight.grad is not None:
                where = positions.to(weight.device)
                weight.grad.index_add_(0, where, weight[where].sign(), alpha=self.strength)


def _gamma(norm: Tensor, alpha: float) -> Tensor:
    spread = norm.max() - norm.min()
    return torch.ones_like(norm) if float(spread) == 0 else 2 ** (alpha * (norm.max() - norm) / spread)


def _slots(groups: Sequence[Group], parameters: Mapping[str, Tensor]) -> Slots:
    slots: Slots = defaultdict(list)
    for group in groups:
        for member in group.members:
            if member.tensor in parameters:
                positions = torch.from_numpy(member.positions).to(parameters[member.tensor].device)
                slots[member.tensor, member.dim].append((group.name, positions))
    return slots
