"""How many weights each layer keeps, and which: from scores and a density to masks."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from pipeline.compress.sparsity.patterns import ANYWHERE, Pattern, block_scores, n_of_m_mask, spread_blocks
from pipeline.core.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from pipeline.compress.sparsity.layers import SparseLayer
    from pipeline.compress.sparsity.names import SparsityScope


@dataclass(frozen=True)
class SparsityAim:
    """What share of the weights stays, how it is divided among layers, and where zeros may lie."""

    density: float
    scope: SparsityScope
    pattern: Pattern = ANYWHERE


def chosen_masks(scores: Mapping[str, Tensor], layers: Sequence[SparseLayer], aim: SparsityAim) -> dict[str, Tensor]:
    """Return the masks (bool, true where a weight stays) of the best scores, by the name of the parameter.

    A score of -inf is that of a weight that is zero for good: it never stays. Ties go to the first.

    Raises:
        InputError: channels do not divide by the pattern, or a layer would be left empty.
    """
    aim.pattern.require_fit(layers)
    if aim.pattern.of:
        found = {
            each.name: n_of_m_mask(scores[each.name], aim.pattern.kept, aim.pattern.of, each.inputs) for each in layers
        }
    else:
        units = {each.name: _units(scores[each.name], each, aim.pattern) for each in layers}
        kept = _best_overall(units, aim) if aim.scope == "global" else _best_in_each(units, layers, aim)
        found = {each.name: _spread(kept[each.name], each, aim.pattern) for each in layers}
    return {name: mask & torch.isfinite(scores[name]) for name, mask in found.items()}


def layer_densities(layers: Sequence[SparseLayer], density: float, scope: SparsityScope) -> dict[str, float]:
    """Return the density of each layer by its shape alone; with `global`, which looks at scores, the same in each."""
    if scope != "erk":
        return {each.name: density for each in layers}
    return erk_densities({each.name: tuple(each.weight.shape) for each in layers}, density)


def erk_densities(shapes: Mapping[str, Sequence[int]], density: float) -> dict[str, float]:
    """Return densities in proportion to (sum of dimensions) / (product of dimensions), none above 1.

    Layers that would pass 1 become dense, and the factor is solved again for the others, until none does: the share of
    weights that stays is `density` all the same. Source: Erdos-Renyi-Kernel of Evci et al., "Rigging the Lottery" (ICML
    2020), after Mocanu et al. 2018. It gives narrow layers more, and about twice the operations of equal densities.
    """
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    raw = {name: sum(shape) / sizes[name] for name, shape in shapes.items()}
    budget, dense = density * sum(sizes.values()), set[str]()
    while True:
        free = raw.keys() - dense
        left = budget - sum(sizes[name] for name in dense)
        factor = left / sum(raw[name] * sizes[name] for name in free) if free else 0.0
        over = {name for name in free if factor * raw[name] > 1}
        if not over:
            return {name: 1.0 if name in dense else factor * raw[name] for name in shapes}
        dense |= over


def kept_count(density: float, size: int, layer: str) -> int:
    """Return how many of `size` units a density keeps, to the nearest. Raises InputError when that is none."""
    count = min(size, round(density * size))
    if count < 1:
        raise InputError(
            f"density: {density:.3g} leaves {layer} empty, which has {size} to keep or cut: allowed at least "
            f"{0.5 / size:.2g}, or name it in keep"
        )
    return count


def _units(scores: Tensor, layer: SparseLayer, pattern: Pattern) -> Tensor:
    if pattern.block == 1:
        return scores
    return block_scores(scores, pattern.block, layer.outputs, layer.inputs)


def _spread(mask: Tensor, layer: SparseLayer, pattern: Pattern) -> Tensor:
    if pattern.block == 1:
        return mask
    return spread_blocks(mask, layer.weight.shape, pattern.block, layer.outputs, layer.inputs)


def _best_in_each(units: Mapping[str, Tensor], layers: Sequence[SparseLayer], aim: SparsityAim) -> dict[str, Tensor]:
    densities = layer_densities(layers, aim.density, aim.scope)
    return {
        each.name: top_mask(units[each.name], kept_count(densities[each.name], units[each.name].numel(), each.layer))
        for each in layers
    }


def _best_overall(units: Mapping[str, Tensor], aim: SparsityAim) -> dict[str, Tensor]:
    """Keep the best units of all layers. Raises InputError when a layer has none of them."""
    flat = torch.cat([values.flatten() for values in units.values()])
    mask = top_mask(flat, kept_count(aim.density, flat.numel(), "the network"))
    parts = torch.split(mask, [values.numel() for values in units.values()])
    found = {name: part.reshape(units[name].shape) for (name, part) in zip(units, parts, strict=True)}
    empty = [name for name, part in found.items() if not bool(part.any())]
    if empty:
        raise InputError(
            f"density: {aim.density:.3g} with scope global leaves {empty[0]} empty: raise density, use scope layer or "
            "erk, or name the layer in keep"
        )
    return found


def top_mask(scores: Tensor, count: int) -> Tensor:
    """Return the mask of the `count` largest of these scores; ties go to the first."""
    order = torch.argsort(scores.flatten(), descending=True, stable=True)[:count]
    mask = torch.zeros(scores.numel(), dtype=torch.bool, device=scores.device)
    mask[order] = True
    return mask.reshape(scores.shape)
