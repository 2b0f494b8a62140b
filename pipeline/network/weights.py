"""Weights from a file, by name, into a network: what fits is copied as float32, what does not is listed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, load, nn
from torch.nn.parameter import is_lazy

from pipeline.compress.state.outside import place_words, restore_state, split_state
from pipeline.core.errors import InputError
from pipeline.core.paths import kind_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

#: Tensors of each kind, or attributes, that a message names.
LISTED = 4
_OTHER_WIDTH = (
    "\n  All names fit, so these are weights of the same network with other widths: pruned, or built with other "
    "arguments. Give the weights from before pruning, or the model.arguments that they were trained with."
)
#: What wrappers put before every name: nn.DataParallel and its kind, torch.compile.
_PREFIXES = ("module.", "_orig_mod.")
#: Where training programs put the network among what else they save.
ENTRIES = ("state_dict", "model_state_dict", "model")


def read_weights(file: Path) -> dict[str, Tensor]:
    """Read tensors by name from .safetensors, or from .pt/.pth with `weights_only=True` alone.

    Raises InputError when the file is neither or holds more than tensors.
    """
    if kind_of(file) == "no file":
        raise InputError(f"weights {file} is a pipe or a device, expected a file")
    try:
        if file.suffix == ".safetensors":
            return dict(load_file(file))
        content = load(file, map_location="cpu", weights_only=True)
    except (SafetensorError, OSError) as error:
        raise InputError(f"weights {file} cannot be read: {error}") from error
    except Exception as error:  # torch raises many kinds for a file that is not its own
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(
            f"weights {file} cannot be read as plain tensors ({first}). Files that need unpickling of objects are "
            f"refused: save model.state_dict(), best as .safetensors."
        ) from error
    return _tensors(content, file)


def _tensors(content: Any, file: Path) -> dict[str, Tensor]:  # noqa: ANN401 - whatever the file holds
    """Return the dictionary of tensors that the file is, or has as the entry of the network."""
    found = content
    if isinstance(content, dict):
        found = next((content[name] for name in ENTRIES if isinstance(content.get(name), dict)), content)
    if isinstance(found, dict) and found and all(isinstance(value, Tensor) for value in found.values()):
        return {str(name): value for name, value in found.items()}
    kinds = {str(name): type(value).__name__ for name, value in found.items()} if isinstance(found, dict) else {}
    entries = ", ".join(f"{name} ({kind})" for name, kind in kinds.items() if kind != "Tensor")
    raise InputError(
        f"weights {file} hold {type(found).__name__}{f' with {entries[:200]}' if entries else ''}, expected a "
        f"dictionary of tensors by name, or one as {', '.join(ENTRIES)}"
    )


def load_weights(model: nn.Module, weights: Mapping[str, Tensor], source: str) -> None:
    """Copy `weights` into the model, as its own types; what a stored network had beside its state_dict to its place.

    All names may have a wrapper's prefix, such as 'module.'.

    Raises InputError that lists missing, unknown and misshapen names, and says so when the widths alone differ; and
    one for tensors that another type cannot hold: integers or complex numbers for float weights.
    """
    weights, outside = split_state(weights)
    expected = model.state_dict()
    weights = _unwrapped(weights, expected)
    shared = [name for name in weights if name in expected]
    wrong = {
        "missing": [f"{name} {_shape(tensor)}" for name, tensor in expected.items() if name not in weights],
        "unknown": [f"{name} {_shape(tensor)}" for name, tensor in weights.items() if name not in expected],
        "shape": [
            f"{name} is {_shape(weights[name])}, the model has {_shape(expected[name])}"
            for name in shared
            if not is_lazy(expected[name]) and weights[name].shape != expected[name].shape
        ],
    }
    if any(wrong.values()):
        lines = [f"\n  {kind}: {each}" for kind, found in wrong.items() for each in found[:LISTED]]
        counts = ", ".join(f"{len(found)} {kind}" for kind, found in wrong.items())
        advice = "" if wrong["missing"] or wrong["unknown"] else _OTHER_WIDTH
        raise InputError(
            f"{source} does not fit the model of {len(expected)} tensors: {counts}{''.join(lines)}{advice}"
        )
    trained = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    found = {name: _converted(tensor, expected[name], trained=name in trained) for name, tensor in weights.items()}
    if faults := [f"\n  {name}: {fault}" for name, fault in found.items() if isinstance(fault, str)]:
        raise InputError(f"{source} has tensors that the model cannot take: {len(faults)}{''.join(faults[:LISTED])}")
    model.load_state_dict(found)
    try:
        restore_state(model, outside)
    except LookupError as error:
        raise InputError(
            f"{source} holds {', '.join(map(place_words, outside))}, and the model has no such place ({error})"
        ) from error


def _unwrapped(weights: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Take away a prefix that all names have, where more of them are then the network's: a layer may be called so."""
    for prefix in _PREFIXES:
        if weights and all(name.startswith(prefix) for name in weights):
            shorter = {name.removeprefix(prefix): tensor for name, tensor in weights.items()}
            if len(shorter.keys() & expected.keys()) > len(weights.keys() & expected.keys()):
                return shorter
            deeper = _unwrapped(shorter, expected)
            if deeper is not shorter:
                return deeper
    return weights


def _shape(tensor: Tensor) -> str:
    return "of a lazy layer" if is_lazy(tensor) else str(tuple(tensor.shape))


def _converted(tensor: Tensor, expected: Tensor, *, trained: bool) -> Tensor | str:
    """Return a tensor in the type that is expected, or why that would be another one.

    Floats are rounded to the precision expected. Every other change of type must be exact, and weights that are trained
    are floats: integers in their place are quantized ones, which mean nothing without their scales.
    """
    if tensor.is_meta:
        return "is on the meta device and holds no values"
    if tensor.is_quantized:
        return f"is quantized by torch ({_name(tensor.dtype)}): save tensor.dequantize()"
    plain = tensor if tensor.layout is torch.strided else tensor.to_dense()
    given, wanted = plain.dtype, expected.dtype
    if given.is_complex and not wanted.is_complex:
        return f"is {_name(given)}, the model has {_name(wanted)}: the imaginary part would be lost"
    if trained and wanted.is_floating_point and not given.is_floating_point:
        return (
            f"is {_name(given)}, the model has {_name(wanted)}: integers are quantized weights, which need their "
            "scales. Save the float weights; if these are the numbers themselves, save tensor.float()"
        )
    result = plain.to(wanted)
    if trained and bool(result.isnan().any()):
        return "has values that are not a number"
    return result if _kept(plain, result) else f"has values that {_name(wanted)}, which the model has, cannot hold"


def _kept(given: Tensor, result: Tensor) -> bool:
    """Say whether a conversion kept every value: floats up to rounding, all others exactly."""
    if given.is_floating_point() and result.is_floating_point():
        return torch.equal(given.isfinite(), result.isfinite())
    return given.dtype == result.dtype or torch.equal(result.to(given.dtype), given)


def _name(kind: torch.dtype) -> str:
    return str(kind).removeprefix("torch.")
