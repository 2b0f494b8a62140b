"""Which channels of a network's maps are left after structural edits: those that a pruned network shares with it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from pipeline.compress.pruning.graph.capture import record_values
from pipeline.compress.pruning.graph.labels import SYMBOLIC, Value

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from pipeline.compress.pruning.graph.capture import CapturedGraph
    from pipeline.compress.pruning.graph.walk import Walk

Slot = tuple[str, int]
_LEG = re.compile(r"(?P<layer>.+)\.(?P<number>\d+)\.(?P<tensor>weight|bias)")


def composed_keep(edits: Iterable[Mapping[str, Any]], shapes: Mapping[str, Sequence[int]]) -> dict[str, dict[int, Any]]:
    """Return the indices of the first network's tensors that are left after all edits, by tensor and dimension.

    Each edit of network.json counts in the network that the one before it made. `shapes` are those of the first
    network; of factorised layers, the first leg's inputs and the last leg's outputs are those of the layer.
    """
    left: dict[Slot, NDArray[np.int64]] = {}
    last_leg: dict[str, int] = {}
    for edit in edits:
        for name in edit.get("merge", ()):
            last_leg.pop(name, None)
        for name, dims in edit.get("keep", {}).items():
            for dim, indices in dims.items():
                slot = _original_slot(name, int(dim), last_leg)
                if slot is not None and slot[0] in shapes:
                    before = left.get(slot, np.arange(shapes[slot[0]][slot[1]]))
                    left[slot] = before[np.asarray(indices, np.int64)]
        for name, factor in edit.get("factor", {}).items():
            last_leg[name] = 2 if factor["kind"] == "tucker" else 1
    composed: dict[str, dict[int, Any]] = {}
    for (name, dim), indices in left.items():
        composed.setdefault(name, {})[dim] = indices
    return composed


def _original_slot(name: str, dim: int, last_leg: Mapping[str, int]) -> Slot | None:
    """Return the tensor and dimension of the layer that a leg's are; None for the ranks between legs."""
    leg = _LEG.fullmatch(name)
    if leg is None or leg["layer"] not in last_leg:
        return name, dim
    number = int(leg["number"])
    outer = (number == last_leg[leg["layer"]] and dim == 0) or (number == 0 and dim == 1)
    return (f"{leg['layer']}.{leg['tensor']}", dim) if outer else None


def surviving_channels(
    walk: Walk,
    captured: CapturedGraph,
    keep: Mapping[str, Mapping[int, Iterable[int]]],
    maps: Mapping[str, Tensor],
) -> dict[str, Tensor]:
    """Return for each layer the channels [C'] of its map that a plan leaves, ascending.

    Args:
        walk: the labelled graph of the network before any edit.
        captured: its graph.
        keep: what is left of its tensors (`composed_keep`).
        maps: the layers' outputs [N, C, H, W] for the captured example: they have to be what the graph computes.

    A layer whose output is not found in the graph is left out.
    """
    found = {name: _node_of(name, captured, walk.values) for name in maps}
    nodes = {name: node for name, node in found.items() if node}
    with torch.no_grad():
        values = record_values(captured, set(nodes.values()), captured.example)
    removed = walk.removed(keep)
    result = {}
    for name, node in nodes.items():
        if values[node].shape == maps[name].shape and torch.allclose(values[node], maps[name], rtol=1e-3, atol=1e-4):
            stays = walk.stays(walk.values[node].labels[1], maps[name].shape[1], removed)
            result[name] = torch.from_numpy(np.flatnonzero(stays))
    return result


def _node_of(layer: str, captured: CapturedGraph, values: Mapping[str, Any]) -> str:
    """Return the last node within a layer's forward that has maps of images; empty where there is none."""
    last = ""
    for node in captured.module.graph.nodes:
        inside = any(path == layer for path, _ in node.meta.get("nn_module_stack", {}).values())
        value = values.get(node.name)
        if inside and node.op == "call_function" and isinstance(value, Value) and _is_map(value):
            last = node.name
    return last


def _is_map(value: Value) -> bool:
    return len(value.shape) == 4 and value.shape[1] < SYMBOLIC  # noqa: PLR2004 - [N, C, H, W]
