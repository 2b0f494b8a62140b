"""Loads a model definition by path: a Python file that exposes `build(**arguments) -> nn.Module`.

The user's definitions and ours are loaded the same way, each under a module name of its own, so that no folder needs
to be on the import path and no registry is needed. A definition is one self-contained file; it may import installed
packages. The networks of timm, torchvision and transformers are such definitions too: see `pipeline.core.library`.
"""

from __future__ import annotations

import hashlib
import importlib.util
from functools import cache, partial
from typing import TYPE_CHECKING, Any, TypeVar

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, library, load, nn

from pipeline.core.errors import InputError
from pipeline.outside_state import restore, split, words

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

Result = TypeVar("Result")

#: Namespace of torchvision's compiled operators.
DETECTION = "torchvision"
#: Tensors that a message names of each kind.
LISTED = 4
OTHER_WIDTH = (
    "\n  All names fit, so these are weights of the same network in another width: a pruned one, or one built with "
    "other arguments. Give the weights from before pruning, or the model.arguments that they were trained with."
)


def build(definition: Path, arguments: Mapping[str, Any]) -> nn.Module:
    """Import the file and call its `build`. Raises InputError when it does not give a network, with the reason."""
    digest = hashlib.sha256(definition.read_bytes()).hexdigest()[:12]
    spec = importlib.util.spec_from_file_location(f"secateur_model_{digest}", definition)
    if spec is None or spec.loader is None:
        message = f"{definition} is not a Python file"
        raise InputError(message)
    module = importlib.util.module_from_spec(spec)
    try:
        _with_operators(partial(spec.loader.exec_module, module))
    except Exception as error:
        package = (error.name or "").partition(".")[0] if isinstance(error, ModuleNotFoundError) else ""
        advice = _import_advice(definition, package) if package else ""
        message = f"model definition {definition} cannot be imported: {type(error).__name__}: {error}{advice}"
        raise InputError(message) from error
    if not callable(getattr(module, "build", None)):
        message = f"model definition {definition} has no function build(**arguments) that returns a torch nn.Module"
        raise InputError(message)
    try:
        model = _with_operators(partial(module.build, **arguments))
    except Exception as error:
        given = ", ".join(f"{name}={value!r}" for name, value in arguments.items())
        message = f"{definition}: build({given}) failed: {type(error).__name__}: {error}"
        raise InputError(message) from error
    if not isinstance(model, nn.Module):
        message = f"{definition}: build() returned {type(model).__name__}, expected a torch nn.Module"
        raise InputError(message)
    return model.float().eval()


def _import_advice(definition: Path, package: str) -> str:
    """Say what to do about a module that is not found: a definition is stored and loaded as one file."""
    beside = [name for name in (f"{package}.py", package) if (definition.parent / name).exists()]
    if not beside:
        return f". Install it: pip install {package}"
    return (
        f". {beside[0]} lies beside it, but a definition is one file: put what it needs into it, or install {package}"
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


def read_weights(file: Path) -> dict[str, Tensor]:
    """Read tensors by name from .safetensors, or from .pt/.pth with `weights_only=True` alone.

    Raises InputError when the file is neither or holds more than tensors.
    """
    try:
        if file.suffix == ".safetensors":
            return dict(load_file(file))
        content = load(file, map_location="cpu", weights_only=True)
    except (SafetensorError, OSError) as error:
        message = f"weights {file} cannot be read: {error}"
        raise InputError(message) from error
    except Exception as error:  # torch raises many kinds for a file that is not its own
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        message = (
            f"weights {file} cannot be read as plain tensors ({first}). Files that need unpickling of objects are "
            f"refused: save model.state_dict(), best as .safetensors."
        )
        raise InputError(message) from error
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        message = f"weights {file} hold {type(content).__name__}, expected a dictionary of tensors by name"
        raise InputError(message)
    return {name.removeprefix("module."): value for name, value in content.items()}


def load_weights(model: nn.Module, weights: Mapping[str, Tensor], source: str) -> None:
    """Copy `weights` into the model, as float32; what a stored network had beside its state_dict to its place.

    Raises InputError that lists missing, unknown and misshapen names, and says so when the widths alone differ.
    """
    weights, outside = split(weights)
    expected = model.state_dict()
    shared = [name for name in weights if name in expected]
    wrong = {
        "missing": [f"{name} {tuple(tensor.shape)}" for name, tensor in expected.items() if name not in weights],
        "unknown": [f"{name} {tuple(tensor.shape)}" for name, tensor in weights.items() if name not in expected],
        "shape": [
            f"{name} is {tuple(weights[name].shape)}, the model has {tuple(expected[name].shape)}"
            for name in shared
            if weights[name].shape != expected[name].shape
        ],
    }
    if any(wrong.values()):
        lines = [f"\n  {kind}: {each}" for kind, found in wrong.items() for each in found[:LISTED]]
        counts = ", ".join(f"{len(found)} {kind}" for kind, found in wrong.items())
        advice = "" if wrong["missing"] or wrong["unknown"] else OTHER_WIDTH
        message = f"{source} does not fit the model of {len(expected)} tensors: {counts}{''.join(lines)}{advice}"
        raise InputError(message)
    model.load_state_dict({name: tensor.to(expected[name].dtype) for name, tensor in weights.items()})
    try:
        restore(model, outside)
    except LookupError as error:
        message = f"{source} holds {', '.join(map(words, outside))}, and the model has no such place ({error})"
        raise InputError(message) from error
