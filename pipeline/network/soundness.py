"""Is a network one whose outputs can be compared: it takes the images, and says the same of an image each time.

Everything after it compares outputs: pruned with masked, exported with torch, quantized with float. A network that
draws random numbers in evaluation, or whose answer for an image depends on the images beside it, fails there for a
reason that only its own code tells.
"""

from __future__ import annotations

import traceback
from copy import deepcopy
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from pipeline.compress.state.kept import ADVICE, kept_state
from pipeline.compress.training.inference import forward_outputs, named_outputs
from pipeline.core.artifact import TensorSpec
from pipeline.core.errors import InputError
from pipeline.core.user_code import line_of, user_code_errors

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pipeline.core.task import Task

#: Largest difference, relative to scale, that the order of sums explains between two runs of the same network.
TOLERANCE = 1e-4
#: Classes that a message names.
NAMED = 4


def check_classifier(
    model: nn.Module, shape: tuple[int, ...], classes: Sequence[str], *, repeated: bool = False
) -> None:
    """Check that a network takes images of `shape` [N, C, H, W] and gives the same logits [N, classes] each time.

    `repeated` says that the images are grey [N, 1, H, W], and C channels only because the normalisation has C values.

    Raises:
        InputError: it does not; with the line of its code, or what it gave.
    """
    batch = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    try:
        with user_code_errors(f"the network does not accept images of shape {shape}", alone=True), torch.no_grad():
            found = model(batch.clone())
    except InputError as error:
        if repeated and _takes(model, batch[:, :1]):
            raise InputError(
                f"the network accepts images of 1 channel, not of shape {shape}: mean and std have {shape[1]} values, "
                f"so grey images become {shape[1]} channels; give mean and std of one value"
            ) from error.__cause__
        raise InputError(f"{error}. Check the network's code, model.arguments and data.size.") from error.__cause__
    expected = (shape[0], len(classes))
    if not isinstance(found, Tensor) or tuple(found.shape) != expected:
        got = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise InputError(
            f"the network gives {got} for a batch of {shape[0]}, but the data has {len(classes)} classes "
            f"({', '.join(classes[:NAMED])}{', ...' if len(classes) > NAMED else ''}), so {expected} is needed. "
            f"Give the number of classes in model.arguments."
        )
    if found.is_complex() or found.layout != torch.strided or found.device != batch.device:
        kind = f"{found.dtype}, {found.layout}, device {found.device}".replace("torch.", "")
        raise InputError(
            f"the network gives logits of the kind {kind}; expected real numbers in a dense tensor on {batch.device}"
        )
    if cause := _randomness(model, (batch,)):
        raise InputError(cause)


