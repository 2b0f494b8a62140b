"""Weights from a file, by name, into a network: what fits is copied as float32, what does not is listed."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from pipeline.compress.state.outside import place_words, restore_state, split_state
from pipeline.core.errors import InputError
from pipeline.network.checkpoints import leading_name, network_tensors, read_checkpoint

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

#: Tensors of each kind, or attributes, that a message names.
LISTED = 4
_OTHER_WIDTH = (
    "\n  All names fit, so these are weights of the same network with other widths: pruned, or built with other "
    "arguments. Give the weights from before pruning, or the model.arguments that they were trained with."
)


def read_weights(file: Path, key: str | None = None) -> dict[str, Tensor]:
    """Read a network's tensors by name: from .safetensors, from .pt without unpickling, or from an index's shards.

    `key` names the entry that is the network, where a file has several. Raises InputError as `read_checkpoint` and
    `network_tensors` do.
    """
    return network_tensors(read_checkpoint(file), file, key)


@dataclass(frozen=True)
class Unfit:
    """What of a file and a network did not meet, each as text with its shape: nothing where all of it fits."""

    missing: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()
    shape: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        """Say whether there is anything."""
        return bool(self.missing or self.unknown or self.shape)

    def record(self) -> dict[str, list[str]]:
        """Return it as plain JSON."""
        return {key: list(found) for key, found in vars(self).items() if found}

    @property
    def counts(self) -> str:
        """How many of each."""
        return ", ".join(f"{len(found)} {key}" for key, found in vars(self).items())


def load_weights(
    model: nn.Module, weights: Mapping[str, Tensor], source: str, *, prefix: str | None = None, strict: bool = True
) -> Unfit:
    """Copy `weights` into the model, as its own types; what a stored network had beside its state_dict to its place.

    Args:
        model: the network, changed in place.
        weights: tensors by name.
        source: where they come from, for messages.
        prefix: what stands before all names of the network; None: what is found to, such as 'module.'.
        strict: everything has to fit. Otherwise what does not is left as the model has it, and returned.

    Raises InputError that lists missing, unknown and misshapen names, and says so when the widths alone differ; and
    one for tensors that another type cannot hold: integers or complex numbers for float weights.
    """
    weights, outside = split_state(weights)
    expected = model.state_dict()
    if prefix is None:
        prefix = leading_name(weights, expected)
    elif not any(name.startswith(prefix) for name in weights):
        raise InputError(
            f"{source} has no name that begins with {prefix}, such as {next(iter(weights))}: change model.strip_prefix"
        )
    weights = _without(prefix, weights)
    unfit = _unfit(weights, expected)
    fitting = {name: tensor for name, tensor in weights.items() if _fits(name, tensor, expected)}
    if unfit and (strict or not fitting):
        raise InputError(_refusal(unfit, weights, expected, source))
    weights = fitting
    trained = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    found = {name: _converted(tensor, expected[name], trained=name in trained) for name, tensor in weights.items()}
    if faults := [f"\n  {name}: {fault}" for name, fault in found.items() if isinstance(fault, str)]:
        raise InputError(f"{source} has tensors that the model cannot take: {len(faults)}{''.join(faults[:LISTED])}")
    model.load_state_dict(found, strict=strict)
    try:
        restore_state(model, outside)
    except LookupError as error:
        raise InputError(
            f"{source} holds {', '.join(map(place_words, outside))}, and the model has no such place ({error})"
        ) from error
    return unfit


def _without(prefix: str, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Take a prefix away from the names that have it; others stay, unless their name is then taken."""
    if not prefix:
        return dict(weights)
    shorter = {name.removeprefix(prefix): tensor for name, tensor in weights.items() if name.startswith(prefix)}
    return {name: tensor for name, tensor in weights.items() if not name.startswith(prefix)} | shorter


def _fits(name: str, tensor: Tensor, expected: Mapping[str, Tensor]) -> bool:
    return name in expected and (is_lazy(expected[name]) or tensor.shape == expected[name].shape)


def _unfit(weights: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> Unfit:
    return Unfit(
        missing=tuple(f"{name} {_shape(tensor)}" for name, tensor in expected.items() if name not in weights),
        unknown=tuple(f"{name} {_shape(tensor)}" for name, tensor in weights.items() if name not in expected),
        shape=tuple(
            f"{name} is {_shape(tensor)}, the model has {_shape(expected[name])}"
            for name, tensor in weights.items()
            if name in expected and not _fits(name, tensor, expected)
        ),
    )


def _refusal(unfit: Unfit, weights: Mapping[str, Tensor], expected: Mapping[str, Tensor], source: str) -> str:
    """Say what does not fit, and what could be done."""
    lines = [f"\n  {kind}: {each}" for kind, found in vars(unfit).items() for each in found[:LISTED]]
    if not unfit.missing and not unfit.unknown:
        advice = _OTHER_WIDTH
    elif len(unfit.missing) < len(expected):
        advice = "\n  model.strict: false leaves these as they are, and lists them."
    else:
        near = {name: get_close_matches(name, weights, n=1, cutoff=0.4) for name in [*expected][:LISTED]}
        pairs = ", ".join(f"{name} may be {found[0]}" for name, found in near.items() if found)
        advice = f"\n  No name fits{f': {pairs}' if pairs else ''}. Give model.strip_prefix, or another file."
    return f"{source} does not fit the model of {len(expected)} tensors: {unfit.counts}{''.join(lines)}{advice}"


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
