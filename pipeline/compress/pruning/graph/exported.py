"""`torch.export` of a network for any batch, without a trace in the network and with errors that name its code."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.export import Dim
from torch.export.graph_signature import InputKind, OutputKind
from torch.fx.experimental.symbolic_shapes import is_concrete_int
from torch.utils._pytree import tree_map_only

from pipeline.compress.pruning.untouched import restored_afterwards
from pipeline.compress.training.inference import failing_line, in_training, inference_mode
from pipeline.core.errors import InputError, first_line
from pipeline.core.quiet import quiet_libraries
from pipeline.core.user_code import error_origin

if TYPE_CHECKING:
    from torch import nn
    from torch.export import ExportedProgram


#: One tensor for each input of the network, the batch first.
Example = tuple[Tensor, ...]
#: What torch warns of when it meets the flat weights of an LSTM.
_FLAT = r"The tensor attributes? self\."


def export_program(model: nn.Module, example: Example, *, training: bool = False) -> ExportedProgram:
    """Export in evaluation or in training mode.

    Where that fixes the batch, once more with another: forward may keep something for the last one that it saw. Then by
    torch's reading of the code itself, which keeps a size through `int(sizes / windows)`.

    Raises:
        InputError: the network cannot be exported; the message names the line of its code.
    """
    program = _export(model, example, training)
    if any_batch(program):
        return program
    more, most = (tuple(torch.cat([each, *[each[:1]] * n]) if each.dim() else each for each in example) for n in (1, 2))
    for inputs, strict in ((more, False), (example, True)):
        try:
            other = _export(model, inputs, training, strict=strict)
        except InputError:  # a literal batch: Captured.dynamic says so
            continue
        if any_batch(other) and not _literal(program, other) and _runs(other, model, most):
            return other
    return program


def _literal(program: ExportedProgram, other: ExportedProgram) -> bool:
    """Say whether an output of both has one batch as a number."""
    sizes = (_first_sizes(each, OutputKind.USER_OUTPUT) for each in (program, other))
    return any(is_concrete_int(size) and size == before for before, size in zip(*sizes, strict=True))


def _runs(program: ExportedProgram, model: nn.Module, inputs: Example) -> bool:
    """Say whether the program takes a batch that it was not made with: conditions on the batch are hidden in it."""
    try:
        with restored_afterwards(model), torch.no_grad(), torch.random.fork_rng(devices=()):
            program.module()(*inputs)
    except Exception:  # noqa: BLE001 - sizes that do not fit, as any operator tells it
        return False
    return True


def any_batch(program: ExportedProgram) -> bool:
    """Say whether no input's first size is a number."""
    return not any(map(is_concrete_int, _first_sizes(program, InputKind.USER_INPUT)))


def _first_sizes(program: ExportedProgram, kind: InputKind | OutputKind) -> list[Any]:
    signature = program.graph_signature
    names = [spec.arg.name for spec in (*signature.input_specs, *signature.output_specs) if spec.kind is kind]
    values = {node.name: node.meta.get("val") for node in program.graph.nodes}
    shapes = [value.shape for name in names if isinstance(value := values.get(name), Tensor)]
    return [shape[0] for shape in shapes if len(shape)]


def _export(model: nn.Module, example: Example, training: bool, *, strict: bool = False) -> ExportedProgram:  # noqa: FBT001
    try:
        mode = in_training(model) if training else inference_mode(model)
        with restored_afterwards(model), mode, torch.no_grad(), quiet_libraries(_FLAT, UserWarning):
            return torch.export.export(model, example, dynamic_shapes=_free_batch(model, example), strict=strict)
    except BaseException as error:
        _refuse(error)
        raise


def _refuse(error: BaseException) -> None:
    """Say why a network cannot be exported: what its own code raised, or what torch.export does not take."""
    found = error_origin(error, layers=False)
    if found and found.own:
        raise InputError(f"The network cannot be exported: its code fails for the example: {found}") from error
    if not isinstance(error, Exception):
        return
    place = failing_line(error)
    raise InputError(
        f"The network cannot be exported: torch.export says {first_line(error)!r}"
        f"{'' if place.startswith('an unknown') else f' at {place}'}. Expected a forward of tensors without "
        "branches or sizes that depend on their values: torch.where instead of `if`, masks instead of x[x > 0]; "
        "torch.export.draft_export(model, inputs) lists every such place."
    ) from error


def _free_batch(model: nn.Module, example: Example) -> dict[str, Any]:
    """Return for each argument of forward that the first size of its tensors is free; `*args` is one tuple."""
    given = inspect.signature(model.forward).bind(*example).arguments
    shapes: dict[str, Any] = tree_map_only(Tensor, lambda each: {0: Dim.AUTO} if each.dim() else {}, given)
    return shapes