def check_network(model: nn.Module, task: Task, inputs: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
    """Check that a network takes the task's inputs and gives the same outputs each time; return these outputs.

    Outputs are named as the task does, else by the keys under which forward returns them, else output, output_2, ...

    Raises:
        InputError: it does not; with the line of its code, or what it gave.
    """
    batch = inputs[0].shape[0]
    if task.images is not None:
        classes = task.images.classes
        check_classifier(model, inputs[0].shape, classes, repeated=task.images.repeats_grey)
        return (TensorSpec(name=task.output_names[0], shape=(batch, len(classes))),)
    count = min(batch, task.count("train"))
    feeds = task.feeds("train", [place % count for place in range(batch)])
    given = tuple(torch.from_numpy(values) for values in feeds.values())
    shapes = ", ".join(f"{spec.name} {spec.dtype} {list(spec.shape)}" for spec in inputs)
    with user_code_errors(f"the network does not accept the task's inputs ({shapes})", alone=True), torch.no_grad():
        found = model(*(each.clone() for each in given))
    outputs = named_outputs(found, task.output_names)
    wrong = {name: list(each.shape) for name, each in outputs.items() if each.shape[:1] != (batch,)}
    if wrong or not outputs:
        raise InputError(
            f"the network gives {wrong or type(found).__name__} for {batch} samples, expected outputs whose first "
            "dimension is that of the samples"
        )
    if both := outputs.keys() & feeds.keys():
        raise InputError(f"the network's output {', '.join(sorted(both))} has the name of an input: name it otherwise")
    check = getattr(task.kit, "check_outputs", None)
    if check and (problems := check({name: tuple(each.shape[1:]) for name, each in outputs.items()})):
        raise InputError(f"the network does not fit the task {task.kind}: {'; '.join(problems)}")
    compare = getattr(task.kit, "check_input", None)
    if compare:
        sizes = [{name: tuple(each.shape[1:]) for name, each in which.items()} for which in (outputs, feeds)]
        if problems := compare(*sizes):
            raise InputError(f"the network does not fit the task {task.kind}: {'; '.join(problems)}")
    if cause := _randomness(model, given):
        raise InputError(cause)
    return tuple(
        TensorSpec(name=name, shape=tuple(each.shape), dtype=str(each.dtype).removeprefix("torch."))
        for name, each in outputs.items()
    )


def _randomness(model: nn.Module, given: tuple[Tensor, ...]) -> str:
    """Return why two evaluations of the same batch differ, with the line that draws random numbers; empty if equal."""
    if not _apart(forward_outputs(model, given), forward_outputs(model, given)):
        return ""
    with _Drawn() as drawn:
        forward_outputs(model, given)
    said = "two runs of the network on the same images give different outputs"
    if drawn.operator:
        return (
            f"the network is random in evaluation: {said}. It draws random numbers "
            f"({drawn.operator}{drawn.line and ' at '}{drawn.line}). Expected none in evaluation: F.dropout needs "
            "training=self.training (its default is on), or use nn.Dropout"
        )
    if changed := kept_state(model, given):
        return f"the network keeps state in evaluation: {said}, and its forward changes {changed}. {ADVICE}"
    return (
        f"{said}, torch drew no random numbers, and nothing in the network has changed: its forward uses random or "
        "numpy.random, or something outside it, such as a global variable"
    )


def batch_mixing(model: nn.Module, batch: tuple[Tensor, ...]) -> str:
    """Return why an image's output depends on the other images in its batch, with the layers at fault; else empty.

    `batch` has all inputs, each [N, ...].
    """
    together = forward_outputs(model, batch)
    alone = [forward_outputs(model, one) for one in _each_alone(batch)]
    if not _apart(together, [torch.cat(parts) for parts in zip(*alone, strict=True)]):
        return ""
    if cause := _randomness(model, batch):
        return cause
    if _rounded(model, batch):
        return (
            "its sums are rounded otherwise for one image than for several, by more than is allowed: some values are "
            "so large that float32 holds little of the rest. Look for biases or inputs of a million and more"
        )
    norms = [
        f"{name or 'the network'} ({type(module).__name__})"
        for name, module in model.named_modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is None  # noqa: SLF001 - as in batchnorm.py
    ]
    said = "the output for an image depends on the other images in the batch"
    if norms:
        return (
            f"{said}: {', '.join(norms[:NAMED])} has no running statistics and uses those of the batch in evaluation "
            "too. Expected constant statistics: track_running_stats=True and training with it, or GroupNorm"
        )
    if changed := kept_state(model, batch):
        return f"{said}, and its forward changes {changed}, as a norm does that is left in training mode. {ADVICE}"
    return f"{said}: its forward computes across images, such as a mean over dimension 0"


def _rounded(model: nn.Module, batch: tuple[Tensor, ...]) -> bool:
    """Say whether an image's output depends on the other images in its batch by the rounding of float32 alone."""
    if not all(each.is_floating_point() for each in (*batch, *model.parameters())):
        return False
    wide, images = deepcopy(model).double(), tuple(each.double() for each in batch)
    try:
        together = forward_outputs(wide, images)
        alone = [forward_outputs(wide, one) for one in _each_alone(images)]
    except (RuntimeError, TypeError):  # a network that makes float32 tensors itself cannot be asked
        return False
    return not _apart(together, [torch.cat(parts) for parts in zip(*alone, strict=True)])


def _each_alone(batch: tuple[Tensor, ...]) -> list[tuple[Tensor, ...]]:
    """Return the inputs [1, ...] of each image of a batch."""
    return [tuple(each[place : place + 1] for each in batch) for place in range(len(batch[0]))]


def _takes(model: nn.Module, batch: Tensor) -> bool:
    """Say whether a network takes a batch, whatever its code raises where it does not."""
    try:
        with user_code_errors("", alone=True), torch.no_grad():
            model(batch.clone())
    except InputError:
        return False
    return True


class _Drawn(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Keeps the first operator that draws random numbers, and the line of the network's code that called it."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operator, self.line = "", ""

    def __torch_dispatch__(
        self,
        func: Any,  # noqa: ANN401 - as torch declares it
        types: Any,  # noqa: ANN401
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        del types
        if not self.operator and torch.Tag.nondeterministic_seeded in func.tags:
            self.operator = str(func.overloadpacket).rpartition(".")[2]
            self.line = line_of(traceback.extract_stack())
        return func(*args, **(kwargs or {}))


def _apart(first: Sequence[Tensor], second: Sequence[Tensor]) -> bool:
    """Say whether two runs differ by more than rounding, or by their shapes."""
    for one, other in zip(first, second, strict=True):
        if one.shape != other.shape:
            return True
        scale = float(one[one.isfinite()].abs().max()) if one.isfinite().any() else 0.0
        if not torch.allclose(one, other, rtol=0, atol=TOLERANCE * scale, equal_nan=True):
            return True
    return False
