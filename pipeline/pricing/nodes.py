"""The nodes of an exported file with every size a function of the widths that a network keeps."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pipeline.compress.pruning.graph import Axis


@dataclass(frozen=True)
class FileNode:
    """One node of a file, as a function of the state.

    Attributes:
        name: as in the file.
        operator: as in the file; QuantizeLinear and DequantizeLinear are nodes too.
        inputs: the shape of every input, weights included; () for a scalar or an input that is absent.
        outputs: the shape of every output.
        constant: which inputs are weights, also those that come through a DequantizeLinear.
        attributes: kernel_shape, strides, group and so on; `group` is that of the whole network.
        blocks: the residual blocks whose removal takes this node away.
        integers: the node computes in 8-bit integers: what it multiplies comes through a DequantizeLinear.
    """

    name: str
    operator: str
    inputs: tuple[tuple[Axis, ...], ...]
    outputs: tuple[tuple[Axis, ...], ...]
    constant: frozenset[int] = frozenset()
    attributes: Mapping[str, Any] = field(default_factory=dict)
    blocks: frozenset[str] = frozenset()
    integers: bool = False
