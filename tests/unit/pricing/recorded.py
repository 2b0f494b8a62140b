"""Probe series that were measured once: whole files of real networks in onnxruntime, int8, on one core with AVX2."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.compress.pruning.graph import Axis
from pipeline.compress.pruning.state import NetworkState
from pipeline.pricing.nodes import FileNode
from tests.unit.pricing.known_devices import Probe

if TYPE_CHECKING:
    from collections.abc import Sequence

FOLDER = Path(__file__).parents[2] / "cases" / "probes"
SERIES = sorted(file.stem for file in FOLDER.glob("*.json"))


@dataclass(frozen=True)
class Recorded:
    """A file's nodes, its groups, and what was measured; widths were in steps of 4, some in steps of 2."""

    nodes: tuple[FileNode, ...]
    groups: dict[str, int]
    whole_ms: float
    profile: dict[str, float]
    probes: tuple[Probe, ...]


def recorded(name: str) -> Recorded:
    """Read a series."""
    data = json.loads((FOLDER / f"{name}.json").read_text())
    groups = data["groups"]
    probes = tuple(
        Probe(NetworkState(dict(zip(groups, widths, strict=True)), frozenset(dropped)), log_ratio, error)
        for widths, dropped, log_ratio, error in data["probes"]
    )
    return Recorded(tuple(map(_node, data["nodes"])), groups, data["whole_ms"], data["profile"], probes)


def _node(fields: Sequence[Any]) -> FileNode:
    name, operator, inputs, outputs, constant, attributes, blocks, integers = fields
    return FileNode(
        name,
        operator,
        tuple(map(_shape, inputs)),
        tuple(map(_shape, outputs)),
        frozenset(constant),
        attributes,
        frozenset(blocks),
        integers,
    )


def _shape(sizes: Sequence[int | str]) -> tuple[Axis, ...]:
    return tuple(Axis(0, {size: 1}) if isinstance(size, str) else Axis(size, {}) for size in sizes)
