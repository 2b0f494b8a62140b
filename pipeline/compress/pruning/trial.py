"""One step of training as a trial: what a pruned network has to be able to do as the original is.

The certificate is about the graph of evaluation. In training a network may compute other things: a second head, a
branch on `self.training`, statistics of a batch. One forward and backward pass of both networks shows whether the
pruned one still runs there, returns the same, and trains and updates the same tensors.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from pipeline.compress.pruning.certificate import DifferentError
from pipeline.compress.pruning.tensors import copied_network, stored_tensors
from pipeline.compress.pruning.untouched import restored_afterwards
from pipeline.compress.pruning.wide import double_precision, to_float64
from pipeline.compress.state.kept import ADVICE, kept_state
from pipeline.compress.training.inference import failing_line, forward_outputs, in_training, seeded_random
from pipeline.core.errors import InputError, StageError, first_line

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from torch import nn

    from pipeline.compress.pruning.certificate import Certificate, Reference
    from pipeline.compress.pruning.graph.exported import Example


@dataclass(frozen=True)
class TrainingStep:
    """What a step of training does.

    Attributes:
        error: why there is none, with the line of the code; empty if there is.
        outputs: the shapes of all tensors that the network returns.
        trained: the parameters that get a gradient.
        updated: the buffers that forward changes, such as running statistics.
    """

    error: str = ""
    outputs: tuple[tuple[int, ...], ...] = ()
    trained: frozenset[str] = frozenset()
    updated: frozenset[str] = frozenset()

    def among(self, names: Collection[str]) -> TrainingStep:
        """Return the same step of these tensors alone."""
        return replace(self, trained=self.trained & set(names), updated=self.updated & set(names))


class Trial:
    """A network that is to be pruned, and its step of training."""

    def __init__(self, model: nn.Module, example: Example) -> None:
        self.model, self._example, self._original = model, example, step(model, example)

    def complete(
        self, certificate: Certificate, reference: Reference, pruned: nn.Module, lost: Sequence[str] | None = None
    ) -> Certificate:
        """Return a certificate with what is known of training.

        Args:
            certificate: of evaluation.
            reference: what certified it.
            pruned: the pruned network.
            lost: noise that a rewritten network lacks; None for a network with its own forward.

        Raises:
            DifferentError: it fails where the original trains, or, with its own forward, does something else.
        """
        if self._original.error:
            return replace(certificate, training=f"not tried, the original fails there: {self._original.error}")
        found, names = step(pruned, self._example), stored_tensors(pruned)
        told = difference(self._original if lost is None else self._original.among(names), found)
        if told and (lost is None or found.error):
            raise DifferentError(f"The pruned network is not the original without the removed channels: {told}.")
        if told or lost:
            return replace(certificate, training=told or f"in training it lacks {', '.join(lost or ())}")
        try:
            compared = reference.compare_training(self.model, pruned)
        except DifferentError as error:
            if lost is None:
                raise
            return replace(certificate, training=f"in training its outputs are others: {error}")
        how = "outputs compared, one step tried" if compared else "one step tried"
        return replace(certificate, modes=(*certificate.modes, "training"), training=how)

    def check_repeatable(self) -> None:
        """Raise InputError for a network whose outputs differ from run to run: none could be compared with it."""
        try:
            with restored_afterwards(self.model), double_precision():
                wide = copied_network(self.model).double()
                first, second = (
                    forward_outputs(wide, tuple(to_float64(each) for each in self._example)) for _ in range(2)
                )
        except Exception:  # noqa: BLE001 - what does not run in float64 is told by the certificate
            return
        if not all(torch.equal(*pair) for pair in zip(first, second, strict=True)):
            said = "The network gives other outputs for the same input in every run of evaluation"
            if changed := kept_state(self.model, self._example):
                raise InputError(f"{said}: its forward changes {changed}. {ADVICE}.")
            raise InputError(
                f"{said}: its forward makes random choices. Expected a network that is repeatable after `eval()`."
            )

    def check_batches(self, pruned: nn.Module) -> None:
        """Check that a rewritten network takes the batches that the original takes: one image, and another number.

        Raises:
            StageError: it does not, because the network's code fixes the batch that it was captured with.
        """
        sizes = [len(each) for each in self._example if each.dim()]
        for size in (1, sizes[0] + 1) if sizes else ():
            batch = tuple(
                each[:1].expand(size, *each.shape[1:]).contiguous() if each.dim() else each for each in self._example
            )
            expected = _shapes_for(self.model, batch)
            if expected and all(shape[:1] == (size,) for shape in expected) and _shapes_for(pruned, batch) != expected:
                raise StageError(
                    f"The network accepts a batch of {size}, its graph does not: the code fixes the batch of "
                    f"{sizes[0]} that it was captured with, and its own forward cannot be kept. Exclude groups by "
                    "`keep`, or take the batch size from the input in forward."
                )


def step(model: nn.Module, example: Example) -> TrainingStep:
    """Run one forward and backward pass in training mode on a copy; random numbers are the same in every call.

    Cost: a copy of the network, and a step on a batch of the example.
    """
    try:
        copy = copied_network(model)
        copy.zero_grad(set_to_none=True)
        before = {name: tensor.clone() for name, tensor in copy.named_buffers()}
        with in_training(copy), torch.enable_grad(), seeded_random():
            found = copy(*(each.clone() for each in example))  # a forward may write into its input
            outputs = [leaf for leaf in tree_leaves(found) if isinstance(leaf, Tensor)]
            losses = [each.abs().square().mean() for each in outputs if each.requires_grad]
            if losses:
                torch.stack([loss.double() for loss in losses]).sum().backward()  # type: ignore[no-untyped-call]
    except Exception as error:  # noqa: BLE001 - any exception of the network's own code
        return TrainingStep(error=f"{first_line(error)} at {failing_line(error)}")
    tensors = stored_tensors(copy)
    return TrainingStep(
        outputs=tuple(tuple(each.shape) for each in outputs),
        trained=frozenset(name for name, tensor in tensors.items() if tensor.grad is not None),
        updated=frozenset(
            name for name, old in before.items() if name in tensors and not torch.equal(old, tensors[name])
        ),
    )


def difference(original: TrainingStep, pruned: TrainingStep) -> str:
    """Say what a pruned network does otherwise in training; empty for nothing, and where the original cannot train."""
    if original.error or original == pruned:
        return ""
    if pruned.error:
        return f"in training it fails: {pruned.error}"
    found = []
    if original.outputs != pruned.outputs:
        found.append(f"returns {_shapes(pruned.outputs)} instead of {_shapes(original.outputs)}")
    if lost := original.trained - pruned.trained:
        found.append(f"gives no gradient to {_names(lost)}")
    if stopped := original.updated - pruned.updated:
        found.append(f"does not update {_names(stopped)}")
    return f"in training it {', '.join(found)}" if found else ""


def _shapes_for(model: nn.Module, batch: Example) -> list[tuple[int, ...]]:
    """Return the shapes of what a network returns for a batch; none where it fails."""
    try:
        with restored_afterwards(model):
            return [tuple(each.shape) for each in forward_outputs(model, batch)]
    except Exception:  # noqa: BLE001 - a batch that it does not take
        return []


def _names(names: frozenset[str], most: int = 5) -> str:
    shown = sorted(names)
    return ", ".join(shown[:most]) + (f" and {len(shown) - most} more" if len(shown) > most else "")


def _shapes(shapes: tuple[tuple[int, ...], ...]) -> str:
    return " and ".join(str(list(shape)) for shape in shapes) or "nothing"
