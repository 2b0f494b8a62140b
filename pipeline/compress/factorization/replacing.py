"""Layers of a network replaced by their factors, and factors by the one layer that they are, in place."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from pipeline.compress.factorization.legs import build_legs, layer_matrix, set_weights
from pipeline.compress.factorization.merging import merge_back, merged_layer
from pipeline.compress.factorization.options import factor_weights
from pipeline.compress.factorization.sites import Site, calls_of

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from torch import Tensor

    from pipeline.compress.factorization.legs import Factor


def place_factors(model: nn.Module, factors: Mapping[str, Factor]) -> None:
    """Put legs without weights in the place of layers, in place: what loading a network does before its tensors.

    Raises AttributeError where there is no such layer, ValueError where its factor does not fit it.
    """
    for name, factor in factors.items():
        model.set_submodule(name, build_legs(model.get_submodule(name), factor), strict=True)


def place_merged(model: nn.Module, names: Collection[str]) -> None:
    """Put one layer without weights in the place of legs, in place. Raises ValueError where they are no legs."""
    for name in names:
        model.set_submodule(name, merged_layer(_legs(model, name)), strict=True)


def factor_layers(model: nn.Module, factors: Mapping[str, Factor], grams: Mapping[str, Tensor]) -> None:
    """Factorise layers in place, with the least error on inputs of these second moments; without a Gram matrix plainly.

    Cost: the SVDs of each layer.
    """
    for name, factor in factors.items():
        layer = model.get_submodule(name)
        legs = build_legs(layer, factor)
        set_weights(legs, factor_weights(layer_matrix(layer), factor, grams.get(name)))
        model.set_submodule(name, legs, strict=True)


def merge_layers(model: nn.Module, names: Iterable[str]) -> None:
    """Merge legs back into one layer each, in place. Raises ValueError where they are no legs of one layer."""
    for name in names:
        model.set_submodule(name, merge_back(_legs(model, name)), strict=True)


def above_break_even(model: nn.Module, names: Iterable[str], example: tuple[Tensor, ...]) -> list[str]:
    """Return those of the factorised layers whose legs do not cost less than one layer, in operations or parameters.

    Cost: one forward pass of the example.
    """
    legs = {f"{name}.{number}": leg for name in names for number, leg in enumerate(_legs(model, name))}
    calls = calls_of(model, legs, example)
    found = []
    for name in names:
        own = [
            Site(each, leg, (), calls[each])
            for each, leg in legs.items()
            if each.rpartition(".")[0] == name and each in calls
        ]
        if not own:
            continue
        whole = Site(name, merged_layer(_legs(model, name)), (), own[0].sizes).cost
        macs, parameters = (sum(getattr(each.cost, key) for each in own) for key in ("macs", "parameters"))
        if macs >= whole.macs or parameters >= whole.parameters:
            found.append(name)
    return found


def _legs(model: nn.Module, name: str) -> nn.Sequential:
    found = model.get_submodule(name)
    if not isinstance(found, nn.Sequential):
        raise ValueError(f"{name} is {type(found).__name__}, expected the legs of a factorised layer")  # noqa: TRY004 - as for other unfit layers
    return found
