"""Loads a model definition by path: a Python file that exposes `build(**arguments) -> nn.Module`.

The user's definitions and ours are loaded the same way, each under a module name of its own, so that no folder needs
to be on the import path and no registry is needed. A definition is one self-contained file; it may import installed
packages.
"""

from __future__ import annotations

import hashlib
import importlib.util
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, load, nn

from pipeline.core.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

#: Tensors that a message names of each kind.
LISTED = 4


def build(definition: Path, arguments: Mapping[str, Any]) -> nn.Module:
    """Import the file and call its `build`. Raises InputError when it does not give a network, with the reason."""
    digest = hashlib.sha256(definition.read_bytes()).hexdigest()[:12]
    spec = importlib.util.spec_from_file_location(f"secateur_model_{digest}", definition)
    if spec is None or spec.loader is None:
        message = f"{definition} is not a Python file"
        raise InputError(message)
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        message = f"model definition {definition} cannot be imported: {type(error).__name__}: {error}"
        raise InputError(message) from error
    if not callable(getattr(module, "build", None)):
        message = f"model definition {definition} has no function build(**arguments) that returns a torch nn.Module"
        raise InputError(message)
    try:
        model = module.build(**arguments)
    except Exception as error:
        given = ", ".join(f"{name}={value!r}" for name, value in arguments.items())
        message = f"{definition}: build({given}) failed: {type(error).__name__}: {error}"
        raise InputError(message) from error
    if not isinstance(model, nn.Module):
        message = f"{definition}: build() returned {type(model).__name__}, expected a torch nn.Module"
        raise InputError(message)
    return model.float().eval()


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
    """Copy `weights` into the model, as float32. Raises InputError that lists missing, unknown and misshapen names."""
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
        message = f"{source} does not fit the model of {len(expected)} tensors: {counts}{''.join(lines)}"
        raise InputError(message)
    model.load_state_dict({name: tensor.to(expected[name].dtype) for name, tensor in weights.items()})
