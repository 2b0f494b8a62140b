"""Loads a model definition by path: a Python file that exposes `build(**arguments) -> nn.Module`.

The user's definitions and ours are loaded the same way, each under a module name of its own, so that no folder needs
to be on the import path and no registry is needed. A definition is one self-contained file; it may import installed
packages. The networks of timm, torchvision and transformers are such definitions too: see `pipeline.network.library`.
"""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, library, nn
from torch.nn.parameter import is_lazy

from pipeline.core.errors import InputError
from pipeline.core.user_code import import_file, user_code_errors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from types import ModuleType

    from pipeline.core.artifact import TensorSpec

Result = TypeVar("Result")

#: Namespace of torchvision's compiled operators.
DETECTION = "torchvision"


def build_network(definition: Path, arguments: Mapping[str, Any], origin: Path | None = None) -> nn.Module:
    """Import the file and call its `build`; the network comes in eval mode, float32.

    A copy of a definition that reads files takes itself for the one at `origin`: its `__file__` is that.

    Raises InputError, with the line and what the code itself said, when that does not give a network.
    """
    given = ", ".join(f"{name}={value!r}" for name, value in arguments.items())
    with _as_it_was():
        module = _imported(definition, origin)
        if not callable(getattr(module, "build", None)):
            raise InputError(
                f"model definition {definition} has no function build(**arguments) that returns a torch nn.Module"
            )
        with user_code_errors(f"{definition}: build({given}) failed", alone=True):
            model = _with_operators(partial(module.build, **arguments))
    model = getattr(model, "_orig_mod", model)  # torch.compile's wrapper
    if not isinstance(model, nn.Module):
        raise InputError(f"{definition}: build() returned {type(model).__name__}, expected a torch nn.Module")
    if isinstance(model, torch.jit.ScriptModule):
        raise InputError(f"{definition}: build() returned TorchScript, expected the nn.Module that it was made from")
    if any(getattr(stream, "closed", False) for stream in (sys.stdout, sys.stderr)):
        raise InputError(
            f"{definition}: it closes standard output or error, which carry the results: expected both open"
        )
    with user_code_errors(f"{definition}: the network cannot be put into evaluation mode and float32", alone=True):
        _check_tensors(model, definition)
        model.float()
        model.eval()  # not chained: a `train` of the user's may return nothing
    return model


def initialise_lazy_layers(model: nn.Module, inputs: Sequence[TensorSpec]) -> None:
    """Give layers that are made without their sizes (nn.LazyConv2d) those that `inputs` ask for, in place.

    Raises InputError when the network does not run with such inputs.
    """
    if not any(is_lazy(each) for each in (*model.parameters(), *model.buffers())):
        return
    shapes = [(max(1, spec.shape[0]), *spec.shape[1:]) for spec in inputs]
    zeros = [torch.zeros(shape, dtype=getattr(torch, spec.dtype)) for shape, spec in zip(shapes, inputs, strict=True)]
    with (
        user_code_errors(f"the network's lazy layers cannot be given sizes by inputs of {shapes}", alone=True),
        torch.no_grad(),
    ):
        model(*zeros)


def _check_tensors(model: nn.Module, definition: Path) -> None:
    """Raise InputError for tensors that nothing can prune, store or export, and for state that is no tensor."""
    for name, tensor in model.state_dict().items():
        if not isinstance(tensor, Tensor):
            found = f"keeps state of type {type(tensor).__name__} (get_extra_state), expected only tensors: buffers"
        elif tensor.is_meta and torch.get_default_device().type != "meta":  # else the caller wants shapes alone
            found = "is on the meta device and holds no values, expected one on the CPU: build without that device"
        elif tensor.layout is not torch.strided:
            found = f"is sparse ({tensor.layout}), expected a dense tensor: .to_dense()"
        elif tensor.is_quantized:
            found = f"is quantized by torch ({tensor.dtype}), expected the float network: the stage quantize makes int8"
        else:
            continue
        raise InputError(f"{definition}: build() returned a network whose {name} {found}")


def _imported(definition: Path, origin: Path | None) -> ModuleType:
    try:
        with user_code_errors(f"model definition {definition} cannot be imported", alone=True):
            return _with_operators(partial(import_file, definition, "secateur_model", origin))
    except InputError as error:
        cause = error.__cause__
        if not isinstance(cause, ModuleNotFoundError):
            raise
        advice = _import_advice(definition, (cause.name or "").partition(".")[0])
        raise InputError(f"{error}{advice}") from cause


@contextmanager
def _as_it_was() -> Iterator[None]:
    """Undo what importing and building may set for the whole program: torch's defaults, gradients, the folder."""
    kept = torch.get_default_dtype(), torch.get_default_device(), torch.is_grad_enabled(), Path.cwd()
    try:
        yield
    finally:
        dtype, device, gradients, folder = kept
        torch.set_default_dtype(dtype)
        if torch.get_default_device() != device:  # setting it would outlive a caller's `with torch.device(...)`
            torch.set_default_device(device if device.type != "cpu" else None)
        torch.set_grad_enabled(gradients)
        os.chdir(folder)


def _import_advice(definition: Path, package: str) -> str:
    """Say what to do about a module that is not found: a definition is stored and loaded as one file."""
    beside = [name for name in (f"{package}.py", package) if (definition.parent / name).exists()]
    if not beside:
        return f". Install it: pip install {package}"
    return (
        f". {beside[0]} is next to it, but a definition is one file: put what it needs into that file, or install "
        f"{package}"
    )


def _with_operators(action: Callable[[], Result]) -> Result:
    """Return what `action` gives, also where torchvision's wheel was made for another build of torch.

    Its Python part then stops at the first operator of its compiled part, which no network for classification runs.
    Declaring these operators is enough; it is done after the failure alone, since a wheel that fits declares its own.
    """
    try:
        return action()
    except Exception as error:
        cause: BaseException | None = error
        while cause and f"operator {DETECTION}::" not in str(cause):
            cause = cause.__cause__ or cause.__context__
        if cause is None:
            raise
        _declare(DETECTION)
        return action()


@cache
def _declare(namespace: str) -> None:
    """Declare, without an implementation, the operators that torchvision names while it is imported."""
    for name in ("nms", "qnms"):
        library.define(f"{namespace}::{name}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
